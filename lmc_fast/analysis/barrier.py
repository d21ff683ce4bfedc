"""Loss and accuracy along the line between two models, and the barriers on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from .._batches import check_batches
from .._calls import Forward, check_forward
from .._checks import check_floats, check_int
from .._models import Model, check_ties, copied, load_tensors, tensors_of, unwrapped
from .._modes import neutral
from .._progress import Progress, tracking
from .._results import Result, axes_to_draw_on
from ..matching.results.matching import Match
from ..merging import interpolate
from ..repairing import has_batchnorm, reestimate_in_place
from .evaluation import LossFn, Score, check_loss_fn, evaluate_many, first_names
from .temperature import Tempered, calibrate_temperature

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["BarrierCurve", "lambdas_of", "loss_barrier", "scores_of", "states_at_once"]

# Bytes of interpolated weights that are held at a time.
_HELD = 1 << 28
Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class BarrierCurve(Result):
    """Loss and accuracy at theta(lam) = (1 - lam) theta_a + lam pi(theta_b).

    Attributes:
        lambdas: float64 [points], rising; 0, 1/2 and 1 are among them.
        loss: float64 [points], mean over the examples.
        accuracy: float64 [points], share of right answers; None where outputs and targets are no classification.
        batchnorm: statistics "as interpolated", or "re-estimated" at every lambda; None without BatchNorm.
        temperatures: float64 [points], what the logits were divided by, where they were calibrated; else None.
    """

    lambdas: Array
    loss: Array
    accuracy: Array | None
    batchnorm: str | None
    temperatures: Array | None = None
    derived: ClassVar[tuple[str, ...]] = (
        *("barrier", "midpoint_barrier", "midpoint_loss", "accuracy_barrier", "midpoint_accuracy"),
    )

    @property
    def excess(self) -> Array:
        """Loss above the straight line between the ends: L(theta(lam)) - ((1-lam) L(theta_a) + lam L(theta_b))."""
        return self.loss - self._chord(self.loss)

    @property
    def barrier(self) -> float:
        """The loss barrier: the largest excess over the points (0 at least, as the ends are among them)."""
        return float(self.excess.max())

    @property
    def midpoint_barrier(self) -> float:
        """The excess at lam = 1/2; below zero where the midpoint is better than the ends' mean."""
        return float(self.excess[self._middle])

    @property
    def midpoint_loss(self) -> float:
        """The loss at lam = 1/2."""
        return float(self.loss[self._middle])

    @property
    def accuracy_barrier(self) -> float | None:
        """How far accuracy falls below the line between the ends, at worst."""
        return None if self.accuracy is None else float((self._chord(self.accuracy) - self.accuracy).max())

    @property
    def midpoint_accuracy(self) -> float | None:
        """The accuracy at lam = 1/2."""
        return None if self.accuracy is None else float(self.accuracy[self._middle])

    @property
    def _middle(self) -> int:
        return int(np.flatnonzero(self.lambdas == 0.5)[0])

    def _chord(self, values: Array) -> Array:
        start, end = values[self.lambdas == 0.0][0], values[self.lambdas == 1.0][0]
        chord: Array = (1.0 - self.lambdas) * start + self.lambdas * end
        return chord

    def plot(self, axes: Axes | None = None, *, label: str | None = None, color: str | None = None) -> Axes:
        """Draw the loss along the line, and dotted the straight line between the ends that barriers are above.

        Args:
            axes: of matplotlib, to draw on; None: of a new figure.
            label: of the curve; None: its barrier.
            color: matplotlib's; None: the next of its cycle.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is not installed; the message names the extra.
        """
        axes = axes_to_draw_on(axes)
        (line,) = axes.plot(self.lambdas, self.loss, color=color, label=label or f"barrier {self.barrier:.3g}")
        axes.plot([0, 1], [self.loss[0], self.loss[-1]], ":", color=line.get_color(), linewidth=1)
        axes.set(xlim=(0, 1), xlabel=r"$\lambda$: from model a (0) to model b (1)", ylabel="loss")
        axes.legend(frameon=False)
        return axes

    def __str__(self) -> str:
        lines = [
            f"BarrierCurve over {self.lambdas.size} points"
            + (f", BatchNorm statistics {self.batchnorm}" if self.batchnorm else ""),
            f"  loss: {self.loss[0]:.4f} .. {self.midpoint_loss:.4f} (middle) .. {self.loss[-1]:.4f}; "
            f"barrier {self.barrier:.4f}, at the middle {self.midpoint_barrier:+.4f}",
        ]
        if self.accuracy is not None:
            lines.append(
                f"  accuracy: {self.accuracy[0]:.4f} .. {self.midpoint_accuracy:.4f} (middle) .. "
                f"{self.accuracy[-1]:.4f}"
            )
        return "\n".join(lines)


@neutral
def loss_barrier(
    model_a: nn.Module,
    model_b: Model,
    batches: Iterable[Any],
    match: Match = None,
    *,
    lambdas: int | Sequence[float] = 25,
    loss_fn: LossFn = nn.functional.cross_entropy,
    forward: Forward | None = None,
    batchnorm_batches: Iterable[Any] | None = None,
    temperature_batches: Iterable[Any] | None = None,
    progress: Progress = False,
) -> BarrierCurve:
    """Measure loss and accuracy along the line from model a to the moved model b.

    The barrier is that of Ito et al. (ICLR 2025), after Frankle et al. (2020) and Entezari et al. (2022):
    B = max over lam of L(theta(lam)) - ((1-lam) L(theta_a) + lam L(pi(theta_b))).

    Args:
        model_a: a module; evaluated in eval mode on a copy, left as it is.
        model_b: a module or a state dict of the same architecture.
        batches: (inputs, targets) pairs that can be gone through again for every lambda. `_batches` tells what else a
            batch may be.
        match: a `Matching`, `Permutations` or `Transforms` for model b; None: as it is.
        lambdas: how many evenly spaced points, or the points; 0, 1/2 and 1 are added where they are missing.
        loss_fn, forward: as of `evaluate`.
        batchnorm_batches: where given, BatchNorm statistics are re-estimated on these at every lambda, the ends
            included, as by `reestimate_batchnorm`; else they are interpolated as weights are.
        temperature_batches: where given, logits are divided at every lambda, the ends included, by the temperature that
            fits these batches best, as by `calibrate_temperature` (Ito et al., arXiv 2510.08023). Accuracy stays.
        progress: True for a bar, a function (description, done, total), or a `Logger`.

    Returns:
        A `BarrierCurve`.

    Raises:
        TypeError: an argument of the wrong kind; `batches` that can be gone through only once.
        ValueError: models of different shapes, no batches, or lambdas outside 0..1.
    """
    model_a = unwrapped("model_a", model_a)
    batches = check_batches("batches", batches)
    check_loss_fn(loss_fn)
    check_forward(forward)
    if batchnorm_batches is not None:
        batchnorm_batches = check_batches("batchnorm_batches", batchnorm_batches)
    if temperature_batches is not None:
        temperature_batches = check_batches("temperature_batches", temperature_batches)
    points = lambdas_of(lambdas)
    state = tensors_of("model_a", model_a)
    probe = copied(model_a)
    step = states_at_once(state)
    scores: list[Score] = []
    temperatures: list[float] = []
    with tracking(progress, "barrier", len(points)) as advance:
        for start in range(0, len(points), step):
            chunk = points[start : start + step]
            merged = interpolate(state, model_b, chunk, match)
            if temperature_batches is None:
                found = scores_of(probe, merged, batches, loss_fn, batchnorm_batches, forward)
            else:
                found = []
                for state in merged:
                    _load(probe, state, batchnorm_batches, forward)
                    temperatures.append(calibrate_temperature(probe, temperature_batches, forward=forward).temperature)
                    tempered = Tempered(probe, temperatures[-1])
                    found += evaluate_many(tempered, [{}], batches, loss_fn, forward)
            for lam, score in zip(chunk, found, strict=True):
                accuracy = {} if score[1] is None else {"accuracy": score[1]}
                advance(f"lambda {lam:.2f}: loss {score[0]:.4f}", **{"lambda": lam, "loss": score[0], **accuracy})
            scores += found
    accuracies = [accuracy for _, accuracy in scores if accuracy is not None]
    return BarrierCurve(
        lambdas=np.array(points),
        loss=np.array([loss for loss, _ in scores]),
        accuracy=np.array(accuracies) if len(accuracies) == len(points) else None,
        batchnorm=None
        if not has_batchnorm(model_a)
        else "as interpolated"
        if batchnorm_batches is None
        else "re-estimated",
        temperatures=np.array(temperatures) if temperatures else None,
    )


def lambdas_of(lambdas: int | Sequence[float]) -> list[float]:
    """The points to look at, rising, with 0, 1/2 and 1 among them; ValueError for one outside 0..1."""
    if hasattr(lambdas, "__len__"):
        values = check_floats("lambdas", lambdas)
    else:
        count = check_int("lambdas", lambdas, 2)
        # Quotients, for an odd count to hold 1/2 exactly.
        values = [i / (count - 1) for i in range(count)]
    for value in values:
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"lambdas must lie in 0..1, got {value}")
    return sorted({*values, 0.0, 0.5, 1.0})


def states_at_once(state: Mapping[str, Tensor]) -> int:
    """How many sets of such weights to hold at a time; 1 at least."""
    return max(1, _HELD // max(1, sum(tensor.nbytes for tensor in state.values())))


def scores_of(
    probe: nn.Module,
    states: Sequence[Mapping[str, Tensor]],
    batches: Iterable[Any],
    loss_fn: LossFn,
    batchnorm_batches: Iterable[Any] | None = None,
    forward: Forward | None = None,
) -> list[Score]:
    """Loss and accuracy of a model with each of these state dicts.

    Args:
        probe: a copy of the model of one's own; what it holds in the end is not said.
        batchnorm_batches: where given, BatchNorm statistics are re-estimated on these for every state.
    """
    if batchnorm_batches is not None and has_batchnorm(probe):
        scores = []
        for state in states:
            _load(probe, state, batchnorm_batches, forward)
            scores += evaluate_many(probe, [{}], batches, loss_fn, forward)
        return scores
    for state in states:
        check_ties(probe, state)
    names = first_names(probe)
    return evaluate_many(probe, [{name: state[name] for name in names} for state in states], batches, loss_fn, forward)


def _load(
    probe: nn.Module, state: Mapping[str, Tensor], batchnorm_batches: Iterable[Any] | None, forward: Forward | None
) -> None:
    """Put weights into a model of one's own, and measure its BatchNorm statistics where there are batches for that."""
    load_tensors(probe, dict(state))
    if batchnorm_batches is not None and has_batchnorm(probe):
        reestimate_in_place(probe, batchnorm_batches, forward=forward, argument="batchnorm_batches")

"""Loss over the plane through three models."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from .._batches import check_batches
from .._calls import Forward, check_forward
from .._checks import check_finite, check_int
from .._derived import derived_weights, effective_tensors
from .._models import Model, check_same_tensors, copied, counted_names, tensors_of, unwrapped
from .._modes import neutral
from .._progress import Progress, tracking
from .._results import Result, axes_to_draw_on
from ..matching.engine.sums import squared_distance
from ..matching.results.matching import Match, choice_of
from ..merging import weighted_sums
from .barrier import scores_of, states_at_once
from .evaluation import LossFn, Score, check_loss_fn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["LossLandscape", "loss_landscape"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LossLandscape(Result):
    """Loss and accuracy on a grid in the plane through three models, in units of distance between weights.

    Attributes:
        x, y: float64 [columns] and [rows], coordinates of the grid; the first model is at (0, 0), the second at
            (distance, 0).
        loss: float64 [rows, columns].
        accuracy: float64 [rows, columns]; None where outputs and targets are no classification.
        positions: float64 [3, 2], where the three models are.
    """

    x: Array = field(repr=False)
    y: Array = field(repr=False)
    loss: Array = field(repr=False)
    accuracy: Array | None = field(repr=False)
    positions: Array

    def plot(self, axes: Axes | None = None, *, names: Sequence[str] = ("a", "b", "c")) -> Axes:
        """Draw the loss as contours on a logarithmic scale of colours, with the three models.

        Args:
            axes: of matplotlib, to draw on; None: of a new figure.
            names: of the models.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is not installed; the message names the extra.
        """
        axes = axes_to_draw_on(axes, width=5.6, height=5.0)
        low, high = max(float(self.loss.min()), 1e-6), max(float(self.loss.max()), 2e-6)
        levels = np.geomspace(low, high, 16)
        drawn = axes.contourf(self.x, self.y, self.loss, levels=levels, cmap="viridis", extend="both")
        for name, (x, y) in zip(names, self.positions, strict=True):
            axes.plot(x, y, "o", color="white", markeredgecolor="black")
            # Towards the middle, where there is room.
            is_right = x > (self.x[0] + self.x[-1]) / 2
            place = (-6 if is_right else 6, 6)
            told = axes.annotate(name, (x, y), place, textcoords="offset points", color="white", weight="bold")
            told.set_horizontalalignment("right" if is_right else "left")
        axes.set(xlabel="distance between weights", aspect="equal")
        figure = axes.get_figure()
        assert figure is not None
        figure.colorbar(drawn, ax=axes, label="loss", format="%.2g")
        return axes

    def __str__(self) -> str:
        places = ", ".join(f"({x:.2f}, {y:.2f})" for x, y in self.positions)
        return (
            f"LossLandscape of {self.y.size} x {self.x.size} points: loss {self.loss.min():.4f} to "
            f"{self.loss.max():.4f}, models at {places}"
        )


@neutral
def loss_landscape(
    models: Sequence[Model],
    batches: Iterable[Any],
    matches: Sequence[Match] | None = None,
    *,
    points: int = 15,
    margin: float = 0.2,
    loss_fn: LossFn = nn.functional.cross_entropy,
    forward: Forward | None = None,
    batchnorm_batches: Iterable[Any] | None = None,
    progress: Progress = False,
) -> LossLandscape:
    """Loss and accuracy over the plane through three models, each moved by its match.

    The axes are those of Garipov et al. (NeurIPS 2018), appendix A: x from the first model to the second, and y at a
    right angle to it, towards the third. Distances are over weights; running statistics are combined with the same
    shares as the weights, variances not below zero.

    Args:
        models: three of one architecture; the first a module, evaluated in eval mode and left as it is.
        batches: (inputs, targets) pairs that can be gone through again and again. `_batches` tells what else a batch
            may be.
        matches: as for `merge`: for each model its `Matching`, `Permutations` or `Transforms`, or None; None: all stay
            as they are.
        points: of the grid along each axis, 2 at least.
        margin: how far the grid goes beyond the models, as a share of their extent along each axis.
        loss_fn, forward: as of `evaluate`.
        batchnorm_batches: where given, BatchNorm statistics are re-estimated on these at every point.
        progress: True for a bar, a function (description, done, total), or a `Logger`.

    Returns:
        A `LossLandscape`.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: not three models, models of different shapes, no batches, or models on one line.
    """
    if isinstance(models, (str, nn.Module)) or not isinstance(models, Sequence) or len(models) != 3:
        raise ValueError("models must be a sequence of three models")
    model = unwrapped("models[0]", models[0])
    batches = check_batches("batches", batches)
    if batchnorm_batches is not None:
        batchnorm_batches = check_batches("batchnorm_batches", batchnorm_batches)
    check_loss_fn(loss_fn)
    check_forward(forward)
    count, beyond = check_int("points", points, 2), check_finite("margin", margin)
    given: Sequence[Match] = [None] * 3 if matches is None else matches
    if len(given) != 3:
        raise ValueError(f"matches must have one entry for each of the 3 models, got {len(given)}")
    states = []
    for i, (each, match) in enumerate(zip(models, given, strict=True)):
        choice = choice_of(f"matches[{i}]", match)
        states.append(tensors_of(f"models[{i}]", each if choice is None else choice.apply(each)))
        states[i] = check_same_tensors(f"models[{i}]", states[i], "models[0]", states[0])
    positions = _positions(model, states)
    x, y = (_ticks(positions[:, k], count, beyond) for k in range(2))
    rows = [_shares(positions, across, up) for up, across in itertools.product(y, x)]
    step, probe = states_at_once(states[0]), copied(model)
    scores: list[Score] = []
    with tracking(progress, "landscape", len(rows)) as advance:
        for start in range(0, len(rows), step):
            merged = weighted_sums(states, rows[start : start + step], model)
            for state in merged:
                for name, tensor in state.items():
                    # Beyond the models a sum of variances may fall below zero.
                    if name.rpartition(".")[2] == "running_var":
                        tensor.clamp_min_(0)
            found = scores_of(probe, merged, batches, loss_fn, batchnorm_batches, forward)
            for loss, _ in found:
                advance(f"loss {loss:.4f}", loss=loss)
            scores += found
    accuracies = [accuracy for _, accuracy in scores if accuracy is not None]
    return LossLandscape(
        x=x,
        y=y,
        loss=np.array([loss for loss, _ in scores]).reshape(count, count),
        accuracy=np.array(accuracies).reshape(count, count) if len(accuracies) == len(rows) else None,
        positions=positions,
    )


def _positions(model: nn.Module, states: Sequence[dict[str, Tensor]]) -> Array:
    """Where the three models are: float64 [3, 2]. ValueError where they lie on one line."""
    derived = derived_weights(model, states[0])
    states = [effective_tensors(state, derived) for state in states]
    names = counted_names(model, states[0])
    squares = [
        sum(squared_distance(a[name], b[name].to(a[name].device), (None,) * a[name].ndim) for name in names)
        for a, b in itertools.combinations(states, 2)
    ]
    ab, ac, bc = squares
    if ab > 0:
        # <w2 - w1, w3 - w1> by the law of cosines.
        along = (ab + ac - bc) / 2 / math.sqrt(ab)
        height = ac - along**2
        if height > 1e-9 * max(squares):
            return np.array([[0.0, 0.0], [math.sqrt(ab), 0.0], [along, math.sqrt(height)]])
    raise ValueError("models must not lie on one line: they span no plane")


def _ticks(places: Array, count: int, margin: float) -> Array:
    low, high = float(places.min()), float(places.max())
    extent = margin * (high - low)
    return np.linspace(low - extent, high + extent, count)


def _shares(positions: Array, x: float, y: float) -> list[float]:
    """Weights of the three models at a point of the plane; they sum to 1."""
    third = y / positions[2, 1]
    second = (x - third * positions[2, 0]) / positions[1, 0]
    return [1.0 - second - third, second, third]

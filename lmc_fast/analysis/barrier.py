"""Loss and accuracy along the line between two models, and the barriers on it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .._checks import check_floats, check_int, check_type, fail_type
from .._models import Model, check_batches, device_of, modes_kept, tensors_of
from .._progress import Progress, tracking
from ..matching import Matching
from ..merging import interpolate
from ..repair import has_batchnorm, reestimate_in_place
from ..symmetry import Permutations

__all__ = ["BarrierCurve", "evaluate", "loss_barrier"]

LossFn = Callable[[Tensor, Tensor], Tensor]
Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class BarrierCurve:
    """Loss and accuracy at theta(lam) = (1 - lam) theta_a + lam pi(theta_b).

    Attributes:
        lambdas: float64 [points], rising; 0, 1/2 and 1 are among them.
        loss: float64 [points], mean over the examples.
        accuracy: float64 [points], share of right answers; None where outputs and targets are no classification.
        batchnorm: statistics "as interpolated", or "re-estimated" at every lambda; None without BatchNorm.
    """

    lambdas: Array
    loss: Array
    accuracy: Array | None
    batchnorm: str | None

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


def loss_barrier(
    model_a: nn.Module,
    model_b: Model,
    batches: Iterable[tuple[Tensor, Tensor]],
    match: Matching | Permutations | None = None,
    *,
    lambdas: int | Sequence[float] = 25,
    loss_fn: LossFn = nn.functional.cross_entropy,
    batchnorm_batches: Iterable[Any] | None = None,
    progress: Progress = False,
) -> BarrierCurve:
    """Measure loss and accuracy along the line from model a to the permuted model b.

    The barrier is that of Ito et al. (ICLR 2025), after Frankle et al. (2020) and Entezari et al. (2022):
    B = max over lam of L(theta(lam)) - ((1-lam) L(theta_a) + lam L(pi(theta_b))).

    Args:
        model_a: a module; evaluated in eval mode on a copy, left as it is.
        model_b: a module or a state dict of the same architecture.
        batches: (inputs, targets) pairs that can be gone through again for every lambda.
        match: permutations for model b; None: as it is.
        lambdas: how many evenly spaced points, or the points; 0, 1/2 and 1 are added where they are missing.
        loss_fn: mean loss of a batch from (outputs, targets).
        batchnorm_batches: where given, BatchNorm statistics are re-estimated on these at every lambda, the ends
            included; else they are interpolated as weights are.
        progress: True for a bar, or a function (description, done, total).

    Returns:
        A `BarrierCurve`.

    Raises:
        TypeError: an argument of the wrong kind; `batches` that can be gone through only once.
        ValueError: models of different shapes, no batches, or lambdas outside 0..1.
    """
    check_type("model_a", model_a, nn.Module, "a torch.nn.Module")
    batches = check_batches("batches", batches)
    if not callable(loss_fn):
        fail_type("loss_fn", "a function of (outputs, targets)", loss_fn)
    if batchnorm_batches is not None:
        batchnorm_batches = check_batches("batchnorm_batches", batchnorm_batches)
    points = _points(lambdas)
    state = tensors_of("model_a", model_a)
    probe = copy.deepcopy(model_a).eval()
    losses, accuracies = [], []
    with tracking(progress, "barrier", len(points)) as advance:
        for lam in points:
            probe.load_state_dict(interpolate(state, model_b, lam, match))
            if batchnorm_batches is not None:
                reestimate_in_place(probe, batchnorm_batches)
            loss, accuracy = evaluate(probe, batches, loss_fn=loss_fn)
            losses.append(loss)
            accuracies.append(accuracy)
            advance(f"lambda {lam:.2f}: loss {loss:.4f}")
    found = [accuracy for accuracy in accuracies if accuracy is not None]
    return BarrierCurve(
        lambdas=np.array(points),
        loss=np.array(losses),
        accuracy=np.array(found) if len(found) == len(points) else None,
        batchnorm=None
        if not has_batchnorm(model_a)
        else "as interpolated"
        if batchnorm_batches is None
        else "re-estimated",
    )


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    loss_fn: LossFn = nn.functional.cross_entropy,
) -> tuple[float, float | None]:
    """Mean loss over all examples and, of a classifier, the share of right answers.

    Args:
        model: run in eval mode, without gradients; its training mode is put back.
        batches: (inputs, targets) pairs, moved to the model's device.
        loss_fn: mean loss of a batch from (outputs, targets); batches count by their size.

    Returns:
        (loss, accuracy); accuracy is None unless outputs are [batch, classes] with two classes at least, and
        targets integers [batch].

    Raises:
        TypeError: `model` is no module, or a batch is no pair.
        ValueError: no batches.
    """
    check_type("model", model, nn.Module, "a torch.nn.Module")
    if not callable(loss_fn):
        fail_type("loss_fn", "a function of (outputs, targets)", loss_fn)
    if not isinstance(batches, Iterable):
        fail_type("batches", "(inputs, targets) pairs", batches)
    device = device_of(model)
    loss_sum, right, examples, is_classifier = 0.0, 0, 0, True
    with modes_kept(model), torch.no_grad():
        model.eval()
        for batch in batches:
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                fail_type("batches", "(inputs, targets) pairs", batch)
            inputs, targets = batch[0].to(device), batch[1].to(device)
            outputs = model(inputs)
            loss = loss_fn(outputs, targets)
            if loss.numel() != 1:
                raise ValueError(f"loss_fn must return one number, the mean loss, got shape {tuple(loss.shape)}")
            loss_sum += loss.item() * len(targets)
            examples += len(targets)
            is_classifier = is_classifier and _is_classification(outputs, targets)
            if is_classifier:
                right += int((outputs.argmax(dim=1) == targets).sum())
    if examples == 0:
        raise ValueError("batches must hold one example at least, got none")
    return loss_sum / examples, right / examples if is_classifier else None


def _is_classification(outputs: object, targets: Tensor) -> bool:
    return (
        isinstance(outputs, Tensor)
        and outputs.ndim == 2
        and outputs.shape[1] > 1
        and targets.ndim == 1
        and not targets.is_floating_point()
    )


def _points(lambdas: int | Sequence[float]) -> list[float]:
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

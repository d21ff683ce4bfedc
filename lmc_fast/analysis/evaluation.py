"""Loss and accuracy of a model, or of many sets of weights for one architecture."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .._checks import check_type, fail_type
from .._models import device_of, modes_kept, tensor_identity, tensors_of

__all__ = ["LossFn", "Score", "check_loss_fn", "evaluate", "evaluate_many", "first_names", "pair_of"]

LossFn = Callable[[Tensor, Tensor], Tensor]
# Mean loss, and the share of right answers of a classifier.
Score = tuple[float, float | None]


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    loss_fn: LossFn = nn.functional.cross_entropy,
) -> Score:
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
    check_loss_fn(loss_fn)
    if not isinstance(batches, Iterable):
        fail_type("batches", "(inputs, targets) pairs", batches)
    return evaluate_many(model, [{}], batches, loss_fn)[0]


def evaluate_many(
    model: nn.Module,
    states: Sequence[Mapping[str, Tensor]],
    batches: Iterable[tuple[Tensor, Tensor]],
    loss_fn: LossFn,
) -> list[Score]:
    """As `evaluate`, with each of `states` in the place of the model's tensors of those names; one pass for all.

    Raises:
        TypeError, ValueError: as `evaluate`.
    """
    device = device_of(model)
    sums = [_Sums() for _ in states]
    with modes_kept(model), torch.no_grad():
        model.eval()
        for batch in batches:
            inputs, targets = pair_of(batch, device)
            for state, total in zip(states, sums, strict=True):
                outputs = functional_call(model, dict(state), (inputs,)) if state else model(inputs)
                total.add(outputs, targets, loss_fn)
    return [total.score() for total in sums]


def first_names(model: nn.Module) -> list[str]:
    """Names in the model's state dict, of tied tensors the first alone: what `functional_call` is to be given."""
    first: dict[Hashable, str] = {}
    for name, tensor in tensors_of("model", model).items():
        first.setdefault(tensor_identity(tensor), name)
    return list(first.values())


def check_loss_fn(loss_fn: object) -> None:
    """Raise TypeError unless `loss_fn` can be called."""
    if not callable(loss_fn):
        fail_type("loss_fn", "a function of (outputs, targets)", loss_fn)


def pair_of(batch: object, device: torch.device) -> tuple[Tensor, Tensor]:
    """A batch's (inputs, targets) on the device; TypeError for what is no pair."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        fail_type("batches", "(inputs, targets) pairs", batch)
    return batch[0].to(device), batch[1].to(device)


class _Sums:
    def __init__(self) -> None:
        self.loss, self.right, self.examples, self.is_classifier = 0.0, 0, 0, True

    def add(self, outputs: Tensor, targets: Tensor, loss_fn: LossFn) -> None:
        loss = loss_fn(outputs, targets)
        if loss.numel() != 1:
            raise ValueError(f"loss_fn must return one number, the mean loss, got shape {tuple(loss.shape)}")
        self.loss += loss.item() * len(targets)
        self.examples += len(targets)
        self.is_classifier = self.is_classifier and _is_classification(outputs, targets)
        if self.is_classifier:
            self.right += int((outputs.argmax(dim=1) == targets).sum())

    def score(self) -> Score:
        if self.examples == 0:
            raise ValueError("batches must hold one example at least, got none")
        return self.loss / self.examples, self.right / self.examples if self.is_classifier else None


def _is_classification(outputs: object, targets: Tensor) -> bool:
    return (
        isinstance(outputs, Tensor)
        and outputs.ndim == 2
        and outputs.shape[1] > 1
        and targets.ndim == 1
        and not targets.is_floating_point()
    )

"""Loss and accuracy of a model, or of many sets of weights for one architecture."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._batches import Batch, check_batches
from .._calls import Calls, Forward, LossFn, check_loss_fn, in_eval, with_weights
from .._models import own_names, tensor_identity, tensors_of, unwrapped
from .._modes import neutral

__all__ = ["LossFn", "Score", "check_loss_fn", "evaluate", "evaluate_many", "first_names"]

# Mean loss, and the share of right answers of a classifier.
Score = tuple[float, float | None]


@neutral
def evaluate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    loss_fn: LossFn = nn.functional.cross_entropy,
    forward: Forward | None = None,
) -> Score:
    """Mean loss over all examples and, of a classifier, the share of right answers.

    Args:
        model: run in eval mode, without gradients; its training mode is put back.
        batches: (inputs, targets) pairs, moved to the model's device. `_batches` tells what else a batch may be.
        loss_fn: mean loss of a batch from (outputs, targets); batches count by their size. The default is cross
            entropy of the outputs, or, where these are no tensor, the `loss` that they hold or that of their `logits`.
        forward: (model, batch) -> outputs, where a batch is not to be read by the rule of `_batches`; `loss_fn` is
            given (outputs, batch) then.

    Returns:
        (loss, accuracy); accuracy is None unless outputs are [batch, classes] with two classes at least, and
        targets integers [batch].

    Raises:
        TypeError: `model` is no module, or a batch is not covered by the rule.
        ValueError: no batches, or a loss that is not one number.
    """
    model = unwrapped("model", model)
    check_loss_fn(loss_fn)
    batches = check_batches("batches", batches, again=False)
    return evaluate_many(model, [{}], batches, loss_fn, forward)[0]


def evaluate_many(
    model: nn.Module,
    states: Sequence[Mapping[str, Tensor]],
    batches: Iterable[Any],
    loss_fn: LossFn,
    forward: Forward | None = None,
) -> list[Score]:
    """As `evaluate`, with each of `states` in the place of the model's tensors of those names; one pass for all.

    Args:
        model: of one's own where there are states: they are put into it, and other threads would see them.

    Raises:
        TypeError, ValueError: as `evaluate`.
    """
    calls = Calls(model, forward, loss_fn)
    sums = [_Sums(calls) for _ in states]
    names = own_names(model)
    states = [{names.get(name, name): tensor for name, tensor in state.items()} for state in states]
    with in_eval(model), torch.no_grad():
        for batch in calls.read("batches", batches):
            for state, total in zip(states, sums, strict=True):
                with_weights(model, state, lambda module: total.add(module, batch))  # noqa: B023
    return [total.score() for total in sums]


def first_names(model: nn.Module) -> list[str]:
    """Names in the model's state dict, of tied tensors the first alone: what `functional_call` is to be given."""
    first: dict[Hashable, str] = {}
    for name, tensor in tensors_of("model", model).items():
        first.setdefault(tensor_identity(tensor), name)
    return list(first.values())


class _Sums:
    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.loss, self.right, self.examples, self.is_classifier = 0.0, 0, 0, True

    def add(self, model: nn.Module, batch: Batch) -> None:
        outputs = self.calls.outputs(model, batch)
        self.loss += self.calls.loss(outputs, batch).item() * batch.examples
        self.examples += batch.examples
        right = self.calls.right(outputs, batch) if self.is_classifier else None
        self.is_classifier = right is not None
        self.right += right or 0

    def score(self) -> Score:
        if self.examples == 0:
            raise ValueError("batches must hold one example at least, got none")
        return self.loss / self.examples, self.right / self.examples if self.is_classifier else None

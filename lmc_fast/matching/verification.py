"""Methods that run the model on data check the spec on a few examples first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._calls import Calls, Forward, LossFn
from .._models import unwrapped
from ..symmetry import PermutationSpec
from ..symmetry.bench import generators_kept
from ..symmetry.calls import Call, calls_of, with_tensors_changed
from ..symmetry.verification import Verification
from ..symmetry.verify import CannotVerifyError, examine

__all__ = ["Verified", "ensure_verified"]

# More show nothing more, and cost.
EXAMPLES = 4


class Verified(NamedTuple):
    """What is known of a spec, by the names that results have for it."""

    verified: Verification | None
    why_not_verified: str


def ensure_verified(
    by: str,
    model: object,
    spec: PermutationSpec,
    *,
    batches: Iterable[Any] | None = None,
    forward: Forward | None = None,
    loss_fn: LossFn | None = None,
    example_inputs: Any = None,
) -> Verified:
    """The record of a spec that was verified on such a model; otherwise the outcome of a check.

    Args:
        by: the method's name.
        model: a module; of anything else, or without inputs, nothing is known but what the spec knows.
        spec: bound to the model.
        batches: of which the first gives the inputs, by the rule of `_batches`.
        forward, loss_fn: how batches are used; None without a function of the caller's, without a loss.
        example_inputs: as `verify_spec` takes them; of tensors with one number of examples, a few are used.

    Raises:
        SymmetryError: the spec does not keep the function.
    """
    if not isinstance(model, nn.Module):
        return Verified(spec.verified, "")
    module = unwrapped("model", model)
    if spec.verified is not None and spec.verified.holds_for(module):
        return Verified(spec.verified, "")
    attempts: list[list[Call]] = []
    if example_inputs is not None:
        attempts = [calls_of(module, inputs) for inputs in (_few(example_inputs), example_inputs)]
    elif batches is not None:
        with generators_kept():
            batch = next(Calls(module, forward, loss_fn).read("batches", batches), None)
        if batch is not None and forward is not None:
            attempts = [[Call(batch.whole, forward)]]
        elif batch is not None:
            given = batch.args, batch.kwargs
            attempts = [[Call.of(*inputs)] for inputs in (_few(given), given)]
    if not attempts:
        return Verified(spec.verified, "")
    why_not = ""
    for calls in attempts:
        try:
            return Verified(examine(module, spec, calls, by=by), "")
        except CannotVerifyError as error:
            why_not = " ".join(str(error).split())
    return Verified(None, why_not)


def _few(inputs: Any) -> Any:
    """The first examples of each tensor, where all tensors have as many."""
    counts = set()

    def count(tensor: Tensor) -> Tensor:
        # Sparse ones are not cut.
        counts.add(len(tensor) if tensor.ndim and tensor.layout is torch.strided else 0)
        return tensor

    with_tensors_changed(inputs, count)
    if len(counts) != 1 or counts == {0}:
        return inputs
    return with_tensors_changed(inputs, lambda tensor: tensor[:EXAMPLES])

"""The spec that a method goes by: the one that it was given, or one that is derived from model a."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from .._calls import Calls, Forward, LossFn
from .._checks import check_type
from .._models import unwrapped
from ..symmetry import Inputs, PermutationSpec, derive_spec
from ..symmetry.bench import generators_kept

__all__ = ["spec_of"]


def spec_of(
    model: object,
    spec: object,
    *,
    argument: str = "model_a",
    example_inputs: Any = None,
    batches: Iterable[Any] | None = None,
    forward: Forward | None = None,
    loss_fn: LossFn | None = None,
) -> PermutationSpec:
    """The spec as it was given; None: one that `derive_spec` finds in a module.

    Args:
        model: of which it is derived.
        spec: what the caller gave.
        argument: what the caller calls the model.
        example_inputs: what the module is called with, as `derive_spec` takes it.
        batches: of which the first gives the inputs where `example_inputs` are not given, by the rule of `_batches`.
        forward, loss_fn: how batches are used. A function of the caller's that calls the model cannot be traced.

    Raises:
        TypeError: a spec that is none.
        ValueError: there is none, and nothing to derive one from; the message says what to give. And as `derive_spec`.
    """
    if spec is not None:
        check_type("spec", spec, PermutationSpec, "a PermutationSpec")
        assert isinstance(spec, PermutationSpec)
        return spec
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"spec must be given where {argument} is a state dict, of which none can be derived: "
            "lmc_fast.derive_spec(module, example_inputs) finds one"
        )
    module = unwrapped(argument, model)
    if example_inputs is None and batches is not None and forward is None:
        with generators_kept():
            batch = next(Calls(module, None, loss_fn).read("batches", batches), None)
        if batch is not None:
            example_inputs = Inputs(*batch.args, **batch.kwargs)
    if example_inputs is None:
        raise ValueError(
            "spec or example_inputs must be given, got neither: what may be permuted is derived from the graph of a "
            "forward pass on example_inputs"
        )
    return derive_spec(module, example_inputs)

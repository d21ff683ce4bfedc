"""Fine-tunes carried over from the model that they were made on to another one."""

from __future__ import annotations

from collections.abc import Mapping

from .._checks import check_finite, check_type
from .._models import Model, ModelT, tensors_of, with_tensors
from .._modes import neutral
from ..matching import Matching
from ..symmetry import Permutations, Transforms
from .adapters import carried_adapter, is_adapter
from .interpolation import checked_choices, checked_tensors, derived_of, weighted

__all__ = ["rebase"]


@neutral
def rebase(
    tuned: Model,
    base: Model,
    new: ModelT,
    match: Matching | Permutations | Transforms,
    *,
    alpha: float = 1.0,
    fan_in_fan_out: bool = False,
    backend: str = "auto",
) -> ModelT:
    """A fine-tune of one model as one of another: theta_new + alpha * pi(theta_tuned - theta_base).

    pi brings the units of the base onto those of the new model (Rinaldi et al., "Update Your Transformer to the Latest
    Release: Re-Basin of Task Vectors", ICML 2025).

    Args:
        tuned: the fine-tune: a module or state dict of the same architecture; or the state dict of a LoRA adapter as
            PEFT keeps it (``base_model.model.{module}.lora_A.weight``), whose factors are moved and never multiplied
            out. Where norms are folded it is one of the base in pure form, as the models are that are given here;
            `rebase_checkpoints` takes one of the base as it lies on disk.
        base: what it was made from.
        new: what it is to be a fine-tune of.
        match: from ``weight_matching(new, base, spec)``.
        alpha: how much of the fine-tune; of an adapter's it goes into B.
        fan_in_fan_out: of an adapter whose configuration says so: weights lie as [inputs, outputs].
        backend: "auto", "torch", "native" (CPU) or "triton" (GPU).

    Returns:
        A new model of the kind of `new`, in its dtypes and on its devices, summed in float32 or wider and rounded once;
        what is no floating point is the new model's. Running statistics are carried over too. For an adapter a state
        dict of its entries, in their own dtypes.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: models of different shapes, a `match` made for other models, an `alpha` that is not finite, or an
            entry of an adapter that belongs to no parameter; the message names it.
        RuntimeError: a backend that cannot be used here; the message says why.
    """
    check_type("match", match, (Matching, Permutations, Transforms), "a Matching, Permutations or Transforms")
    alpha = check_finite("alpha", alpha)
    if isinstance(tuned, Mapping) and is_adapter(tuned):
        factors = tensors_of("tuned", tuned)
        tensors = checked_tensors(["base", "new"], [base, new])
        (choice, _) = checked_choices(["match", ""], [match, None], ["base", "new"], tensors)
        assert choice is not None
        return carried_adapter(  # type: ignore[return-value]
            factors, choice, tensors[0], tensors[1], alpha=alpha, fan_in_fan_out=fan_in_fan_out
        )
    models = [new, tuned, base]
    tensors = checked_tensors(["new", "tuned", "base"], models)
    moved = checked_choices(["", "match", "match"], [None, match, match], ["new", "tuned", "base"], tensors)
    derived = derived_of(models, tensors)
    (sums,) = weighted(tensors, [[1.0, alpha, -alpha]], moved, backend, derived)
    return with_tensors(new, sums)

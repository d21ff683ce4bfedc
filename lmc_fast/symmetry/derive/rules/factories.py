"""Values that are made: of one number everywhere they say nothing of units; others tell them apart."""

from __future__ import annotations

from ..look import Dims, Look, rule

__all__ = ["uniform"]


@rule(
    *("aten.full", "aten.zeros", "aten.ones", "aten.empty", "aten.full_like", "aten.zeros_like", "aten.ones_like"),
    *("aten.empty_like", "aten.new_full", "aten.new_zeros", "aten.new_ones", "aten.new_empty", "aten.scalar_tensor"),
    *("aten.empty_permuted", "aten.fill"),
)
def uniform(look: Look) -> Dims:
    """-> [...]: one number everywhere; its dimensions are whatever they are laid over."""
    return [look.terms.atom(size) for size in look.shape]


@rule(
    *("aten.arange", "aten.linspace", "aten.eye", "aten.tril_indices", "aten.triu_indices", "aten.logspace"),
    *("aten.hann_window", "aten.rand", "aten.randn", "aten.randint", "aten.randperm"),
)
def told_apart(look: Look) -> Dims:
    """-> [...]: another number at every place."""
    return [look.told(size, "holds another number at every place") for size in look.shape]

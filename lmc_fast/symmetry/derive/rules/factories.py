"""Values that are made: of one number everywhere they say nothing of units; others tell them apart."""

from __future__ import annotations

from ..look import Dims, Look, Numbers, rule

__all__ = ["uniform"]

APART = "holds another number at every place"


@rule(
    *("aten.full", "aten.zeros", "aten.ones", "aten.full_like", "aten.zeros_like", "aten.ones_like", "aten.new_full"),
    *("aten.new_zeros", "aten.new_ones", "aten.scalar_tensor", "aten.fill", "aten.zero"),
    reads=True,
    shapes=True,
)
def uniform(look: Look) -> Dims:
    """-> [...]: one number everywhere; its dimensions are whatever they are laid over, each time that it is used."""
    return [look.terms.loose(size) for size in look.shape]


@rule(
    "aten.empty",
    "aten.empty_like",
    "aten.new_empty",
    "aten.empty_permuted",
    "aten.empty_strided",
    "aten.new_empty_strided",
    reads=True,
    shapes=True,
)
def unwritten(look: Look) -> Dims:
    """-> [...]: to be written to; its dimensions are whatever they are laid over."""
    return [look.terms.atom(size) for size in look.shape]


@rule(
    *("aten.linspace", "aten.tril_indices", "aten.triu_indices", "aten.logspace"),
    *("aten.hann_window", "aten.rand", "aten.randn", "aten.randint", "aten.randperm"),
    *("aten.rand_like", "aten.randn_like", "aten.randint_like", "aten.uniform", "aten.exponential"),
    *("aten.normal_functional", "aten.log_normal", "aten.cauchy", "aten.geometric"),
    shapes=True,
)
def told_apart(look: Look) -> Dims:
    """-> [...]: another number at every place."""
    return [look.told(size, APART) for size in look.shape]


@rule("aten.eye")
def identity(look: Look) -> Dims:
    """-> [n, n] with ones on the diagonal: rows and columns are the same units. Told apart where there are others."""
    rows, columns = look.shape
    if rows != columns:
        return [look.told(size, APART) for size in look.shape]
    units = look.terms.atom(rows)
    return [units, units]


@rule("aten.arange")
def counting(look: Look) -> Dims:
    """-> [n] of 0, 1, ...: the numbers of its own units; told apart where it counts otherwise."""
    if (look["start"] or 0) != 0 or look["step"] not in (None, 1) or look.node.meta["val"].is_floating_point():
        return [look.told(look.shape[0], APART)]
    dims = [look.terms.atom(look.shape[0])]
    look.gives[0] = Numbers(dims[0], dims, look.why(APART), object(), object(), is_order=True)
    return dims

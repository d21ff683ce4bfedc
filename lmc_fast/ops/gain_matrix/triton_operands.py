"""The sides of a product where they lie in memory, as far as it can read them there."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from .terms import Term
from .triton_gather import gathered

__all__ = ["Operand", "operands_of"]

_Indices = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Operand:
    """One side of a product: entry (unit, e) lies at unit * unit_stride + gather[e] * entry_stride.

    Attributes:
        reach: where entries are gathered, how many there are to choose from.
    """

    tensor: Tensor
    unit_stride: int
    entry_stride: int
    gather: Tensor | None = None
    reach: int = 0


def operands_of(term: Term, dtype: torch.dtype, gathers_runs: bool = False) -> tuple[Operand, Operand] | None:
    """The operands of a term that is read where it lies, B perhaps gathered; None: it is to be laid out first.

    Args:
        term: what to read.
        dtype: of the product.
        gathers_runs: whether what reads them gathers entries that lie in a run as well.
    """
    if term.before is not None or term.a.dtype != term.b.dtype or term.a.dtype != dtype:
        return None
    still: _Indices = (None,) * term.a.ndim
    a, b = _matrix(term.a, term.units, still), _matrix(term.b, term.units, term.gathers)
    if a is None:
        return None
    if b is not None and (b.gather is None or b.unit_stride == 1 or gathers_runs):
        return a, b
    # Four times as fast as `lay_out`, which has to look up where each entry lies.
    b = _matrix(gathered(term.b, term.gathers), term.units, still)
    return None if b is None else (a, b)


def _matrix(tensor: Tensor, unit_dims: tuple[int, ...], gathers: _Indices) -> Operand | None:
    """A tensor as units by entries with one stride each, one of them 1, and one gather at most; None if it is not."""
    units = _joined([(tensor.shape[d], tensor.stride(d)) for d in unit_dims])
    rest = [d for d in range(tensor.ndim) if d not in unit_dims and tensor.shape[d] != 1]
    moved = [d for d in rest if gathers[d] is not None]
    if moved and len(rest) > 1:
        return None
    entries = _joined([(tensor.shape[d], tensor.stride(d)) for d in rest])
    if units is None or entries is None or 1 not in (units, entries):
        return None
    index = gathers[moved[0]] if moved else None
    if index is None:
        return Operand(tensor, units, entries)
    return Operand(tensor, units, entries, index.contiguous(), tensor.shape[moved[0]])


def _joined(dims: list[tuple[int, int]]) -> int | None:
    """The stride of dimensions (size, stride) taken together, outermost first; None if they have none."""
    dims = [(size, stride) for size, stride in dims if size != 1]
    if any(outer != inner * size for (_, outer), (size, inner) in itertools.pairwise(dims)):
        return None
    return dims[-1][1] if dims else 1

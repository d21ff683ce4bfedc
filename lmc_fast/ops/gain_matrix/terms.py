"""What a gain matrix is a sum over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["PRECISIONS", "GainCandidates", "Term", "common_dtype", "common_units", "units_first"]

# How float32 entries may be multiplied.
PRECISIONS = ("auto", "fp16x3", "tf32x3", "ieee", "tf32", "library")


@dataclass(frozen=True)
class Term:
    """One place where a group's units show up in a parameter, or the part of it that has changed.

    Attributes:
        a: that part of the parameter in model a, any strides.
        b: the same part in model b, on the same device. Gathered, it has the shape of `a`.
        units: the dimensions that together run over the units, outermost first.
        gathers: for every dimension the indices (int64, on the tensors' device) that permute b along it, or None
            where nothing moves. None at the dimensions in `units`.
        before: gathers that were in force when the term was last added, for a correction: what they select is
            subtracted. None where there is nothing to take back.
    """

    a: Tensor
    b: Tensor
    units: tuple[int, ...]
    gathers: tuple[Tensor | None, ...]
    before: tuple[Tensor | None, ...] | None = None

    def unit_count(self) -> int:
        """How many units there are."""
        return math.prod(self.a.shape[dim] for dim in self.units)

    def entry_count(self) -> int:
        """How many entries each unit has in `a`."""
        return math.prod(size for dim, size in enumerate(self.a.shape) if dim not in self.units)


class GainCandidates(NamedTuple):
    """Of each row of a gain matrix the columns with the greatest gain less column dual, and a bound of the others.

    In exact arithmetic, no column that a row does not list has a gain less `column_duals` above the row's bound. A row
    with a gain that is not finite has the bound +inf, and lists nothing: nothing is known of it. These are the fields
    of `assignment.Candidates`, for a solve that looks for the greatest total.

    Attributes:
        columns: int32 [n, k], the best first, -1 where a row has fewer.
        bounds: [n], in the gain's dtype; -inf where every column is listed.
        column_duals: [m], as they were rounded to the gain's dtype.
    """

    columns: Tensor
    bounds: Tensor
    column_duals: Tensor


def common_units(terms: Sequence[Term]) -> int:
    """The number of units that all terms have; ValueError if they differ."""
    counts = {term.unit_count() for term in terms}
    if len(counts) > 1:
        raise ValueError(f"terms must have one number of units, got {sorted(counts)}")
    return counts.pop()


def common_dtype(terms: Sequence[Term]) -> torch.dtype:
    """The least dtype that holds the entries of all terms."""
    dtype = terms[0].a.dtype
    for term in terms:
        dtype = torch.promote_types(dtype, torch.promote_types(term.a.dtype, term.b.dtype))
    return dtype


def units_first(tensor: Tensor, units: tuple[int, ...]) -> Tensor:
    """[..., units..., ...] -> [units, rest]."""
    count = math.prod(tensor.shape[dim] for dim in units)
    return tensor.movedim(units, tuple(range(len(units)))).reshape(count, -1)

"""The gain matrix in plain torch: gather, flatten, multiply, add."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..._models import accumulate_dtype
from .terms import GainCandidates, Term, units_first

__all__ = ["gain_candidates", "gain_matrices", "gain_matrix", "gain_matrix_and_candidates"]


def gain_matrix(terms: Sequence[Term], base: Tensor | None = None) -> Tensor:
    """G = sum over terms of A_mat @ B_mat^T, B permuted along its other dimensions (Ainsworth et al. 2023, eq. 3).

    ``*_mat`` moves the unit dimensions of a term to the front and flattens the rest: [units, rest]. A term with
    `before` adds A_mat @ (B_mat - B_before)^T, the correction for the entries that have moved.

    Args:
        terms: one at least without `base`; all with the same number of units, on one device.
        base: a gain matrix of before, which the terms are added to in place; None: start from nothing.

    Returns:
        [units, units]; row: unit of a, column: unit of b. float64 if any term is, else float32: half types are
        multiplied and summed in float32. `base` itself where it is given.
    """
    dtype = torch.float32 if base is None else base.dtype
    for term in terms:
        dtype = torch.promote_types(dtype, accumulate_dtype(term.a.dtype))
    gain = base
    for term in terms:
        b = _gathered(term.b, term.gathers).to(dtype)
        if term.before is not None:
            b = b - _gathered(term.b, term.before).to(dtype)
        a_mat, b_mat = units_first(term.a.to(dtype), term.units), units_first(b, term.units)
        gain = a_mat @ b_mat.T if gain is None else gain.addmm_(a_mat, b_mat.T)
    if gain is None:
        raise ValueError("terms must hold one Term at least, got none")
    return gain


def gain_matrices(groups: Sequence[Sequence[Term]], bases: Sequence[Tensor | None]) -> list[Tensor]:
    """`gain_matrix` of every group, each with its base or None."""
    return [gain_matrix(terms, base) for terms, base in zip(groups, bases, strict=True)]


def gain_candidates(gain: Tensor, column_duals: Tensor, k: int) -> GainCandidates:
    """The k columns of each row with the greatest gain - column dual, and a bound of the others, rounded up.

    Differences are rounded once, which keeps their order: the number after the greatest one left out is above all of
    their exact values.

    Args:
        gain: [n, m], float32 or float64.
        column_duals: [m]; rounded to the gain's dtype.
        k: how many columns; all where there are fewer.
    """
    columns = gain.shape[1]
    duals = column_duals.to(gain.device, gain.dtype)
    reduced = gain - duals
    known = reduced.isfinite().all(1)
    count = min(k + 1, columns)
    values, order = reduced.topk(count, dim=1)
    chosen = torch.full((len(gain), k), -1, dtype=torch.int32, device=gain.device)
    chosen[:, : min(k, columns)] = torch.where(known[:, None], order[:, :k], -1).to(torch.int32)
    infinity = torch.full_like(gain[:, 0] if columns else gain.new_empty(len(gain)), torch.inf)
    bounds = torch.nextafter(values[:, k], infinity) if columns > k else -infinity
    return GainCandidates(chosen, torch.where(known, bounds, infinity), duals)


def gain_matrix_and_candidates(
    terms: Sequence[Term], column_duals: Tensor, k: int, base: Tensor | None = None
) -> tuple[Tensor, GainCandidates]:
    """`gain_matrix`, and `gain_candidates` of the result."""
    gain = gain_matrix(terms, base)
    return gain, gain_candidates(gain, column_duals, k)


def _gathered(tensor: Tensor, gathers: tuple[Tensor | None, ...]) -> Tensor:
    for dim, index in enumerate(gathers):
        if index is not None:
            tensor = tensor.index_select(dim, index)
    return tensor

"""The gain matrix in plain torch: gather, flatten, multiply, add."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..._models import accumulate_dtype
from .terms import Term

__all__ = ["gain_matrix"]


def gain_matrix(terms: Sequence[Term]) -> Tensor:
    """G = sum over terms of A_mat @ B_mat^T, B permuted along its other dimensions (Ainsworth et al. 2023, eq. 3).

    ``*_mat`` moves the unit dimensions of a term to the front and flattens the rest: [units, rest].

    Args:
        terms: one at least; all with the same number of units, on one device.

    Returns:
        [units, units]; row: unit of a, column: unit of b. float64 if any term is, else float32: half types are
        multiplied and summed in float32.
    """
    dtype = torch.float32
    for term in terms:
        dtype = torch.promote_types(dtype, accumulate_dtype(term.a.dtype))
    gain: Tensor | None = None
    for term in terms:
        b = term.b
        for dim, index in enumerate(term.gathers):
            if index is not None:
                b = b.index_select(dim, index)
        a_mat, b_mat = _units_first(term.a, term.units, dtype), _units_first(b, term.units, dtype)
        gain = a_mat @ b_mat.T if gain is None else gain.addmm_(a_mat, b_mat.T)
    if gain is None:
        raise ValueError("terms must hold one Term at least, got none")
    return gain


def _units_first(tensor: Tensor, units: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """[..., units..., ...] -> [units, rest], in `dtype`."""
    count = 1
    for dim in units:
        count *= tensor.shape[dim]
    return tensor.movedim(units, tuple(range(len(units)))).reshape(count, -1).to(dtype)

"""Sums over weights in float64, whatever the weights' dtype, without float64 copies of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..._chunks import Gathers, pairs, rows_at_once, total
from ...ops.contraction import over_others, over_units
from ...ops.permuted_dot import permuted_dot

__all__ = ["gain_times", "matrix_times", "squared_distance", "squared_norm"]


def squared_norm(tensor: Tensor) -> float:
    """||tensor||^2."""
    return permuted_dot(tensor, tensor, (None,) * tensor.ndim)


def squared_distance(a: Tensor, b: Tensor, gathers: Gathers) -> float:
    """||a - b gathered on every dimension||^2."""
    return total(torch.dot(x, x) for x in (x.sub_(y) for x, y in pairs(a, b, gathers)))


def matrix_times(matrix: Tensor, vector: Tensor) -> Tensor:
    """matrix @ vector in float64, without a float64 copy of the matrix."""
    return torch.cat([part.double() @ vector for part in torch.split(matrix, rows_at_once(matrix))])


def gain_times(a: Tensor, b: Tensor, units: tuple[int, ...], gathers: Gathers, vector: Tensor) -> Tensor:
    """A_mat @ (B_mat^T @ vector) in float64, by parts: [units].

    Args:
        a, b, units, gathers: as a gain's `Term` has them.
        vector: [units].
    """
    others = [dim for dim in range(a.ndim) if dim not in units]
    entries = over_units(_spread(b, units), vector).reshape([b.shape[dim] for dim in others])
    for place, dim in enumerate(others):
        index = gathers[dim]
        if index is not None:
            entries = entries.index_select(place, index)
    spread = _spread(a, units)
    return over_others(spread, entries.reshape(spread.shape[0], spread.shape[2]))


def _spread(tensor: Tensor, units: tuple[int, ...]) -> Tensor:
    """[entries before, units, entries after]; units that lie apart (those of owners) are brought together."""
    first, count = units[0], len(units)
    if units != tuple(range(first, first + count)):
        tensor = tensor.movedim(units, tuple(range(first, first + count)))
    before, run = tensor.shape[:first], tensor.shape[first : first + count]
    after = tensor.shape[first + count :]
    return tensor.reshape(math.prod(before), math.prod(run), math.prod(after))

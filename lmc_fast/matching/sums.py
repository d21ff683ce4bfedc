"""Sums over weights in float64, whatever the weights' dtype, without float64 copies of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    *("Gathers", "Overlap", "gain_times", "matrix_times", "overlap", "permuted_dot", "rows_at_once"),
    *("squared_distance", "squared_norm"),
]

Gathers = Sequence[Tensor | None]

# Entries that are cast at a time: on a CPU they stay in the cache until they are summed.
_CHUNK = {"cpu": 1 << 17}
_CHUNK_ELSEWHERE = 1 << 24


class Overlap(NamedTuple):
    """||a||^2, ||b||^2 and <a, b>."""

    a: float
    b: float
    dot: float


def overlap(a: Tensor, b: Tensor) -> Overlap:
    """Both squared norms and the inner product, in one pass."""
    totals = torch.zeros(3, dtype=torch.float64, device=a.device)
    for x, y in _pairs(a, b, (None,) * a.ndim):
        totals += torch.stack([torch.dot(x, x), torch.dot(y, y), torch.dot(x, y)])
    return Overlap(*totals.tolist())


def squared_norm(tensor: Tensor) -> float:
    """||tensor||^2."""
    return _total(torch.dot(x, x) for x in _parts(tensor))


def permuted_dot(a: Tensor, b: Tensor, gathers: Gathers) -> float:
    """<a, b gathered on every dimension>; an index of None leaves its dimension as it is."""
    return _total(torch.dot(x, y) for x, y in _pairs(a, b, gathers))


def squared_distance(a: Tensor, b: Tensor, gathers: Gathers) -> float:
    """||a - b gathered on every dimension||^2."""
    return _total(torch.dot(x, x) for x in (x.sub_(y) for x, y in _pairs(a, b, gathers)))


def rows_at_once(tensor: Tensor) -> int:
    """How many of a tensor's rows (along its first dimension) to cast at a time; 1 at least."""
    chunk = _CHUNK.get(tensor.device.type, _CHUNK_ELSEWHERE)
    return max(1, chunk * tensor.shape[0] // max(1, tensor.numel()))


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
    entries = _over_units(_spread(b, units), vector).reshape([b.shape[dim] for dim in others])
    for place, dim in enumerate(others):
        index = gathers[dim]
        if index is not None:
            entries = entries.index_select(place, index)
    return _over_others(_spread(a, units), entries)


def _spread(tensor: Tensor, units: tuple[int, ...]) -> Tensor:
    """[entries before, units, entries after]; units that lie apart (those of owners) are brought together."""
    first, count = units[0], len(units)
    if units != tuple(range(first, first + count)):
        tensor = tensor.movedim(units, tuple(range(first, first + count)))
    before, run = tensor.shape[:first], tensor.shape[first : first + count]
    after = tensor.shape[first + count :]
    return tensor.reshape(math.prod(before), math.prod(run), math.prod(after))


def _over_units(tensor: Tensor, vector: Tensor) -> Tensor:
    """[before, units, after], [units] -> [before, after], in float64 without a float64 copy of the tensor."""
    before, _, after = tensor.shape
    if before == 1:
        rows = rows_at_once(tensor[0])
        total = vector.new_zeros(after)
        for part, piece in zip(torch.split(tensor[0], rows), torch.split(vector, rows), strict=True):
            total += piece @ part.double()
        return total[None]
    parts = torch.split(tensor, rows_at_once(tensor))
    if after == 1:
        return torch.cat([part[..., 0].double() @ vector for part in parts])[:, None]
    return torch.cat([vector @ part.double() for part in parts])


def _over_others(tensor: Tensor, entries: Tensor) -> Tensor:
    """[before, units, after], that many entries -> [units], in float64 without a float64 copy of the tensor."""
    before, units, after = tensor.shape
    factor = entries.reshape(before, after, 1)
    if before == 1:
        return torch.cat([part.double() @ factor[0, :, 0] for part in torch.split(tensor[0], rows_at_once(tensor[0]))])
    rows = rows_at_once(tensor)
    total = entries.new_zeros(units)
    for part, piece in zip(torch.split(tensor, rows), torch.split(factor, rows), strict=True):
        total += piece[:, 0, 0] @ part[..., 0].double() if after == 1 else (part.double() @ piece).sum((0, 2))
    return total


def _pairs(a: Tensor, b: Tensor, gathers: Gathers) -> Iterator[tuple[Tensor, Tensor]]:
    if a.ndim == 0:
        a, b, gathers = a.reshape(1), b.reshape(1), (None,)
    rows = rows_at_once(a)
    for start in range(0, a.shape[0], rows):
        length = min(rows, a.shape[0] - start)
        index = gathers[0]
        part = b.narrow(0, start, length) if index is None else b.index_select(0, index.narrow(0, start, length))
        for dim, index in enumerate(gathers):
            if dim and index is not None:
                part = part.index_select(dim, index)
        yield _flat(a.narrow(0, start, length)), _flat(part)


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    if tensor.ndim == 0:
        tensor = tensor.reshape(1)
    for part in torch.split(tensor, rows_at_once(tensor)):
        yield _flat(part)


def _flat(tensor: Tensor) -> Tensor:
    """A float64 vector of its own."""
    return tensor.to(torch.float64, copy=True).reshape(-1)


def _total(terms: Iterator[Tensor]) -> float:
    total: Tensor | float = 0.0
    for term in terms:
        total = total + term
    return float(total)

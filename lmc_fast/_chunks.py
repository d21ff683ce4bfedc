"""Tensors cast to float64 a piece at a time, so that no float64 copy of a whole one is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

__all__ = ["Gathers", "numbers", "pairs", "rows_at_once", "total"]

# For every dimension the indices (int64) that permute a tensor along it, or None where nothing moves.
Gathers = Sequence[Tensor | None]

# Entries that are cast at a time: on a CPU they stay in the cache until they are summed.
_CHUNK = {"cpu": 1 << 17}
_CHUNK_ELSEWHERE = 1 << 24


def rows_at_once(tensor: Tensor) -> int:
    """How many of a tensor's rows (along its first dimension) to cast at a time; 1 at least."""
    chunk = _CHUNK.get(tensor.device.type, _CHUNK_ELSEWHERE)
    return max(1, chunk * tensor.shape[0] // max(1, tensor.numel()))


def pairs(a: Tensor, b: Tensor, gathers: Gathers) -> Iterator[tuple[Tensor, Tensor]]:
    """`a` and `b` gathered on every dimension, in pairs of float64 vectors of their own."""
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


def total(terms: Iterator[Tensor]) -> float:
    """The sum of scalars, which stay on their device until the end."""
    found: Tensor | float = 0.0
    for term in terms:
        found = found + term
    return float(found)


def numbers(tensors: Iterable[Tensor]) -> list[list[float]]:
    """The entries of small tensors, with one wait for each device."""
    given = list(tensors)
    found: list[list[float]] = [[] for _ in given]
    places: dict[torch.device, list[int]] = {}
    for k, tensor in enumerate(given):
        places.setdefault(tensor.device, []).append(k)
    for here in places.values():
        flat = torch.cat([given[k].reshape(-1).to(torch.float64) for k in here]).tolist()
        for k in here:
            found[k], flat = flat[: given[k].numel()], flat[given[k].numel() :]
    return found


def _flat(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float64, copy=True).reshape(-1)

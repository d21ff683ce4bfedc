"""Inner products in the compiled core: both tensors read once, gathered in the cache, multiplied in double.

Two float32 tensors of n entries are 8n bytes, and memory is all that bounds it: torch has no product of float32 vectors
that is summed in float64, and casts both first, which writes and reads four times as much.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ... import _native
from ..._chunks import Gathers
from ..._tensors import addresses, addresses_at_once, in_one_run
from ..permuted_lerp.native import TYPES

__all__ = ["sums", "sums_of_many"]

Sums = tuple[float, float, float]


def sums_of_many(items: Sequence[tuple[Tensor, Tensor, Gathers]], squares: bool) -> list[Sums]:
    """`sums` of many pairs, which are looked at together where none is out of the ordinary."""
    cpu = torch.device("cpu")
    of = addresses_at_once([tensor for a, b, _ in items for tensor in (a, b)], cpu, TYPES)
    indices = {id(index): index for *_, gathers in items for index in gathers if index is not None}
    places = addresses_at_once(list(indices.values()), cpu, (torch.int64,))
    if of is None or places is None:
        return [sums(*item, squares) for item in items]
    at = dict(zip(indices, places, strict=True))
    threads = torch.get_num_threads()
    return [
        _native.permuted_dot(
            TYPES[a.dtype],
            a.shape,
            (at_a, at_b),
            (a.stride(), b.stride()),
            ((0,) * a.ndim, [0 if index is None else at[id(index)] for index in gathers]),
            squares,
            threads=threads,
        )
        for (a, b, gathers), at_a, at_b in zip(items, of[::2], of[1::2], strict=True)
    ]


def sums(a: Tensor, b: Tensor, gathers: Gathers, squares: bool) -> Sums:
    """||a||^2, ||b||^2 (0 unless `squares`) and <a, b gathered>, of two tensors of one dtype on the CPU."""
    # What is made contiguous here has to live until the core is done.
    kept = {d: in_one_run(f"gathers[{d}]", index) for d, index in enumerate(gathers) if index is not None}
    cpu = torch.device("cpu")
    places = dict(zip(kept, addresses("gathers", list(kept.values()), cpu, (torch.int64,)), strict=True))
    return _native.permuted_dot(
        TYPES[a.dtype],
        a.shape,
        addresses("a and b", (a, b), cpu, TYPES),
        (a.stride(), b.stride()),
        ((0,) * a.ndim, [places.get(d, 0) for d in range(a.ndim)]),
        squares,
        threads=torch.get_num_threads(),
    )

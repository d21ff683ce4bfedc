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
from ..._tensors import addresses, in_one_run
from ..permuted_lerp.native import TYPES

__all__ = ["sums"]


def sums(items: Sequence[tuple[Tensor, Tensor, Gathers]], squares: bool) -> list[tuple[float, float, float]]:
    """||a||^2, ||b||^2 (0 unless `squares`) and <a, b gathered>, of pairs on the CPU, each of one dtype.

    All in one call, whose threads take pieces of any of them.
    """
    # Most tensors share their indices. What is made contiguous here has to live until the core is done.
    kept = {
        id(index): in_one_run(f"gathers[{d}]", index)
        for *_, gathers in items
        for d, index in enumerate(gathers)
        if index is not None
    }
    cpu = torch.device("cpu")
    places = dict(zip(kept, addresses("gathers", list(kept.values()), cpu, (torch.int64,)), strict=True))
    both = iter(addresses("a and b", [tensor for a, b, _ in items for tensor in (a, b)], cpu, TYPES))
    parts: list[_native.LerpPart] = []
    for a, b, gathers in items:
        moved = [0 if index is None else places[id(index)] for index in gathers]
        parts.append(
            (TYPES[a.dtype], a.shape, (next(both), next(both)), (a.stride(), b.stride()), ((0,) * a.ndim, moved), ())
        )
    return _native.permuted_dots(parts, squares, threads=torch.get_num_threads())

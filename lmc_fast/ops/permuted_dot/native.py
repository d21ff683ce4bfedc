"""Inner products in the compiled core: both tensors read once, gathered in the cache, multiplied in double.

Two float32 tensors of n entries are 8n bytes, and memory is all that bounds it: torch has no product of float32 vectors
that is summed in float64, and casts both first, which writes and reads four times as much.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ... import _native
from ..._chunks import Gathers
from ..._tensors import addresses, in_one_run
from ..permuted_lerp.native import TYPES

__all__ = ["sums"]


def sums(a: Tensor, b: Tensor, gathers: Gathers, squares: bool) -> tuple[float, float, float]:
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

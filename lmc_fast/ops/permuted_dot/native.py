"""Inner products in the compiled core: both tensors read once, gathered in the cache, multiplied in double.

Two float32 tensors of n entries are 8n bytes, and memory is all that bounds it: torch has no product of float32 vectors
that is summed in float64, and casts both first, which writes and reads four times as much.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ... import _native
from ..._chunks import Gathers
from ..permuted_lerp.native import TYPES

__all__ = ["sums"]


def sums(a: Tensor, b: Tensor, gathers: Gathers, squares: bool) -> tuple[float, float, float]:
    """||a||^2, ||b||^2 (0 unless `squares`) and <a, b gathered>, of two tensors of one dtype on the CPU."""
    # What is made contiguous here has to live until the core is done.
    kept = [None if index is None else index.contiguous() for index in gathers]
    addresses = [0 if index is None else index.data_ptr() for index in kept]
    return _native.permuted_dot(
        TYPES[a.dtype],
        a.shape,
        (a.data_ptr(), b.data_ptr()),
        (a.stride(), b.stride()),
        ((0,) * a.ndim, addresses),
        squares,
        threads=torch.get_num_threads(),
    )

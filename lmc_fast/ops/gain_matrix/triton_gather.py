"""Rows of half numbers gathered through shared memory: half the time of torch's gather along a row.

Bytes: 4 n K in and out for n rows of K, and 8 K of places for every `TURNS` rows, from the second-level cache.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..permuted_lerp.triton_rows import can

__all__ = ["LONGEST", "TURNS", "gather_rows_kernel", "gathered", "warps_of"]

# The longest row that a program holds, entries of a thread, rows of a program.
LONGEST, EACH, TURNS = 16384, 16, 4


@triton.jit
def gather_rows_kernel(
    source,  # half numbers [rows, reach], strides row and 1
    gather,  # int64 [k]
    out,  # the same [rows, k], in one run
    rows,
    reach,
    k,
    row,
    WIDTH: tl.constexpr,  # a power of two, reach and k at least
    TURNS: tl.constexpr,
):
    """out[r, c] = source[r, gather[c]], whole rows."""
    c = tl.arange(0, WIDTH)
    places = tl.load(gather + c, mask=c < k, other=0).to(tl.int32)
    for turn in range(TURNS):
        r = (tl.program_id(0) * TURNS + turn).to(tl.int64)
        here = r < rows
        x = tl.load(source + r * row + c, mask=c < tl.where(here, reach, 0), other=0)
        tl.store(out + r * k + c, tl.gather(x, places, 0), mask=c < tl.where(here, k, 0))


def warps_of(width: int) -> int:
    """How many warps share a row."""
    return min(16, max(4, width // (32 * EACH)))


def gathered(tensor: Tensor, gathers: tuple[Tensor | None, ...]) -> Tensor:
    """A tensor by indices along some of its dimensions."""
    for dim, index in enumerate(gathers):
        if index is not None:
            along_rows = tensor.ndim == 2 and dim == 1 and tensor.stride(1) == 1
            small = max(tensor.shape[-1], index.numel()) <= LONGEST
            if along_rows and small and tensor.dtype.itemsize == 2 and can():
                tensor = _by_rows(tensor, index)
            else:
                tensor = tensor.index_select(dim, index)
    return tensor


def _by_rows(tensor: Tensor, index: Tensor) -> Tensor:
    (rows, reach), k = tensor.shape, index.numel()
    out = torch.empty(rows, k, dtype=tensor.dtype, device=tensor.device)
    width = triton.next_power_of_2(max(1, reach, k))
    gather_rows_kernel[(triton.cdiv(rows, TURNS),)](
        *(tensor, index.contiguous(), out, rows, reach, k, tensor.stride(0)),
        WIDTH=width,
        TURNS=TURNS,
        num_warps=warps_of(width),
    )
    return out

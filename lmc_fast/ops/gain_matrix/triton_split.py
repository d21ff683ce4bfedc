"""float32 matrices as pairs of float16, and their products scaled back; `blas.py` reasons about them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["SCALE_TILE", "SPLIT_TILE", "add_scaled", "halves_of", "scale_kernel", "split_kernel"]

# Rows and columns of a tile, warps.
SPLIT_TILE = (32, 64, 4)
SCALE_TILE = (8, 512, 4)
# Rows of halves are padded to so many entries, for wide loads.
PADDED = 16


@triton.jit
def _exponent(largest):
    """Of the largest number by float32's own bits, as far as both its powers of two below are normal numbers."""
    bits = tl.load(largest).to(tl.int32, bitcast=True) >> 23
    return tl.minimum(tl.maximum(bits, 15), 254)


@triton.jit
def split_kernel(
    source,  # float32 [rows, columns], strides row and 1
    largest,  # float32 [1]: of its absolute values
    out,  # float16, strides out_row and 1
    rows,
    columns,
    row,
    out_row,
    padded_rows,
    padded_columns,
    hi_1,  # where the parts go, in entries from `out`
    hi_2,
    lo,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """hi and lo of scaled entries, hi twice; zeros where the matrix ends before its padding."""
    across = tl.cdiv(padded_columns, BLOCK_C)
    r = (tl.program_id(0) // across) * BLOCK_R + tl.arange(0, BLOCK_R)
    c = (tl.program_id(0) % across) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = (r < rows)[:, None] & (c < columns)[None, :]
    x = tl.load(source + (r.to(tl.int64) * row)[:, None] + c[None, :], mask=inside, other=0.0)
    x *= ((268 - _exponent(largest)) << 23).to(tl.float32, bitcast=True)
    high = x.to(tl.float16)
    low = (x - high.to(tl.float32)).to(tl.float16)
    places = out + (r.to(tl.int64) * out_row)[:, None] + c[None, :]
    stored = (r < padded_rows)[:, None] & (c < padded_columns)[None, :]
    tl.store(places + hi_1, high, mask=stored)
    tl.store(places + lo, low, mask=stored)
    if hi_2 != hi_1:
        tl.store(places + hi_2, high, mask=stored)


@triton.jit
def scale_kernel(
    out,  # float32 [units, units], strides out_row and 1
    total,  # float32 [units, units] in one run
    largest_a,
    largest_b,
    units,
    out_row,
    ADD: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """out = total, both scales taken back; added to what it holds if ADD."""
    across = tl.cdiv(units, BLOCK_C)
    r = (tl.program_id(0) // across) * BLOCK_R + tl.arange(0, BLOCK_R)
    c = (tl.program_id(0) % across) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = (r < units)[:, None] & (c < units)[None, :]
    x = tl.load(total + (r.to(tl.int64) * units)[:, None] + c[None, :], mask=inside, other=0.0)
    # One after the other: their product may be no normal number where the result is one.
    x *= ((_exponent(largest_a) - 14) << 23).to(tl.float32, bitcast=True)
    x *= ((_exponent(largest_b) - 14) << 23).to(tl.float32, bitcast=True)
    places = out + (r.to(tl.int64) * out_row)[:, None] + c[None, :]
    if ADD:
        x += tl.load(places, mask=inside, other=0.0)
    tl.store(places, x, mask=inside)


def halves_of(matrix: Tensor, order: str) -> tuple[Tensor, Tensor]:
    """A float32 matrix [units, k] as halves side by side, and the largest of its absolute values.

    Args:
        matrix: rows or columns in one run are read as they lie.
        order: of the parts, "hi lo" for one.

    Returns:
        ([units, parts * width] float16, width at least k and the rest zeros; [] float32).
    """
    parts = order.split()
    upright = matrix.stride(1) != 1 and matrix.stride(0) == 1
    lying = matrix.T if upright else matrix if matrix.stride(1) == 1 else matrix.contiguous()
    rows, columns = lying.shape
    entries = -(-max(1, matrix.shape[1]) // PADDED) * PADDED
    wide = -(-max(1, matrix.shape[0]) // PADDED) * PADDED
    shape = (len(parts) * entries, wide) if upright else (matrix.shape[0], len(parts) * entries)
    out = torch.empty(shape, dtype=torch.float16, device=matrix.device)
    largest = torch.linalg.vector_norm(lying, torch.inf) if matrix.numel() else matrix.new_zeros(())
    padded = (entries, wide) if upright else (rows, entries)
    block_r, block_c, warps = SPLIT_TILE
    places = [(part, k * entries * (wide if upright else 1)) for k, part in enumerate(parts)]
    high = [place for part, place in places if part == "hi"]
    split_kernel[(triton.cdiv(padded[0], block_r) * triton.cdiv(padded[1], block_c),)](
        *(lying, largest, out, rows, columns, lying.stride(0), out.stride(0), *padded),
        *(high[0], high[-1], dict(places)["lo"]),
        BLOCK_R=block_r,
        BLOCK_C=block_c,
        num_warps=warps,
    )
    return (out[:, : matrix.shape[0]].T if upright else out), largest


def add_scaled(out: Tensor, total: Tensor, largest_a: Tensor, largest_b: Tensor, add: bool) -> None:
    """out = `total` of halves that `halves_of` scaled, scaled back; added to what it holds if `add`."""
    units = len(out)
    block_r, block_c, warps = SCALE_TILE
    scale_kernel[(triton.cdiv(units, block_r) * triton.cdiv(units, block_c),)](
        *(out, total, largest_a, largest_b, units, out.stride(0)),
        ADD=add,
        BLOCK_R=block_r,
        BLOCK_C=block_c,
        num_warps=warps,
    )

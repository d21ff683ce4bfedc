"""float32 gain matrices as products of float16: precision "fp16x3", what large products are made by on a GPU.

Each unit's entries are scaled by a power of two, for the largest to lie just below 2^15, and split in two: hi is what
float16 keeps of an entry, lo what it keeps of the rest, 22 bits in all. Then

    x y = hi_x hi_y + hi_x lo_y + lo_x hi_y,    but for 2^-22 of it

(Ootomo, Yokota, "Recovering single precision accuracy from Tensor Cores while surpassing the FP32 theoretical peak
performance", 2022). A unit of small weights keeps its digits, since it has a scale of its own; a gain is scaled back by
those of its row and of its column.

Measured on an H200 (n = K = 4096): 0.79 ms, of which 0.11 split, and off by 6.5e-7 of the root of the summed squares of
all products; torch takes 2.80 and is off by 1.1e-6, three products of tf32 2.31 and 2.0e-7.

Operations: 6 n^2 K of float16, at sixteen times float32's rate. Bytes beside the product's own: both sides are read as
float32 and written as halves, 8 n K each, once. One pass finds the scale, gathers and splits: a unit whose entries lie
in a run stays in a program's registers from one to the other, and what gathers it is shared memory, as in
`permuted_lerp/triton_rows.py`.

The product's three parts share what a step loads: four tiles for three products. The matrix units cut, not round, when
they add to a large sum, so that hi hi is flushed to a sum of its own every `FLUSH` steps. The other two are 2^-11 of it
and are summed in one go.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..permuted_lerp.triton_rows import can
from .configs import Config
from .triton_candidates import Kept
from .triton_cut import Cut
from .triton_gather import LONGEST, TURNS, warps_of
from .triton_operands import Operand
from .triton_product import banded, store_tile

__all__ = [
    "HALVES",
    "Halves",
    "half_configs",
    "halves_kernel",
    "halves_of",
    "has_room",
    "multiply_halves",
    "split_rows_kernel",
    "split_tiles_kernel",
]

# Tiles of the product, the default first: three sums of 128 x 128 leave eight warps no register to spill.
HALVES = (Config(128, 128, 64, 8, 3, 8), Config(128, 128, 32, 8, 6, 16), Config(128, 64, 64, 8, 3, 8))
# Bytes of shared memory that these take.
SHARED = 192 << 10
# Entries of a step of the product: halves are padded to whole ones.
PADDED = 64
# For few entries, where the result is what takes time: small tiles, for some programs to write while others multiply.
FEW = 512
FEW_HALVES = Config(64, 64, 64, 4, 2, 8)
# Units and entries of a tile where the units run in order, warps.
SPLIT_TILE = (32, 128, 8)


class Halves(NamedTuple):
    """Rows of hi | lo: float16 [units, 2 * width], and the exponents of their scales, int32 [units]."""

    rows: Tensor
    exponents: Tensor


@triton.jit
def _exponent(largest):
    """Of the largest number by float32's own bits, as far as both its powers of two below are normal numbers."""
    return tl.minimum(tl.maximum(largest.to(tl.int32, bitcast=True) >> 23, 15), 254)


@triton.jit
def _split(x, exponent):
    """hi and lo, float16, of float32 entries scaled by their unit's power of two."""
    x *= ((268 - exponent) << 23).to(tl.float32, bitcast=True)
    high = x.to(tl.float16)
    return high, (x - high.to(tl.float32)).to(tl.float16)


@triton.jit
def split_rows_kernel(
    source,  # float32 [units, reach], strides row and 1
    gather,  # int64 [k], read if GATHERED
    out,  # float16 [units, 2 * width]
    exponents,  # int32 [units]
    units,
    k,
    reach,  # entries of a row of the source, which a gather chooses from
    row,
    width,
    GATHERED: tl.constexpr,
    WIDTH: tl.constexpr,  # a power of two, reach and width at least
    TURNS: tl.constexpr,
):
    """Each row's scale, and its entries as halves, gathered; zeros behind the last."""
    c = tl.arange(0, WIDTH)
    places = tl.load(gather + c, mask=c < k, other=0).to(tl.int32) if GATHERED else c
    for turn in range(TURNS):
        r = (tl.program_id(0) * TURNS + turn).to(tl.int64)
        here = r < units
        x = tl.load(source + r * row + c, mask=c < tl.where(here, reach, 0), other=0.0)
        exponent = _exponent(tl.max(tl.abs(x), axis=0))
        high, low = _split(x, exponent)
        if GATHERED:
            # Both at once, from shared memory.
            both = (high.to(tl.int16, bitcast=True).to(tl.int32) << 16) | (
                low.to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
            )
            both = tl.where(c < k, tl.gather(both, places, 0), 0)
            high = (both >> 16).to(tl.int16).to(tl.float16, bitcast=True)
            low = both.to(tl.int16).to(tl.float16, bitcast=True)
        stored = c < tl.where(here, width, 0)
        tl.store(out + r * 2 * width + c, high, mask=stored)
        tl.store(out + r * 2 * width + width + c, low, mask=stored)
        tl.store(exponents + r, exponent, mask=here)


@triton.jit
def split_tiles_kernel(
    source,  # float32, entry (unit, e) at unit * unit_stride + e * entry_stride
    gather,  # int64 [k], read if GATHERED
    out,  # float16 [units, 2 * width]
    exponents,  # int32 [units]
    units,
    k,
    unit_stride,
    entry_stride,
    width,
    GATHERED: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """The same by tiles, the scales in a pass before."""
    r = tl.program_id(0) * BLOCK_U + tl.arange(0, BLOCK_U)
    in_rows = r < units
    starts = source + (r.to(tl.int64) * unit_stride)[None, :]
    largest = tl.zeros((BLOCK_U,), dtype=tl.float32)
    for first in range(0, k, BLOCK_E):
        x = _entries(starts, gather, first, k, entry_stride, in_rows, GATHERED, BLOCK_E)
        largest = tl.maximum(largest, tl.max(tl.abs(x), axis=0))
    exponent = _exponent(largest)
    tl.store(exponents + r, exponent, mask=in_rows)
    to = out + (r.to(tl.int64) * 2 * width)[:, None]
    for first in range(0, width, BLOCK_E):
        x = _entries(starts, gather, first, k, entry_stride, in_rows, GATHERED, BLOCK_E)
        high, low = _split(x, exponent[None, :])
        c = first + tl.arange(0, BLOCK_E)
        stored = in_rows[:, None] & (c < width)[None, :]
        tl.store(to + c[None, :], tl.trans(high), mask=stored)
        tl.store(to + (width + c)[None, :], tl.trans(low), mask=stored)


@triton.jit
def _entries(starts, gather, first, k, entry_stride, in_rows, GATHERED: tl.constexpr, BLOCK_E: tl.constexpr):
    """float32 [BLOCK_E, units] from `first` on, zeros beyond k."""
    e = first + tl.arange(0, BLOCK_E)
    inside = e < k
    chosen = tl.load(gather + e, mask=inside, other=0) if GATHERED else e.to(tl.int64)
    return tl.load(starts + (chosen * entry_stride)[:, None], mask=inside[:, None] & in_rows[None, :], other=0.0)


@triton.jit
def _scaled(x, exponents, index, inside, axis: tl.constexpr):
    """x times the powers of two that its rows or columns were divided by."""
    exponent = tl.load(exponents + index, mask=inside, other=15)
    return x * tl.expand_dims(((exponent - 14) << 23).to(tl.float32, bitcast=True), axis)


@triton.jit
def halves_kernel(
    a,  # float16 [units, 2 * width], of each row hi | lo
    b,  # likewise
    exponents_a,  # int32 [units]
    exponents_b,
    out,  # float32 [units, units], or [splits, units, units] if split
    units,
    width,  # a multiple of BLOCK_K
    out_row,
    steps_in_split,
    duals,  # read and written as by `keep_best`, if KEPT
    best_gains,
    best_columns,
    rests,
    ADD: tl.constexpr,
    FLUSH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    KEPT: tl.constexpr,
):
    """One tile of A @ B^T over one split of the entries, scaled back; added to what `out` holds if ADD."""
    row, column = banded(tl.program_id(0), units, BLOCK_M, BLOCK_N, GROUP)
    split = tl.program_id(1)
    rm = row * BLOCK_M + tl.arange(0, BLOCK_M)
    rn = column * BLOCK_N + tl.arange(0, BLOCK_N)
    # What lies beyond the last unit is computed from the first ones and not stored.
    a_rows = a + (tl.where(rm < units, rm, 0).to(tl.int64) * (2 * width))[:, None]
    b_rows = b + (tl.where(rn < units, rn, 0).to(tl.int64) * (2 * width))[None, :]
    begin = split * steps_in_split
    end = tl.minimum(begin + steps_in_split, width // BLOCK_K)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    part = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    small = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(begin, end):
        e = step * BLOCK_K + tl.arange(0, BLOCK_K)
        a_high = tl.load(a_rows + e[None, :])
        b_high = tl.load(b_rows + e[:, None])
        a_low = tl.load(a_rows + (width + e)[None, :])
        b_low = tl.load(b_rows + (width + e)[:, None])
        small = tl.dot(a_high, b_low, small)
        small = tl.dot(a_low, b_high, small)
        part = tl.dot(a_high, b_high, part)
        if (step - begin) % FLUSH == FLUSH - 1:
            total += part
            part = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    total += part
    total += small
    # One after the other: their product may be no normal number where the result is one.
    total = _scaled(total, exponents_a, rm, rm < units, 1)
    total = _scaled(total, exponents_b, rn, rn < units, 0)
    store_tile(
        total, out, units, out_row, split, column, rm, rn, duals, best_gains, best_columns, rests, ADD, BLOCK_N, KEPT
    )


def halves_of(operand: Operand, units: int, k: int) -> Halves:
    """One side of a product, float32, as halves: B gathered, if it is."""
    gather, unit_stride, entry_stride = operand.gather, operand.unit_stride, operand.entry_stride
    width = -(-max(1, k) // PADDED) * PADDED
    out = torch.empty(units, 2 * width, dtype=torch.float16, device=operand.tensor.device)
    exponents = torch.empty(units, dtype=torch.int32, device=operand.tensor.device)
    reach = k if gather is None else operand.reach
    index = exponents if gather is None else gather
    longest = triton.next_power_of_2(max(reach, width))
    if entry_stride == 1 and longest <= LONGEST and (gather is None or can()):
        split_rows_kernel[(triton.cdiv(units, TURNS),)](
            *(operand.tensor, index, out, exponents, units, k, reach, unit_stride, width),
            GATHERED=gather is not None,
            WIDTH=longest,
            TURNS=TURNS,
            num_warps=warps_of(longest),
        )
    else:
        block_u, block_e, warps = SPLIT_TILE
        split_tiles_kernel[(triton.cdiv(units, block_u),)](
            *(operand.tensor, index, out, exponents, units, k, unit_stride, entry_stride, width),
            GATHERED=gather is not None,
            BLOCK_U=block_u,
            BLOCK_E=block_e,
            num_warps=warps,
        )
    return Halves(out, exponents)


def half_configs(k: int, device: torch.device) -> tuple[Config, ...]:
    """Tiles for a product over k entries, the default first."""
    if not has_room(device):
        return (FEW_HALVES,)
    return (FEW_HALVES, HALVES[0]) if k <= FEW else HALVES


def has_room(device: torch.device) -> bool:
    """Whether large tiles fit: the GPUs of data centres from Hopper on. No GPU: the interpreter, which has."""
    if device.type != "cuda":
        return True
    return getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0) >= SHARED


def multiply_halves(
    sides: tuple[Halves, Halves], out: Tensor, add: bool, config: Config, duals: Tensor | None = None
) -> Kept | None:
    """out = A @ B^T, added to what it holds if `add`."""
    a, b = sides
    units, width = len(a.rows), a.rows.shape[1] // 2
    cut = Cut.of(units, width // config.k, config, out, duals)
    halves_kernel[cut.grid](
        *(a.rows, b.rows, a.exponents, b.exponents, cut.parts, units, width, cut.parts.stride(-2), cut.steps),
        *cut.kept_pointers(),
        ADD=add and not cut.splits,
        **cut.constants(config),
    )
    return cut.summed(out, add)

"""Interpolation of parts whose last axis is gathered: whole rows go through shared memory.

A lane that reads an entry of its own from anywhere in a row touches a cache line of its own: 32 turns of the
first-level cache for 32 entries, which at 2 or 4 bytes an entry is far slower than memory. So a program reads whole
rows in order, and takes the entries from shared memory, whose 32 banks answer 32 random places in three or four turns.
The places are worked out once, from gathers in 32 bits, for all rows of a program.

Bytes: those of `triton.py`, and 4 for every column of a program's rows, from the second-level cache.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_plan import Launch

__all__ = ["can", "rows_kernel", "run", "taken", "warps_of"]

# Entries of a tile of rows, and of a warp's share: the fastest at n = 4096 on an H100, in bfloat16 and in float32.
TILE, SHARE = 4096, 512
# Turns of a program, where there are so many entries; half types take one, as measured too.
TURNS, MANY = 4, 1 << 22


def can() -> bool:
    """Whether this Triton gathers inside a tile: from 3.2 on, or so."""
    return hasattr(tl, "gather")


@triton.jit
def rows_kernel(
    table,  # int64 [parts, 4 + SOURCES * 9 + OUTPUTS], as `triton.py` lays it out, but for gathers: of rows in 32 bits;
    # first of columns the places of a whole row [columns], 0 if in order: int16 for half types, which a thread then
    # reads together with its entries, else int32
    part_of_tile,  # int64 [tiles]
    first_tile,  # int64 [parts]
    weights,  # [OUTPUTS, SOURCES], in the dtype of sums
    SOURCES: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DTYPE: tl.constexpr,
    SUM: tl.constexpr,
    ALIGNED: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    TURNS: tl.constexpr,
):
    """out[k] = sum_m weights[k, m] * source m gathered, TURNS times ROWS whole rows of a part."""
    tile = tl.program_id(0)
    part = tl.load(part_of_tile + tile)
    fields = table + part * (4 + SOURCES * 9 + OUTPUTS)
    rows_inside = tl.load(fields)
    rows = tl.load(fields + 1)
    columns = tl.load(fields + 3).to(tl.int32)
    if ALIGNED:
        columns = tl.multiple_of(columns, 16)
    first = (tile - tl.load(first_tile + part)) * (ROWS * TURNS)
    c = tl.arange(0, WIDTH)
    in_columns = c < columns
    for turn in range(TURNS):
        r = first + turn * ROWS + tl.arange(0, ROWS).to(tl.int64)
        for k in tl.static_range(OUTPUTS):
            total = tl.zeros((ROWS, WIDTH), dtype=SUM)
            for m in tl.static_range(SOURCES):
                weight = tl.load(weights + k * SOURCES + m)
                # A source of weight 0 may hold anything.
                if weight != 0:
                    source = fields + (4 + m * 9)
                    x = _rows_of(source, r, rows, rows_inside, c, in_columns, DTYPE, ALIGNED)
                    gather = tl.load(source + 7)
                    if gather != 0:
                        PLACE: tl.constexpr = tl.int16 if DTYPE.primitive_bitwidth == 16 else tl.int32
                        found = tl.multiple_of(gather.to(tl.pointer_type(PLACE)), 16)
                        places = tl.load(found + c, mask=in_columns, other=0).to(tl.int32)
                        x = taken(x, tl.arange(0, ROWS)[:, None] * WIDTH + places[None, :], ROWS, WIDTH)
                    total += weight * x.to(SUM)
            out = tl.load(fields + (4 + SOURCES * 9 + k)).to(tl.pointer_type(DTYPE))
            starts = r * columns.to(tl.int64)
            if ALIGNED:
                out = tl.multiple_of(out, 16)
                starts = tl.multiple_of(starts, 16)
            stored = (r < rows)[:, None] & in_columns[None, :]
            tl.store(out + starts[:, None] + c[None, :], total.to(DTYPE), mask=stored)


@triton.jit
def _rows_of(source, r, rows, rows_inside, c, in_columns, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """The rows `r` of a source as they lie, [ROWS, WIDTH]."""
    in_rows = r < rows
    data = tl.load(source).to(tl.pointer_type(DTYPE))
    starts = _chosen(r // rows_inside, in_rows, tl.load(source + 5)).to(tl.int64) * tl.load(source + 1)
    starts += _chosen(r % rows_inside, in_rows, tl.load(source + 6)).to(tl.int64) * tl.load(source + 2)
    if ALIGNED:
        starts = tl.multiple_of(starts, 16)
        data = tl.multiple_of(data, 16)
    inside = in_rows[:, None] & in_columns[None, :]
    # Read once, so that the places of entries stay in the first-level cache.
    return tl.load(data + starts[:, None] + c[None, :], mask=inside, other=0, eviction_policy="evict_first")


@triton.jit
def _chosen(index, inside, gather):
    """The rows `index` by a gather in 32 bits, if there is one; int32."""
    index = index.to(tl.int32)
    if gather != 0:
        index = tl.load(gather.to(tl.pointer_type(tl.int32)) + index, mask=inside, other=0)
    return index


@triton.jit
def taken(x, places, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Entries of a tile by their places in it, through shared memory."""
    # In one dimension: with two, whole rows would go to one warp each, and through its shuffles.
    x = tl.gather(tl.reshape(x, [ROWS * WIDTH]), tl.reshape(places, [ROWS * WIDTH]), 0)
    return tl.reshape(x, [ROWS, WIDTH])


def warps_of(launch: Launch) -> int:
    """How many warps share a tile; twice as many where entries take twice the registers."""
    share = SHARE // 2 if launch.dtype == torch.float64 else SHARE
    return min(16, max(4, max(TILE, launch.width) // share))


def run(launch: Launch, told: np.ndarray, table: Tensor, weights: Tensor, constants: Mapping[str, object]) -> None:
    """Interpolate parts whose rows have one padded width; `told` is what `table` holds on the device."""
    rows = max(1, TILE // launch.width)
    turns = TURNS if launch.dtype.itemsize > 2 and int(told[:, 1].sum()) * launch.width >= MANY else 1
    part_of_tile, first_tile = launch.tiles(weights.device, rows * turns, launch.width)
    rows_kernel[(len(part_of_tile),)](
        *(table, part_of_tile, first_tile, weights),
        **constants,
        ROWS=rows,
        WIDTH=launch.width,
        TURNS=turns,
        num_warps=warps_of(launch),
    )

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
from .triton_tables import sent

__all__ = ["can", "rows_kernel", "run", "warps_of"]

# Entries of a tile of rows, and of a warp's share: of six pairs the fastest at n = 4096 on an H200, in bfloat16 and in
# float32, though a few of its 255 registers are spilled.
TILE, SHARE = 4096, 1024
# Turns of a program, where there are so many entries.
TURNS, MANY = 4, 1 << 22


def can() -> bool:
    """Whether this Triton gathers inside a tile: from 3.2 on, or so."""
    return hasattr(tl, "gather")


@triton.jit
def rows_kernel(
    table,  # int64 [parts, 5 + SOURCES * 9 + OUTPUTS], as `triton.py` lays it out, gathers in 32 bits
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
    fields = table + part * (5 + SOURCES * 9 + OUTPUTS)
    rows_inside = tl.load(fields)
    rows = tl.load(fields + 1)
    columns_inside = tl.load(fields + 2).to(tl.int32)
    columns = tl.load(fields + 3).to(tl.int32)
    if ALIGNED:
        columns = tl.multiple_of(columns, 16)
    first = (tile - tl.load(first_tile + part)) * (ROWS * TURNS)
    c = tl.arange(0, WIDTH)
    in_columns = c < columns
    c0 = c // columns_inside
    c1 = c % columns_inside
    for turn in range(TURNS):
        r = first + turn * ROWS + tl.arange(0, ROWS).to(tl.int64)
        in_rows = r < rows
        inside = in_rows[:, None] & in_columns[None, :]
        r0 = r // rows_inside
        r1 = r % rows_inside
        row_starts = r * columns.to(tl.int64)
        if ALIGNED:
            row_starts = tl.multiple_of(row_starts, 16)
        for k in tl.static_range(OUTPUTS):
            total = tl.zeros((ROWS, WIDTH), dtype=SUM)
            for m in tl.static_range(SOURCES):
                weight = tl.load(weights + k * SOURCES + m)
                # A source of weight 0 may hold anything.
                if weight != 0:
                    source = fields + (5 + m * 9)
                    data = tl.load(source).to(tl.pointer_type(DTYPE))
                    starts = _taken(r0, in_rows, tl.load(source + 5)).to(tl.int64) * tl.load(source + 1)
                    starts += _taken(r1, in_rows, tl.load(source + 6)).to(tl.int64) * tl.load(source + 2)
                    if ALIGNED:
                        starts = tl.multiple_of(starts, 16)
                        data = tl.multiple_of(data, 16)
                    x = tl.load(data + starts[:, None] + c[None, :], mask=inside, other=0)
                    outer, inner = tl.load(source + 7), tl.load(source + 8)
                    if (outer != 0) | (inner != 0):
                        places = _taken(c0, in_columns, outer) * columns_inside + _taken(c1, in_columns, inner)
                        places = tl.arange(0, ROWS)[:, None] * WIDTH + tl.where(in_columns, places, 0)[None, :]
                        # In one dimension: with two, whole rows would go to one warp each, and through its shuffles.
                        x = tl.gather(tl.reshape(x, [ROWS * WIDTH]), tl.reshape(places, [ROWS * WIDTH]), 0)
                        x = tl.reshape(x, [ROWS, WIDTH])
                    total += weight * x.to(SUM)
            out = tl.load(fields + (5 + SOURCES * 9 + k)).to(tl.pointer_type(DTYPE))
            if ALIGNED:
                out = tl.multiple_of(out, 16)
            tl.store(out + row_starts[:, None] + c[None, :], total.to(DTYPE), mask=inside)


@triton.jit
def _taken(index, inside, gather):
    """The entries `index` of one dimension by a gather in 32 bits, if there is one; int32."""
    index = index.to(tl.int32)
    if gather != 0:
        index = tl.load(gather.to(tl.pointer_type(tl.int32)) + index, mask=inside, other=0)
    return index


def warps_of(launch: Launch) -> int:
    """How many warps share a tile; twice as many where entries take twice the registers."""
    share = SHARE // 2 if launch.dtype == torch.float64 else SHARE
    return min(16, max(4, max(TILE, launch.width) // share))


def run(launch: Launch, table: np.ndarray, weights: Tensor, constants: Mapping[str, object]) -> None:
    """Interpolate parts whose rows have one padded width."""
    at_once = max(1, TILE // launch.width)
    turns = TURNS if int(table[:, 1].sum()) * launch.width >= MANY else 1
    part_of_tile, first_tile = launch.tiles(weights.device, at_once * turns, launch.width)
    rows_kernel[(len(part_of_tile),)](
        *(sent(weights.device, table), part_of_tile, first_tile, weights),
        **constants,
        ROWS=at_once,
        WIDTH=launch.width,
        TURNS=turns,
        num_warps=warps_of(launch),
    )

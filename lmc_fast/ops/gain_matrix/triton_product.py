"""The kernels of gain matrices' products; `triton.py` reasons about them and launches them."""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_candidates import keep_best

__all__ = ["banded", "grouped_kernel", "product_kernel", "store_tile"]


@triton.jit
def banded(tile, units, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr):
    """Row and column of a tile, in bands of GROUP rows: those that run side by side share operands in the cache."""
    down = tl.cdiv(units, BLOCK_M)
    across = tl.cdiv(units, BLOCK_N)
    band = GROUP * across
    first = (tile // band) * GROUP
    height = tl.minimum(down - first, GROUP)
    return first + (tile % band) % height, (tile % band) // height


@triton.jit
def store_tile(
    total,  # [BLOCK_M, BLOCK_N]
    out,
    units,
    out_row,
    split,
    column,  # of tiles
    rm,
    rn,
    duals,
    best_gains,
    best_columns,
    rests,
    ADD: tl.constexpr,
    BLOCK_N: tl.constexpr,
    KEPT: tl.constexpr,
):
    """A tile of one split in its place, added to what is there if ADD, and the KEPT best of each of its rows."""
    stored = (rm < units)[:, None] & (rn < units)[None, :]
    places = out + split.to(tl.int64) * units * out_row + (rm.to(tl.int64) * out_row)[:, None] + rn[None, :]
    if ADD:
        total += tl.load(places, mask=stored, other=0)
    tl.store(places, total, mask=stored)
    if KEPT:
        across = tl.cdiv(units, BLOCK_N)
        keep_best(total, duals, rm, rn, units, units, column, across, best_gains, best_columns, rests, KEPT)


@triton.jit
def _steps_of(
    a_rows,
    b_rows,
    gather,
    k,
    a_entry,
    b_entry,
    step,
    GATHERED: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """What one step multiplies: [BLOCK_M, BLOCK_K], [BLOCK_K, BLOCK_N]."""
    entries = step * BLOCK_K + tl.arange(0, BLOCK_K)
    inside = entries < k
    chosen = tl.load(gather + entries, mask=inside, other=0) if GATHERED else entries.to(tl.int64)
    x = tl.load(a_rows + (entries.to(tl.int64) * a_entry)[None, :], mask=inside[None, :], other=0)
    y = tl.load(b_rows + (chosen * b_entry)[:, None], mask=inside[:, None], other=0)
    if WIDEN:
        x = x.to(tl.float32)
        y = y.to(tl.float32)
    return x, y


@triton.jit
def _tile(
    a_rows,
    b_rows,
    gather,
    k,
    a_entry,
    b_entry,
    begin,
    end,
    GATHERED: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    FLUSH: tl.constexpr,
    NESTED: tl.constexpr,  # 1: a loop for each flush, 0: one loop that looks whether it is time
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """A tile of A @ B^T over some steps of K, from pointers to its rows of both: [BLOCK_M, BLOCK_N]."""
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    if NESTED:
        for first in range(begin, end, FLUSH):
            part = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
            for step in range(first, tl.minimum(first + FLUSH, end)):
                x, y = _steps_of(a_rows, b_rows, gather, k, a_entry, b_entry, step, GATHERED, WIDEN, BLOCK_K)
                part = tl.dot(x, y, part, input_precision=PRECISION)
            total += part
    else:
        part = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for step in range(begin, end):
            x, y = _steps_of(a_rows, b_rows, gather, k, a_entry, b_entry, step, GATHERED, WIDEN, BLOCK_K)
            part = tl.dot(x, y, part, input_precision=PRECISION)
            if (step - begin) % FLUSH == FLUSH - 1:
                total += part
                part = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        total += part
    return total


@triton.jit
def product_kernel(
    a,
    b,
    gather,  # int64 [k], read if GATHERED
    out,  # float32 [units, units], or [splits, units, units] if SPLIT
    units,
    k,
    a_unit,
    a_entry,
    b_unit,
    b_entry,
    out_row,
    steps_in_split,
    duals,  # read and written as by `keep_best`, if KEPT
    best_gains,
    best_columns,
    rests,
    GATHERED: tl.constexpr,
    ADD: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,  # the interpreter cannot multiply bfloat16
    FLUSH: tl.constexpr,
    NESTED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    KEPT: tl.constexpr,  # of each row, for one split alone; 0: none
):
    """One tile of A @ B^T over one split of K; added to what `out` holds if ADD."""
    row, column = banded(tl.program_id(0), units, BLOCK_M, BLOCK_N, GROUP)
    split = tl.program_id(1)
    rm = row * BLOCK_M + tl.arange(0, BLOCK_M)
    rn = column * BLOCK_N + tl.arange(0, BLOCK_N)
    # What lies beyond the last unit is computed from the first ones and not stored.
    am = tl.max_contiguous(tl.multiple_of(tl.where(rm < units, rm, 0), BLOCK_M), BLOCK_M).to(tl.int64)
    bn = tl.max_contiguous(tl.multiple_of(tl.where(rn < units, rn, 0), BLOCK_N), BLOCK_N).to(tl.int64)
    a_rows = a + (am * a_unit)[:, None]
    b_rows = b + (bn * b_unit)[None, :]
    begin = split * steps_in_split
    end = tl.minimum(begin + steps_in_split, tl.cdiv(k, BLOCK_K))
    total = _tile(
        a_rows,
        b_rows,
        gather,
        k,
        a_entry,
        b_entry,
        begin,
        end,
        GATHERED,
        PRECISION,
        WIDEN,
        FLUSH,
        NESTED,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
    )
    store_tile(
        total, out, units, out_row, split, column, rm, rn, duals, best_gains, best_columns, rests, ADD, BLOCK_N, KEPT
    )


@triton.jit
def grouped_kernel(
    table,  # int64 [groups, 7]: A, B, where to; units, width of A's and B's rows, of the rows to write; whether to add
    first_tile,  # int64 [groups]
    group_of_tile,  # int64 [tiles]
    DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    FLUSH: tl.constexpr,
    NESTED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One tile of A @ B^T of one of many groups, both laid out in rows of `width` entries."""
    tile = tl.program_id(0)
    group = tl.load(group_of_tile + tile)
    fields = table + group * 7
    a = tl.multiple_of(tl.load(fields).to(tl.pointer_type(DTYPE)), 16)
    b = tl.multiple_of(tl.load(fields + 1).to(tl.pointer_type(DTYPE)), 16)
    out = tl.load(fields + 2).to(tl.pointer_type(tl.float32))
    units = tl.load(fields + 3).to(tl.int32)
    width = tl.multiple_of(tl.load(fields + 4).to(tl.int32), 16)
    out_row = tl.load(fields + 5)
    tile -= tl.load(first_tile + group).to(tl.int32)
    across = tl.cdiv(units, BLOCK_N)
    rm = (tile // across) * BLOCK_M + tl.arange(0, BLOCK_M)
    rn = (tile % across) * BLOCK_N + tl.arange(0, BLOCK_N)
    # What lies beyond the last unit is computed from the first one and not stored.
    a_rows = a + (tl.where(rm < units, rm, 0).to(tl.int64) * width)[:, None]
    b_rows = b + (tl.where(rn < units, rn, 0).to(tl.int64) * width)[None, :]
    total = _tile(
        a_rows,
        b_rows,
        table,
        width,
        1,
        1,
        0,
        tl.cdiv(width, BLOCK_K),
        False,
        PRECISION,
        WIDEN,
        FLUSH,
        NESTED,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
    )
    stored = (rm < units)[:, None] & (rn < units)[None, :]
    places = out + (rm.to(tl.int64) * out_row)[:, None] + rn[None, :]
    if tl.load(fields + 6) != 0:
        total += tl.load(places, mask=stored, other=0)
    tl.store(places, total, mask=stored)

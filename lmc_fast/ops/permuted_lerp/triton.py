"""Permuted interpolation on a GPU: a whole model in a launch or a few, through a table of addresses.

Bytes: for M tensors of n entries of s bytes and K outputs, (M + K) * n * s, each read and written once; the gathers
are read again for every tile, 8 bytes for each row or column of it, from the second-level cache. Arithmetic: 2 M K n,
far under a GPU's ratio of operations to bytes: memory is what bounds it.

A part is seen as rows by columns, two dimensions of each (`triton_plan`). A program sums one tile: it works out the
places of its rows and of its columns once (divisions, gathers), and then adds the two for every entry. So a gather on
an outer axis chooses rows and stays coalesced. One on the last axis reads single entries of a row that the tile holds
in the first-level cache, a lane to a cache line at worst: there the cache's rate of lines, not memory, would be the
bound, and rows that are not too long go through shared memory (`triton_rows`). Of several outputs the first reads the
tile from memory, the others from the cache.

Launches are by dtype, by the width of rows, and by whether all rows start on 16 bytes, so that the accesses of those
which do are wide. The host hands them out without waiting: how a model of the same shapes is laid out is known from the
call before, indices are looked at once, and what is sent is one table of addresses a launch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from operator import attrgetter

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from ..._models import accumulate_dtype
from ..._tensors import addresses
from ..tuning import size_class, tuned
from . import naive, triton_rows
from .checks import Looked
from .triton_plan import Launch, planned
from .triton_tables import Known, known_indices, sent

__all__ = ["CONFIG", "OTHERS", "lerp_kernel", "permuted_lerp_many"]

# Rows and columns of a tile, warps.
CONFIG = (4, 1024, 8)
# What tuning tries beside it.
OTHERS = ((2, 1024, 8), (8, 512, 8), (1, 2048, 8))
# Longer rows than these leave the kernel that takes them whole too few registers.
MOST_WIDTH = 8192

_shape, _dtype = attrgetter("shape"), attrgetter("dtype")

DTYPES = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}


@triton.jit
def _places(index, inside, stride, gather):
    """Offsets of the entries `index` of one dimension, [block] int64."""
    place = index.to(tl.int64)
    if gather != 0:
        place = tl.load(gather.to(tl.pointer_type(tl.int64)) + place, mask=inside, other=0)
    return place * stride


@triton.jit
def lerp_kernel(
    table,  # int64 [parts, 4 + SOURCES * 9 + OUTPUTS]
    part_of_tile,  # int64 [tiles]
    first_tile,  # int64 [parts]
    weights,  # [OUTPUTS, SOURCES], in the dtype of sums
    SOURCES: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DTYPE: tl.constexpr,
    SUM: tl.constexpr,
    ALIGNED: tl.constexpr,
    INDEX: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """out[k] = sum_m weights[k, m] * source m gathered, for the parts of a table."""
    tile = tl.program_id(0)
    part = tl.load(part_of_tile + tile)
    fields = table + part * (4 + SOURCES * 9 + OUTPUTS)
    rows_inside = tl.load(fields)
    rows = tl.load(fields + 1)
    columns_inside = tl.load(fields + 2).to(INDEX)
    columns = tl.load(fields + 3).to(INDEX)
    if ALIGNED:
        columns = tl.multiple_of(columns, 16)
    across = tl.cdiv(columns, COLUMNS)
    tile -= tl.load(first_tile + part)
    r = (tile // across) * ROWS + tl.arange(0, ROWS).to(tl.int64)
    c = ((tile % across) * COLUMNS).to(INDEX) + tl.arange(0, COLUMNS).to(INDEX)
    in_rows = r < rows
    in_columns = c < columns
    inside = in_rows[:, None] & in_columns[None, :]
    r0 = r // rows_inside
    r1 = r % rows_inside
    c0 = c // columns_inside
    c1 = c % columns_inside
    row_starts = r * columns.to(tl.int64)
    if ALIGNED:
        row_starts = tl.multiple_of(row_starts, 16)
    for k in tl.static_range(OUTPUTS):
        total = tl.zeros((ROWS, COLUMNS), dtype=SUM)
        for m in tl.static_range(SOURCES):
            weight = tl.load(weights + k * SOURCES + m)
            # A source of weight 0 may hold anything.
            if weight != 0:
                source = fields + (4 + m * 9)
                data = tl.load(source).to(tl.pointer_type(DTYPE))
                starts = _places(r0, in_rows, tl.load(source + 1), tl.load(source + 5))
                starts += _places(r1, in_rows, tl.load(source + 2), tl.load(source + 6))
                in_order = (tl.load(source + 3) == columns_inside) & (tl.load(source + 4) == 1)
                in_order = in_order & (tl.load(source + 7) == 0) & (tl.load(source + 8) == 0)
                if in_order:
                    if ALIGNED:
                        starts = tl.multiple_of(starts, 16)
                        data = tl.multiple_of(data, 16)
                    x = tl.load(data + starts[:, None] + c[None, :], mask=inside, other=0)
                else:
                    steps = _places(c0, in_columns, tl.load(source + 3), tl.load(source + 7))
                    steps += _places(c1, in_columns, tl.load(source + 4), tl.load(source + 8))
                    x = tl.load(data + starts[:, None] + steps[None, :], mask=inside, other=0)
                total += weight * x.to(SUM)
        out = tl.load(fields + (4 + SOURCES * 9 + k)).to(tl.pointer_type(DTYPE))
        if ALIGNED:
            out = tl.multiple_of(out, 16)
        tl.store(out + row_starts[:, None] + c[None, :], total.to(DTYPE), mask=inside)


def permuted_lerp_many(
    tensors: Sequence[Sequence[Tensor]],
    weights: Sequence[Sequence[float]],
    gathers: Sequence[Sequence[tuple[Tensor | None, ...]]],
    out: Sequence[Sequence[Tensor]],
    looked: Looked | None = None,
) -> None:
    """Write ``out[k][p] = sum_m weights[k][m] * tensors[p][m] gathered``.

    Args:
        tensors, gathers: as `permuted_lerp_many`'s, all on one device; the tensors of a part have one dtype.
        out: contiguous, of that dtype, apart from the tensors.
        looked: where tensors and results start, as far as it is known.

    Raises:
        IndexError: indices beyond their dimension.
    """
    device = tensors[0][0].device
    flat = list(chain.from_iterable(tensors))
    models, outputs = len(tensors[0]), len(out)
    seen_data, seen_out = (None, None) if looked is None else looked
    data = np.array(addresses("tensors", flat, device, DTYPES) if seen_data is None else seen_data)
    data = data.reshape(-1, models)
    places = np.array(
        addresses("out", list(chain.from_iterable(out)), device, DTYPES) if seen_out is None else seen_out
    ).reshape(outputs, -1)
    each = list(chain.from_iterable(chain.from_iterable(gathers)))
    distinct = {id(one): one for one in each if one is not None}
    addresses("gathers", list(distinct.values()), device, (torch.int64,))
    known = known_indices(list(distinct.values()))
    runs = [one.run(index) for one, index in zip(known, distinct.values(), strict=True)]
    # By number from 1 on, in 64 and in 32 bits.
    indices = np.array(
        [(0, 0), *((run.data_ptr(), one.short.data_ptr()) for run, one in zip(runs, known, strict=True))]
    )
    numbers = {None: 0} | dict(zip(distinct, range(1, len(distinct) + 1), strict=True))
    firsts = flat[::models]
    launches, others = planned(
        tuple(map(_shape, firsts)),
        tuple(map(Tensor.stride, flat)),
        tuple(map(_dtype, firsts)),
        tuple(0 if one is None else numbers[id(one)] for one in each),
        ((data % 16 == 0).all(1) & (places % 16 == 0).all(0)).tobytes(),
        models,
        outputs,
        MOST_WIDTH if triton_rows.can() else 0,
    )
    for p in others:
        # More dimensions, gathered turn by turn, than the kernels hold: rare, and right by the reference.
        for row, (result,) in zip(out, naive.permuted_lerp_many([tensors[p]], weights, [gathers[p]]), strict=True):
            row[p].copy_(result)
    tables = [_table(launch, data, places, indices, known) for launch in launches]
    if not tables:
        return
    # One for all of them, and one for each kind of weights: what is sent costs as much as a launch.
    whole = sent(device, np.concatenate([table.ravel() for table in tables]))
    factors: dict[torch.dtype, Tensor] = {}
    for launch, table, part in zip(launches, tables, torch.split(whole, [t.size for t in tables]), strict=True):
        sums = accumulate_dtype(launch.dtype)
        if sums not in factors:
            factors[sums] = sent(device, np.array(weights, dtype=np.float64 if sums == torch.float64 else np.float32))
        _run(launch, table, part, factors[sums])


def _table(
    launch: Launch, data: np.ndarray, places: np.ndarray, indices: np.ndarray, known: Sequence[Known]
) -> np.ndarray:
    """A launch's table with the addresses of this call; rows of a known width take indices in 32 bits."""
    if not launch.width:
        return launch.filled(data, places, indices[:, 0])
    # Half types read the places of entries in 16 bits.
    short = torch.int16 if launch.dtype.itemsize == 2 else torch.int32
    rows = [known[gather - 1].of_row(inside, short) for gather, inside in launch.rows]
    return launch.filled(data, places, indices[:, 1], np.array([0, *(row.data_ptr() for row in rows)]))


def _run(launch: Launch, told: np.ndarray, table: Tensor, weights: Tensor) -> None:
    """Launch with a table on the device, and what it holds."""
    constants = {
        "SOURCES": weights.shape[1],
        "OUTPUTS": weights.shape[0],
        "DTYPE": DTYPES[launch.dtype],
        "SUM": DTYPES[weights.dtype],
        "ALIGNED": launch.aligned,
    }
    if launch.width:
        triton_rows.run(launch, told, table, weights, constants)
        return
    constants["INDEX"] = tl.int64 if launch.wide else tl.int32
    problem = {
        "dtype": launch.dtype,
        "sources": weights.shape[1],
        "outputs": weights.shape[0],
        "aligned": int(launch.aligned),
        "wide": int(launch.wide),
        "scattered": int(launch.gathers[:, :, 2:].any()),
        "parts": size_class(len(told)),
        "entries": size_class(int((told[:, 1] * told[:, 3]).sum())),
        "columns": size_class(int(told[:, 3].max())),
    }
    prepare = partial(_prepared, launch, table, weights, constants)
    prepare(tuned("lerp_kernel", problem, (CONFIG, *OTHERS), prepare, weights.device))()


def _prepared(
    launch: Launch, table: Tensor, weights: Tensor, constants: Mapping[str, object], config: tuple[int, int, int]
) -> Callable[[], object]:
    """What launches the kernel with a configuration."""
    rows, columns, warps = config
    part_of_tile, first_tile = launch.tiles(weights.device, rows, columns)
    return partial(
        lerp_kernel[(len(part_of_tile),)],
        *(table, part_of_tile, first_tile, weights),
        **constants,
        ROWS=rows,
        COLUMNS=columns,
        num_warps=warps,
    )

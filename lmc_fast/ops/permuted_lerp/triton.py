"""Permuted interpolation on a GPU: a whole model in a launch or a few, through a table of addresses.

Bytes: for M tensors of n entries of s bytes and K outputs, (M + K) * n * s, each read and written once; the gathers
are read again for every tile, 8 bytes for each row or column of it, from the second-level cache. Arithmetic: 2 M K n,
far under a GPU's ratio of operations to bytes: memory is what bounds it.

A part is seen as rows by columns, at most two dimensions each after neighbours that nothing tells apart are joined.
A program sums one tile: it works out the places of its rows and of its columns once (divisions, gathers), and then
adds the two for every entry. So a gather on an outer axis chooses rows and stays coalesced. One on the last axis
reads single entries of a row that the tile holds in the first-level cache, a lane to a cache line at worst: there the
cache's rate of lines, not memory, can be the bound. Of several outputs the first reads the tile from memory, the
others from the cache.

Launches are by dtype and by whether all rows start on 16 bytes, so that the accesses of those which do are wide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from ..._models import accumulate_dtype
from ..._tensors import addresses
from ..tuning import size_class, tuned
from . import naive, triton_rows
from .triton_tables import known_indices, sent, sent_tables

__all__ = ["CONFIG", "OTHERS", "lerp_kernel", "permuted_lerp_many"]

# Fields of a part before those of its sources: second row dimension, rows, second column dimension, columns, tiles
# across. Of a source: address, four strides, four addresses of gathers.
HEAD, EACH = 5, 9
# Rows and columns of a tile, warps.
CONFIG = (4, 1024, 8)
# What tuning tries beside it.
OTHERS = ((2, 1024, 8), (8, 512, 8), (1, 2048, 8))
# Turns of a program that takes whole rows, where there are so many entries.
TURNS, MANY = 4, 1 << 22
# From here on the last dimension makes good tiles by itself.
WIDE_ENOUGH = 256

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
    table,  # int64 [parts, HEAD + SOURCES * EACH + OUTPUTS]
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
    fields = table + part * (5 + SOURCES * 9 + OUTPUTS)
    rows_inside = tl.load(fields)
    rows = tl.load(fields + 1)
    columns_inside = tl.load(fields + 2).to(INDEX)
    columns = tl.load(fields + 3).to(INDEX)
    if ALIGNED:
        columns = tl.multiple_of(columns, 16)
    across = tl.load(fields + 4)
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
                source = fields + (5 + m * 9)
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
        out = tl.load(fields + (5 + SOURCES * 9 + k)).to(tl.pointer_type(DTYPE))
        if ALIGNED:
            out = tl.multiple_of(out, 16)
        tl.store(out + row_starts[:, None] + c[None, :], total.to(DTYPE), mask=inside)


# Size, strides and gathers of one dimension of all sources.
_Dim = tuple[int, list[int], list[Tensor | None]]


@dataclass(frozen=True)
class _Seen:
    """A part as the kernel sees it: sizes of four dimensions; strides and gathers of every source."""

    sizes: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    gathers: tuple[tuple[Tensor | None, ...], ...]


def permuted_lerp_many(
    tensors: Sequence[Sequence[Tensor]],
    weights: Sequence[Sequence[float]],
    gathers: Sequence[Sequence[tuple[Tensor | None, ...]]],
    out: Sequence[Sequence[Tensor]],
) -> None:
    """Write ``out[k][p] = sum_m weights[k][m] * tensors[p][m] gathered``.

    Args:
        tensors, gathers: as `permuted_lerp_many`'s, all on one device; the tensors of a part have one dtype.
        out: contiguous, of that dtype, apart from the tensors.

    Raises:
        IndexError: indices beyond their dimension.
    """
    device = tensors[0][0].device
    addresses("tensors", [tensor for part in tensors for tensor in part], device, DTYPES)
    addresses("out", [place for row in out for place in row], device, DTYPES)
    distinct = {id(one): one for part in gathers for index in part for one in index if one is not None}
    addresses("gathers", list(distinct.values()), device, (torch.int64,))
    indices_of = known_indices(list(distinct.values()))
    launches: dict[tuple[torch.dtype, bool, bool, int], list[tuple[int, _Seen]]] = {}
    for p, (part, indices) in enumerate(zip(tensors, gathers, strict=True)):
        if part[0].numel() == 0:
            continue
        places = [row[p] for row in out]
        seen = _seen_by_rows(part, indices)
        if seen is not None:
            width, wide = triton_rows.width_of(seen.sizes[2] * seen.sizes[3]), False
        else:
            seen, width = _seen(part, indices), 0
            if seen is None:
                # More dimensions, gathered turn by turn, than the kernel holds: rare, and right by the reference.
                results = naive.permuted_lerp_many([part], weights, [indices])
                for k, (result,) in enumerate(results):
                    out[k][p].copy_(result)
                continue
            wide = seen.sizes[2] * seen.sizes[3] >= 2**31
        launches.setdefault((part[0].dtype, _aligned(seen, [*part, *places]), wide, width), []).append((p, seen))
    factors: dict[torch.dtype, Tensor] = {}
    for (dtype, aligned, wide, width), found in launches.items():
        sums = accumulate_dtype(dtype)
        if sums not in factors:
            factors[sums] = sent(device, np.array(weights, dtype=np.float64 if sums == torch.float64 else np.float32))
        _launch(dtype, aligned, wide, width, found, tensors, factors[sums], out, indices_of)


def _launch(
    dtype: torch.dtype,
    aligned: bool,
    wide: bool,
    width: int,
    found: list[tuple[int, _Seen]],
    tensors: Sequence[Sequence[Tensor]],
    weights: Tensor,
    out: Sequence[Sequence[Tensor]],
    indices_of: Mapping[int, tuple[Tensor, Tensor]],
) -> None:
    # Rows of a known width take indices in 32 bits.
    bits = int(width > 0)
    heads, tails = [], []
    for p, seen in found:
        n0, n1, m0, m1 = seen.sizes
        heads.append((n1, n0 * n1, m1, m0 * m1))
        tail = []
        for tensor, strides, indices in zip(tensors[p], seen.strides, seen.gathers, strict=True):
            tail += [
                tensor.data_ptr(),
                *strides,
                *(0 if one is None else indices_of[id(one)][bits].data_ptr() for one in indices),
            ]
        tails.append(tail + [row[p].data_ptr() for row in out])
    constants = {
        "SOURCES": weights.shape[1],
        "OUTPUTS": weights.shape[0],
        "DTYPE": DTYPES[dtype],
        "SUM": DTYPES[weights.dtype],
        "ALIGNED": aligned,
    }
    if width:
        turns = TURNS if sum(head[1] for head in heads) * width >= MANY else 1
        triton_rows.prepared(heads, tails, weights, constants, width, turns)()
        return
    constants["INDEX"] = tl.int64 if wide else tl.int32
    problem = {
        "dtype": dtype,
        "sources": weights.shape[1],
        "outputs": weights.shape[0],
        "aligned": int(aligned),
        "wide": int(wide),
        "scattered": int(any(index is not None for _, seen in found for of in seen.gathers for index in of[2:])),
        "parts": size_class(len(found)),
        "entries": size_class(sum(rows * columns for _, rows, _, columns in heads)),
        "columns": size_class(max(columns for *_, columns in heads)),
    }
    prepare = partial(_prepared, heads, tails, weights, constants)
    prepare(tuned("lerp_kernel", problem, (CONFIG, *OTHERS), prepare, weights.device))()


def _prepared(
    heads: Sequence[tuple[int, int, int, int]],
    tails: Sequence[list[int]],
    weights: Tensor,
    constants: Mapping[str, object],
    config: tuple[int, int, int],
) -> Callable[[], object]:
    """The launch for parts with these fields, but for tiles across, which a configuration decides."""
    rows_of_tile, columns_of_tile, warps = config
    across = [triton.cdiv(columns, columns_of_tile) for *_, columns in heads]
    tables = sent_tables(
        [(*head, many, *tail) for head, many, tail in zip(heads, across, tails, strict=True)],
        [triton.cdiv(head[1], rows_of_tile) * many for head, many in zip(heads, across, strict=True)],
        weights.device,
    )
    return partial(
        lerp_kernel[(len(tables[1]),)],
        *tables,
        weights,
        **constants,
        ROWS=rows_of_tile,
        COLUMNS=columns_of_tile,
        num_warps=warps,
    )


def _seen_by_rows(part: Sequence[Tensor], gathers: Sequence[tuple[Tensor | None, ...]]) -> _Seen | None:
    """A part whose rows go through shared memory, if it is one: the last axis, or the one before it, is gathered."""
    if not triton_rows.can() or part[0].ndim == 0 or all(index is None for of in gathers for index in of):
        return None
    dims = _joined(part, gathers)
    taken = 1 if any(index is not None for index in dims[-1][2]) else 2
    if len(dims) < taken or not any(index is not None for index in dims[-taken][2]) or len(dims) - taken > 2:
        return None
    seen = _spread(dims, taken, len(part))
    _, _, outer, inner = seen.sizes
    if outer * inner > triton_rows.MOST_WIDTH or (taken == 2 and inner >= WIDE_ENOUGH):
        return None
    # Rows in one run.
    together = all(steps[3] == 1 and (outer == 1 or steps[2] == inner) for steps in seen.strides)
    return seen if together else None


def _seen(part: Sequence[Tensor], gathers: Sequence[tuple[Tensor | None, ...]]) -> _Seen | None:
    """Join dimensions and spread them over two of rows and two of columns; None if more than four are left."""
    dims = _joined(part, gathers)
    if len(dims) > 4:
        return None
    return _spread(dims, 2 if len(dims) == 4 or (len(dims) > 1 and dims[-1][0] < WIDE_ENOUGH) else 1, len(part))


def _joined(part: Sequence[Tensor], gathers: Sequence[tuple[Tensor | None, ...]]) -> list[_Dim]:
    """Size, strides and gathers of every dimension, those that nothing tells apart joined."""
    dims: list[_Dim] = []
    for d, size in enumerate(part[0].shape):
        if size == 1:
            continue
        strides = [tensor.stride(d) for tensor in part]
        indices = [index[d] for index in gathers]
        if dims and _follows(dims[-1], size, strides, indices):
            dims[-1] = (dims[-1][0] * size, strides, indices)
        else:
            dims.append((size, strides, indices))
    return dims or [(1, [1] * len(part), [None] * len(part))]


def _spread(dims: list[_Dim], taken: int, models: int) -> _Seen:
    """Four dimensions at most, of which the last `taken` are columns."""
    one: _Dim = (1, [0] * models, [None] * models)
    columns, rows = dims[-taken:], dims[:-taken]
    if len(columns) == 1:
        # What comes before a single dimension goes on where it ends.
        size, inner, _ = columns[0]
        columns = [(1, [size * stride for stride in inner], [None] * models), *columns]
    laid = [one] * (2 - len(rows)) + rows + columns
    sizes = tuple(size for size, _, _ in laid)
    steps = tuple(tuple(entry[1][m] for entry in laid) for m in range(models))
    return _Seen(sizes, steps, tuple(tuple(entry[2][m] for entry in laid) for m in range(models)))


def _follows(before: _Dim, size: int, strides: list[int], indices: list[Tensor | None]) -> bool:
    still = all(index is None for index in (*before[2], *indices))
    return still and all(outer == inner * size for outer, inner in zip(before[1], strides, strict=True))


def _aligned(seen: _Seen, tensors: Sequence[Tensor]) -> bool:
    """Whether every row of every tensor starts on 16 entries and on 16 bytes."""
    columns = seen.sizes[2] * seen.sizes[3]
    return (
        columns % 16 == 0
        and all(stride % 16 == 0 for strides in seen.strides for stride in strides[:2])
        and all(tensor.data_ptr() % 16 == 0 for tensor in tensors)
    )

"""Terms laid out next to each other as columns, gathered on the way: one launch for those of many groups.

Every byte is read and written once. Where an entry lies is worked out in the kernel from a table of sizes, strides
and addresses of gathers, so that nothing has to be prepared on the device.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from ..tuning import size_class, tuned
from .terms import Term

__all__ = [
    "DTYPES",
    "PACK_OTHERS",
    "PACK_TILE",
    "Job",
    "Sides",
    "lay_out",
    "pack_kernel",
    "run_jobs",
    "sent",
    "width_of",
]

DTYPES = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}
# Units and entries of a tile, warps. Sixteen half numbers are what memory gives at a time where the units run in order.
# Places are 64 bits wide: with eight entries to a thread they take 128 registers, so that four blocks run side by side.
PACK_TILE = (16, 64, 4)
# What tuning tries beside it.
PACK_OTHERS = ((32, 64, 8), (16, 64, 8), (8, 128, 4))
# Dimensions that units and entries may have once those which nothing tells apart are joined.
UNIT_DIMS, ENTRY_DIMS = 3, 4
# Rows of the destination are padded to so many entries, so that all of them can be read in wide loads.
PADDED = 16

_Indices = tuple[Tensor | None, ...]


@triton.jit
def _place(index, inside, stride, gather):
    """Offsets of the entries `index` of one dimension, [block] int64."""
    if gather != 0:
        index = tl.load(gather.to(tl.pointer_type(tl.int64)) + index, mask=inside, other=0)
    return index * stride


@triton.jit
def _steps(index, inside, fields, gathers):
    """Offsets of a unit's entries `index`, by the four addresses at `gathers`; [block] int64."""
    total = tl.zeros_like(index)
    for d in tl.static_range(3):
        size = tl.load(fields + (15 - d))
        total += _place(index % size, inside, tl.load(fields + (19 - d)), tl.load(gathers + (3 - d)))
        index = index // size
    return total + _place(index, inside, tl.load(fields + 16), tl.load(gathers))


@triton.jit
def pack_kernel(
    jobs,  # int64 [jobs, 29], as `_fields` writes them
    first_tile,  # int64 [jobs]
    job_of_tile,  # int64 [tiles]
    FROM: tl.constexpr,
    TO: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """to[unit, first column + entry] = sign * (from[unit, entry] - from[unit, entry of before]); zeros behind them."""
    tile = tl.program_id(0).to(tl.int64)
    job = tl.load(job_of_tile + tile)
    fields = jobs + job * 29
    source = tl.load(fields).to(tl.pointer_type(FROM))
    to = tl.load(fields + 1).to(tl.pointer_type(TO))
    sign = tl.load(fields + 2)
    column = tl.load(fields + 3)
    width = tl.load(fields + 4)
    units = tl.load(fields + 5)
    entries = tl.load(fields + 6)
    written = tl.load(fields + 7)
    tile -= tl.load(first_tile + job)
    across = tl.cdiv(written, COLUMNS)
    r = (tile // across) * ROWS + tl.arange(0, ROWS).to(tl.int64)
    c = (tile % across) * COLUMNS + tl.arange(0, COLUMNS).to(tl.int64)
    in_rows = r < units
    in_columns = c < entries
    inner = tl.load(fields + 8)
    innermost = tl.load(fields + 9)
    starts = (r // innermost // inner) * tl.load(fields + 10)
    starts += (r // innermost % inner) * tl.load(fields + 11) + (r % innermost) * tl.load(fields + 12)
    inside = in_rows[:, None] & in_columns[None, :]
    steps = _steps(c, in_columns, fields, fields + 20)
    x = tl.load(source + starts[:, None] + steps[None, :], mask=inside, other=0).to(tl.float32)
    if tl.load(fields + 24) != 0:
        steps = _steps(c, in_columns, fields, fields + 25)
        x -= tl.load(source + starts[:, None] + steps[None, :], mask=inside, other=0).to(tl.float32)
    if sign < 0:
        x = -x
    stored = in_rows[:, None] & (c < written)[None, :]
    tl.store(to + (r * width)[:, None] + (column + c)[None, :], x.to(TO), mask=stored)


@dataclass(frozen=True)
class Job:
    """What is laid out where: `tensor` into `to` [units, width], from `column` on, and `padding` zeros behind it."""

    tensor: Tensor
    unit_dims: tuple[int, ...]
    gathers: _Indices
    before: _Indices | None
    to: Tensor
    column: int
    sign: int = 1
    padding: int = 0


@dataclass(frozen=True)
class Sides:
    """The terms of one group next to each other: A and B [units, width]."""

    a: Tensor
    b: Tensor


def width_of(entries: int) -> int:
    """The width of rows that hold so many entries; one run of padding at least."""
    return -(-max(entries, 1) // PADDED) * PADDED


def lay_out(groups: Sequence[Sequence[Term]], dtype: torch.dtype) -> list[Sides]:
    """The terms of every group, gathered, as two matrices of `dtype`; rows are padded with zeros."""
    parts = [_parts(terms, dtype) for terms in groups]
    units = [terms[0].unit_count() for terms in groups]
    widths = [width_of(sum(part.term.entry_count() for part in found)) for found in parts]
    lengths = [count * width for count, width in zip(units, widths, strict=True)]
    memory = torch.empty(2 * sum(lengths), dtype=dtype, device=groups[0][0].a.device)
    sides, jobs, start = [], [], 0
    for found, count, width, length in zip(parts, units, widths, lengths, strict=True):
        a, b = (memory[place : place + length].view(count, width) for place in (start, start + length))
        start += 2 * length
        sides.append(Sides(a, b))
        column = 0
        for k, (term, gathers, before, sign) in enumerate(found):
            after = column + term.entry_count()
            padding = width - after if k == len(found) - 1 else 0
            still: _Indices = (None,) * term.a.ndim
            jobs.append(Job(term.a, term.units, still, None, a, column, sign, padding))
            jobs.append(Job(term.b, term.units, gathers, before, b, column, 1, padding))
            column = after
    run_jobs(jobs)
    return sides


def run_jobs(jobs: Sequence[Job]) -> None:
    """Lay out all jobs, in one launch for each pair of dtypes of a source and its destination."""
    # What is copied here has to live until the launch.
    kept: list[Tensor] = []
    found: dict[tuple[torch.dtype, torch.dtype], list[list[int]]] = {}
    for job in jobs:
        fields = _fields(job, kept)
        if _size(fields):
            found.setdefault((job.tensor.dtype, job.to.dtype), []).append(fields)
    device = jobs[0].to.device
    for (source, to), table in found.items():
        problem = {
            "source": source,
            "to": to,
            "jobs": size_class(len(table)),
            "entries": size_class(sum(map(_size, table))),
        }
        prepare = partial(_prepared, table, device, DTYPES[source], DTYPES[to])
        prepare(tuned("pack_kernel", problem, (PACK_TILE, *PACK_OTHERS), prepare, device))()


def _prepared(
    table: list[list[int]], device: torch.device, source: tl.dtype, to: tl.dtype, tile: tuple[int, int, int]
) -> Callable[[], object]:
    """The launch for jobs with these fields."""
    rows, columns, warps = tile
    fields = np.array(table)
    count = -(-fields[:, 5] // rows) * -(-fields[:, 7] // columns)
    tables = sent(device, fields, np.cumsum(count) - count, np.repeat(np.arange(len(table)), count))
    grid = (len(tables[2]),)
    return partial(pack_kernel[grid], *tables, FROM=source, TO=to, ROWS=rows, COLUMNS=columns, num_warps=warps)


def _size(fields: list[int]) -> int:
    """How many entries a job writes."""
    return fields[5] * fields[7]


def sent(device: torch.device, *tables: np.ndarray) -> tuple[Tensor, ...]:
    """Tables of int64 on a device, by one copy, each in one run; nobody waits for it.

    Pageable memory has been read when the call returns.
    """
    flat = torch.from_numpy(np.concatenate([table.ravel() for table in tables])).to(device, non_blocking=True)
    return torch.split(flat, [table.size for table in tables])


class _Part(NamedTuple):
    """A term, or what one of its two gathers alone adds."""

    term: Term
    gathers: _Indices
    before: _Indices | None
    sign: int


def _parts(terms: Sequence[Term], dtype: torch.dtype) -> list[_Part]:
    """The difference of two half numbers is none: such a correction is two terms, one of them negative."""
    parts = []
    for term in terms:
        if term.before is not None and dtype != torch.float32:
            parts += [_Part(term, term.gathers, None, 1), _Part(term, term.before, None, -1)]
        else:
            parts.append(_Part(term, term.gathers, term.before, 1))
    return parts


def _fields(job: Job, kept: list[Tensor]) -> list[int]:
    """A job as the kernel reads it.

    Addresses of source and destination, sign, first column, width, units, entries, entries written with the padding;
    sizes of the two inner unit dimensions and strides of three; sizes of the three inner dimensions of entries,
    strides of four, addresses of four gathers; whether to subtract, and the addresses for that.
    """
    tensor, gathers, before = job.tensor, job.gathers, job.before
    old = gathers if before is None else before
    layout = _layout(
        tensor.shape,
        tensor.stride(),
        job.unit_dims,
        tuple(None if index is None else index.numel() for index in gathers),
        tuple(index is None for index in old),
    )
    if layout is None:
        # Rare: gathered by torch, and laid out as the matrix that it then is.
        plain = _plain(tensor, job.unit_dims, gathers)
        if before is not None:
            plain = plain.float() - _plain(tensor, job.unit_dims, before).float()
        kept.append(plain)
        return _fields(Job(plain, (0,), (None, None), None, job.to, job.column, job.sign, job.padding), kept)
    return [
        *(tensor.data_ptr(), job.to.data_ptr(), job.sign, job.column, job.to.stride(0)),
        *(job.to.shape[0], layout.each, layout.each + job.padding),
        *layout.fields,
        *(0 if dim is None else _address(gathers[dim], kept) for dim in layout.dims),
        int(before is not None),
        *(0 if dim is None else _address(old[dim], kept) for dim in layout.dims),
    ]


class _Layout(NamedTuple):
    """What a job's fields say of its shape alone.

    Attributes:
        each: entries of a unit.
        fields: sizes of the two inner unit dimensions and strides of three; sizes of the three inner dimensions of
            entries and strides of four.
        dims: of the tensor, whose gathers the four are; None: nothing is gathered there.
    """

    each: int
    fields: tuple[int, ...]
    dims: tuple[int | None, ...]


@functools.lru_cache(maxsize=4096)
def _layout(
    shape: torch.Size,
    strides: tuple[int, ...],
    unit_dims: tuple[int, ...],
    chosen: tuple[int | None, ...],
    still: tuple[bool, ...],
) -> _Layout | None:
    """How a tensor is laid out; None if it has more dimensions than the kernel holds.

    Args:
        shape, strides, unit_dims: of the tensor.
        chosen: for every dimension how many entries its gather chooses, which need not be all (corrections choose
            some), or None where there is none.
        still: for every dimension whether there was no gather before.
    """
    units = _joined([(shape[d], strides[d], None) for d in unit_dims])
    rest = [d for d in range(len(shape)) if d not in unit_dims]
    sizes = [shape[d] if chosen[d] is None else int(chosen[d] or 0) for d in rest]
    moves = [None if chosen[d] is None and still[d] else d for d in rest]
    entries = _joined(list(zip(sizes, (strides[d] for d in rest), moves, strict=True)))
    if len(units) > UNIT_DIMS or len(entries) > ENTRY_DIMS:
        return None
    one = (1, 0, None)
    units = [one] * (UNIT_DIMS - len(units)) + units
    entries = [one] * (ENTRY_DIMS - len(entries)) + entries
    fields = (
        *(max(size, 1) for size, *_ in units[1:]),
        *(stride for _, stride, _ in units),
        *(max(size, 1) for size, *_ in entries[1:]),
        *(stride for _, stride, _ in entries),
    )
    return _Layout(math.prod(sizes), fields, tuple(dim for *_, dim in entries))


def _joined(dims: Sequence[tuple[int, int, int | None]]) -> list[tuple[int, int, int | None]]:
    """Dimensions (size, stride, which is gathered), outermost first, without those that nothing tells apart."""
    joined: list[tuple[int, int, int | None]] = []
    for size, stride, dim in dims:
        if size == 1 and dim is None:
            continue
        if joined and joined[-1][1] == stride * size and dim is joined[-1][2] is None:
            joined[-1] = (joined[-1][0] * size, stride, None)
        else:
            joined.append((size, stride, dim))
    return joined


def _address(index: Tensor | None, kept: list[Tensor]) -> int:
    if index is None:
        return 0
    kept.append(index.contiguous())
    return kept[-1].data_ptr()


def _plain(tensor: Tensor, units: tuple[int, ...], gathers: _Indices) -> Tensor:
    """[units, entries], gathered."""
    for d, index in enumerate(gathers):
        if index is not None:
            tensor = tensor.index_select(d, index)
    count = math.prod(tensor.shape[d] for d in units)
    return tensor.movedim(units, tuple(range(len(units)))).reshape(count, -1).contiguous()

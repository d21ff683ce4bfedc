"""Gain matrices on a GPU: one pass that lays the terms out, one product over all of them.

Operations: 2 n^2 K for n units and K entries a unit, over all terms. Bytes: at least 2 n K s in and 4 n^2 out, so
from n of a few hundred on the matrix units are the bound, 100 and more operations for every byte.

Where the gather goes. The product reads a tile of B once for every tile of A, n / 128 times in all. A gather along an
axis whose entries lie far apart (the units run in order: the transposed view of a weight) chooses whole runs and is
free: it is done in the loads of the product. One along the axis that runs in order makes every lane of a load touch
a cache line of its own, 32 turns of the first-level cache for 32 entries: at 128 x 128 x 64 in bfloat16 about 8000
turns where the matrix units need 600. So such a term is gathered once beforehand into rows in order, 2 n k s bytes
at the memory's rate, a tenth of the product's time at n = k = 4096 and less beyond. The same pass takes the
differences of a correction, and puts the terms of a group (convolutions, biases, norms) next to each other as
columns: one launch for all of them, and one product.

Precision. Half types multiply exactly. float32 is split into three products of tf32 ("tf32x3") or multiplied as it is
("ieee"). The matrix units cut, not round, when they add to a large sum: every `flush` steps the sum so far is added,
rounded, to one of its own. Few tiles over many entries are split along K; the parts are added in order, without
atomics: the same inputs give the same result.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..._backend import autotuning, interpreted
from .terms import Term

__all__ = ["DEFAULTS", "OTHERS", "PACK_TILE", "Config", "gain_matrix", "pack_kernel", "product_kernel"]

DTYPES = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}
# Units and entries of a tile of the pass that lays terms out, warps.
PACK_TILE = (32, 64, 4)
# Fields of a job of that pass: address, offsets of units, offsets of entries, offsets of what is subtracted or 0,
# entries, first column, destination, sign.
JOB = 8
MOST_SPLITS = 16


@dataclass(frozen=True)
class Config:
    """Sizes of a product's tiles, warps, stages of its pipeline; the steps after which a sum is flushed, 0 for none."""

    m: int
    n: int
    k: int
    warps: int
    stages: int
    flush: int


# By kind of number and maker, for large, middle and small products; none of them spills registers.
DEFAULTS: dict[tuple[str, str], tuple[Config, Config, Config]] = {
    ("half", "cuda"): (Config(128, 128, 64, 8, 4, 4), Config(128, 64, 64, 4, 4, 4), Config(64, 64, 64, 4, 4, 4)),
    ("float32", "cuda"): (Config(128, 64, 32, 8, 3, 2), Config(64, 64, 32, 4, 3, 2), Config(64, 32, 32, 4, 3, 2)),
    ("half", "hip"): (Config(128, 128, 64, 8, 2, 4), Config(128, 64, 64, 4, 2, 4), Config(64, 64, 64, 4, 2, 4)),
    ("float32", "hip"): (Config(128, 128, 32, 8, 2, 2), Config(64, 64, 32, 4, 2, 2), Config(64, 32, 32, 4, 2, 2)),
}
# What autotuning tries beside them.
OTHERS: dict[tuple[str, str], tuple[Config, ...]] = {
    ("half", "cuda"): (Config(128, 256, 64, 8, 3, 0), Config(128, 128, 128, 8, 3, 2)),
    ("float32", "cuda"): (Config(128, 128, 32, 8, 3, 2), Config(128, 128, 32, 8, 3, 0), Config(64, 128, 32, 4, 3, 2)),
    ("half", "hip"): (Config(64, 128, 64, 4, 2, 4),),
    ("float32", "hip"): (Config(64, 128, 32, 4, 2, 2),),
}
# Units from which on a product is of middle size, and large.
MIDDLE, LARGE = 512, 2048

_Indices = tuple[Tensor | None, ...]

_tuned: dict[tuple[object, ...], Config] = {}


@triton.jit
def pack_kernel(
    jobs,  # int64 [jobs, 8]
    job_of_tile,  # int32 [tiles]
    first_tile,  # int64 [jobs]
    units,
    width,  # of the destination's rows
    FROM: tl.constexpr,
    TO: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """to[unit, first column + entry] = sign * (from[unit, entry] - from[unit, entry of before])."""
    tile = tl.program_id(0)
    job = tl.load(job_of_tile + tile)
    fields = jobs + job.to(tl.int64) * 8
    source = tl.load(fields).to(tl.pointer_type(FROM))
    unit_places = tl.load(fields + 1).to(tl.pointer_type(tl.int64))
    places = tl.load(fields + 2).to(tl.pointer_type(tl.int64))
    before = tl.load(fields + 3)
    entries = tl.load(fields + 4)
    column = tl.load(fields + 5)
    to = tl.load(fields + 6).to(tl.pointer_type(TO))
    sign = tl.load(fields + 7)
    tile -= tl.load(first_tile + job)
    across = tl.cdiv(entries, COLUMNS)
    r = (tile // across) * ROWS + tl.arange(0, ROWS).to(tl.int64)
    c = (tile % across) * COLUMNS + tl.arange(0, COLUMNS).to(tl.int64)
    inside = (r < units)[:, None] & (c < entries)[None, :]
    starts = tl.load(unit_places + r, mask=r < units, other=0)
    steps = tl.load(places + c, mask=c < entries, other=0)
    x = tl.load(source + starts[:, None] + steps[None, :], mask=inside, other=0).to(tl.float32)
    if before != 0:
        steps = tl.load(before.to(tl.pointer_type(tl.int64)) + c, mask=c < entries, other=0)
        x -= tl.load(source + starts[:, None] + steps[None, :], mask=inside, other=0).to(tl.float32)
    if sign < 0:
        x = -x
    tl.store(to + (r * width)[:, None] + (column + c)[None, :], x.to(TO), mask=inside)


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
    GATHERED: tl.constexpr,
    ADD: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,  # the interpreter cannot multiply bfloat16
    FLUSH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    """One tile of A @ B^T over one split of K; added to what `out` holds if ADD."""
    tile = tl.program_id(0)
    split = tl.program_id(1)
    # Tiles in bands of GROUP rows, so that those which run side by side share their operands in the cache.
    down = tl.cdiv(units, BLOCK_M)
    across = tl.cdiv(units, BLOCK_N)
    band = GROUP * across
    first = (tile // band) * GROUP
    height = tl.minimum(down - first, GROUP)
    row = first + (tile % band) % height
    column = (tile % band) // height
    rm = row * BLOCK_M + tl.arange(0, BLOCK_M)
    rn = column * BLOCK_N + tl.arange(0, BLOCK_N)
    # What lies beyond the last unit is computed from the first ones and not stored.
    am = tl.max_contiguous(tl.multiple_of(tl.where(rm < units, rm, 0), BLOCK_M), BLOCK_M).to(tl.int64)
    bn = tl.max_contiguous(tl.multiple_of(tl.where(rn < units, rn, 0), BLOCK_N), BLOCK_N).to(tl.int64)
    a_rows = a + (am * a_unit)[:, None]
    b_rows = b + (bn * b_unit)[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    part = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    begin = split * steps_in_split
    end = tl.minimum(begin + steps_in_split, tl.cdiv(k, BLOCK_K))
    for step in range(begin, end):
        entries = step * BLOCK_K + tl.arange(0, BLOCK_K)
        inside = entries < k
        chosen = tl.load(gather + entries, mask=inside, other=0) if GATHERED else entries.to(tl.int64)
        x = tl.load(a_rows + (entries.to(tl.int64) * a_entry)[None, :], mask=inside[None, :], other=0)
        y = tl.load(b_rows + (chosen * b_entry)[:, None], mask=inside[:, None], other=0)
        if WIDEN:
            x = x.to(tl.float32)
            y = y.to(tl.float32)
        part = tl.dot(x, y, part, input_precision=PRECISION)
        # Not by `and`: Triton 3.2 takes a constant and a number of the run for bits of two sizes.
        if FLUSH:  # noqa: SIM102
            if (step - begin) % FLUSH == FLUSH - 1:
                total += part
                part = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    total += part
    stored = (rm < units)[:, None] & (rn < units)[None, :]
    places = out + split.to(tl.int64) * units * out_row + (rm.to(tl.int64) * out_row)[:, None] + rn[None, :]
    if ADD:
        total += tl.load(places, mask=stored, other=0)
    tl.store(places, total, mask=stored)


@dataclass(frozen=True)
class _Operand:
    """One side of a product: entry (unit, e) lies at unit * unit_stride + gather[e] * entry_stride."""

    tensor: Tensor
    unit_stride: int
    entry_stride: int
    gather: Tensor | None = None


def gain_matrix(terms: Sequence[Term], base: Tensor | None = None, precision: str = "tf32x3") -> Tensor:
    """`ops.gain_matrix.gain_matrix` of terms in float16, bfloat16 or float32; `base` float32, rows in one run."""
    counts = {_units(term) for term in terms}
    if len(counts) > 1:
        raise ValueError(f"terms must have one number of units, got {sorted(counts)}")
    units = counts.pop()
    device = terms[0].a.device
    dtype = terms[0].a.dtype
    for term in terms:
        dtype = torch.promote_types(dtype, torch.promote_types(term.a.dtype, term.b.dtype))
    operands = _operands(terms, units, dtype)
    add = base is not None
    out = torch.empty(units, units, dtype=torch.float32, device=device) if base is None else base
    k = sum(_entries(term) for term in terms) if operands is None else _entries(terms[0])
    if operands is None:
        a, b, k = _pack(terms, units, dtype, device)
        operands = (_Operand(a, a.stride(0), 1), _Operand(b, b.stride(0), 1))
    if units == 0:
        return out
    config = _config(dtype, units, k, operands, out, precision)
    _multiply(operands, k, out, add, precision, config)
    return out


def _multiply(
    operands: tuple[_Operand, _Operand], k: int, out: Tensor, add: bool, precision: str, config: Config
) -> None:
    a, b = operands
    units = out.shape[0]
    tiles = triton.cdiv(units, config.m) * triton.cdiv(units, config.n)
    steps = triton.cdiv(k, config.k)
    splits = max(1, min(_processors(out.device) // tiles, steps // 4, MOST_SPLITS))
    steps_in_split = max(1, triton.cdiv(steps, splits))
    splits = max(1, triton.cdiv(steps, steps_in_split))
    # Parts of their own, added in order.
    parts = out if splits == 1 else torch.empty(splits, units, units, dtype=torch.float32, device=out.device)
    product_kernel[(tiles, splits)](
        a.tensor,
        b.tensor,
        b.tensor if b.gather is None else b.gather,
        parts,
        units,
        k,
        a.unit_stride,
        a.entry_stride,
        b.unit_stride,
        b.entry_stride,
        parts.stride(-2),
        steps_in_split,
        GATHERED=b.gather is not None,
        ADD=add and splits == 1,
        PRECISION=_precision(a.tensor.dtype, precision),
        WIDEN=interpreted() and a.tensor.dtype == torch.bfloat16,
        FLUSH=config.flush,
        BLOCK_M=config.m,
        BLOCK_N=config.n,
        BLOCK_K=config.k,
        GROUP=8,
        num_warps=config.warps,
        num_stages=config.stages,
    )
    if splits > 1:
        total = parts.sum(0)
        out.copy_(out + total if add else total)


def _operands(terms: Sequence[Term], units: int, dtype: torch.dtype) -> tuple[_Operand, _Operand] | None:
    """The operands of a single term that are to be read where they lie, or None: lay everything out first."""
    if len(terms) > 1:
        return None
    (term,) = terms
    if term.before is not None or term.a.dtype != term.b.dtype or term.a.dtype != dtype:
        return None
    a, b = _matrix(term.a, term.units, (None,) * term.a.ndim), _matrix(term.b, term.units, term.gathers)
    if a is None:
        return None
    if b is not None and (b.gather is None or b.unit_stride == 1):
        return a, b
    packed, _ = _packed_side(term, units, dtype)
    return a, _Operand(packed, packed.stride(0), 1)


def _matrix(tensor: Tensor, unit_dims: tuple[int, ...], gathers: _Indices) -> _Operand | None:
    """A tensor as units by entries with one stride each, one of them 1, and one gather at most; None if it is not."""
    units = _joined([(tensor.shape[d], tensor.stride(d)) for d in unit_dims])
    rest = [d for d in range(tensor.ndim) if d not in unit_dims and tensor.shape[d] != 1]
    gathered = [d for d in rest if gathers[d] is not None]
    if gathered and len(rest) > 1:
        return None
    entries = _joined([(tensor.shape[d], tensor.stride(d)) for d in rest])
    if units is None or entries is None or 1 not in (units, entries):
        return None
    index = gathers[gathered[0]] if gathered else None
    return _Operand(tensor, units, entries, None if index is None else index.contiguous())


def _joined(dims: list[tuple[int, int]]) -> int | None:
    """The stride of dimensions (size, stride) taken together, outermost first; None if they have none."""
    dims = [(size, stride) for size, stride in dims if size != 1]
    if any(outer != inner * size for (_, outer), (size, inner) in itertools.pairwise(dims)):
        return None
    return dims[-1][1] if dims else 1


def _pack(terms: Sequence[Term], units: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, int]:
    """All terms next to each other: A [units, K] and B [units, K], rows on 16 entries; and K."""
    # The difference of two half numbers is none: such a correction is two terms, one of them negative.
    parts: list[tuple[Term, _Indices, _Indices | None, int]] = []
    for term in terms:
        if term.before is not None and dtype != torch.float32:
            parts += [(term, term.gathers, None, 1), (term, term.before, None, -1)]
        else:
            parts.append((term, term.gathers, term.before, 1))
    k = sum(_entries(term) for term, _, _, _ in parts)
    width = triton.cdiv(max(k, 1), 16) * 16
    sides = torch.empty(2, units, width, dtype=dtype, device=device)
    jobs: dict[torch.dtype, list[_Job]] = {}
    column = 0
    for term, gathers, before, sign in parts:
        still: _Indices = (None,) * term.a.ndim
        jobs.setdefault(term.a.dtype, []).append(_Job(term.a, term.units, still, None, sides[0], column, sign))
        jobs.setdefault(term.b.dtype, []).append(_Job(term.b, term.units, gathers, before, sides[1], column, 1))
        column += _entries(term)
    for found in jobs.values():
        _run_jobs(found, units)
    return sides[0], sides[1], k


def _packed_side(term: Term, units: int, dtype: torch.dtype) -> tuple[Tensor, int]:
    """B of one term, gathered: [units, entries], rows on 16 entries."""
    k = _entries(term)
    to = torch.empty(units, triton.cdiv(max(k, 1), 16) * 16, dtype=dtype, device=term.b.device)
    _run_jobs([_Job(term.b, term.units, term.gathers, None, to, 0, 1)], units)
    return to, k


@dataclass(frozen=True)
class _Job:
    """What is laid out where, by one dtype of sources and one of destinations."""

    tensor: Tensor
    unit_dims: tuple[int, ...]
    gathers: _Indices
    before: _Indices | None
    to: Tensor
    column: int
    sign: int


def _run_jobs(jobs: list[_Job], units: int) -> None:
    rows, columns, warps = PACK_TILE
    device = jobs[0].tensor.device
    kept, table, counts = [], [], []
    for job in jobs:
        rest = [d for d in range(job.tensor.ndim) if d not in job.unit_dims]
        offsets = [_offsets(job.tensor, job.unit_dims, (None,) * job.tensor.ndim)]
        offsets += [_offsets(job.tensor, rest, gathers) for gathers in (job.gathers, job.before) if gathers is not None]
        kept.append(offsets)
        entries = offsets[1].numel()
        before = offsets[2].data_ptr() if job.before is not None else 0
        places = [offsets[0].data_ptr(), offsets[1].data_ptr(), before]
        table.append([job.tensor.data_ptr(), *places, entries, job.column, job.to.data_ptr(), job.sign])
        counts.append(triton.cdiv(units, rows) * triton.cdiv(entries, columns))
    count = torch.tensor(counts)
    if int(count.sum()) == 0:
        return
    job_of_tile = torch.repeat_interleave(torch.arange(len(jobs), dtype=torch.int32), count)
    pack_kernel[(int(count.sum()),)](
        torch.tensor(table).to(device),
        job_of_tile.to(device),
        (torch.cumsum(count, 0) - count).to(device),
        units,
        jobs[0].to.stride(0),
        FROM=DTYPES[jobs[0].tensor.dtype],
        TO=DTYPES[jobs[0].to.dtype],
        ROWS=rows,
        COLUMNS=columns,
        num_warps=warps,
    )


def _offsets(tensor: Tensor, dims: Sequence[int], gathers: _Indices) -> Tensor:
    """Where the entries along `dims`, the last fastest, lie from the first: int64 [entries]."""
    places = torch.zeros(1, dtype=torch.int64, device=tensor.device)
    for d in dims:
        index = gathers[d]
        if index is None:
            index = torch.arange(tensor.shape[d], device=tensor.device)
        places = (places[:, None] + index * tensor.stride(d)).reshape(-1)
    return places


def _units(term: Term) -> int:
    count = 1
    for d in term.units:
        count *= term.a.shape[d]
    return count


def _entries(term: Term) -> int:
    units = _units(term)
    return term.a.numel() // units if units else 0


def _precision(dtype: torch.dtype, precision: str) -> str:
    if dtype != torch.float32:
        return "ieee"
    # AMD's matrix units multiply float32 as it is.
    return "ieee" if torch.version.hip is not None and precision == "tf32x3" else precision


def _processors(device: torch.device) -> int:
    """How many tiles run at a time."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _config(
    dtype: torch.dtype, units: int, k: int, operands: tuple[_Operand, _Operand], out: Tensor, precision: str
) -> Config:
    """The configuration for a product: by the table, or measured once for a size class where that is asked for."""
    kind = "float32" if dtype == torch.float32 else "half"
    maker = "cuda" if torch.version.hip is None else "hip"
    defaults = DEFAULTS[kind, maker]
    if not autotuning() or interpreted():
        return defaults[0 if units >= LARGE else 1 if units >= MIDDLE else 2]
    key = (kind, out.device, units.bit_length(), k.bit_length(), precision, operands[1].gather is not None)
    if key not in _tuned:
        trial = torch.empty_like(out)

        def seconds(config: Config) -> float:
            return float(
                triton.testing.do_bench(
                    lambda: _multiply(operands, k, trial, False, precision, config), return_mode="median"
                )
            )

        _tuned[key] = min((*defaults, *OTHERS[kind, maker]), key=seconds)
    return _tuned[key]

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

Many small groups (a few hundred units each) are one launch as well: every tile of every group is a program, which
finds its group's operands in a table of addresses. For those all terms are laid out first, the rows padded with zeros
to whole vectors; the groups with the longest sums come first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import triton
from torch import Tensor

from ..._backend import interpreted
from ..tuning import size_class, tuned
from .configs import DEFAULTS, GROUPED_OTHERS, LARGE, MIDDLE, OTHERS, Config
from .terms import Term, common_dtype, common_units
from .triton_pack import DTYPES, Job, Sides, lay_out, run_jobs, sent, width_of
from .triton_product import grouped_kernel, product_kernel

__all__ = ["gain_matrices", "gain_matrix"]

MOST_SPLITS = 16
# Groups of so many units fill a GPU by themselves.
ALONE = 1024

_Indices = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class _Operand:
    """One side of a product: entry (unit, e) lies at unit * unit_stride + gather[e] * entry_stride."""

    tensor: Tensor
    unit_stride: int
    entry_stride: int
    gather: Tensor | None = None


def gain_matrix(terms: Sequence[Term], base: Tensor | None = None, precision: str = "tf32x3") -> Tensor:
    """`ops.gain_matrix.gain_matrix` of terms in float16, bfloat16 or float32; `base` float32, rows in one run."""
    units = common_units(terms)
    dtype = common_dtype(terms)
    operands = _operands(terms, units, dtype)
    add = base is not None
    out = torch.empty(units, units, dtype=torch.float32, device=terms[0].a.device) if base is None else base
    if operands is None:
        (sides,) = lay_out([terms], dtype)
        k = sides.a.shape[1]
        operands = (_Operand(sides.a, k, 1), _Operand(sides.b, k, 1))
    else:
        k = terms[0].entry_count()
    if units == 0:
        return out

    def prepare(config: Config) -> Callable[[], object]:
        # Trials may not add to a base.
        return partial(_multiply, operands, k, torch.empty_like(out), False, precision, config)

    problem = {
        "dtype": dtype,
        "precision": _precision(dtype, precision),
        "gathered": int(operands[1].gather is not None),
        "units": size_class(units),
        "entries": size_class(k),
    }
    config = tuned("product_kernel", problem, _configs(dtype, units), prepare, out.device)
    _multiply(operands, k, out, add, precision, config)
    return out


def gain_matrices(
    groups: Sequence[Sequence[Term]], bases: Sequence[Tensor | None], precision: str = "tf32x3"
) -> list[Tensor]:
    """`gain_matrix` of many groups: those of up to `ALONE` units in one launch for each dtype."""
    out: list[Tensor | None] = [None] * len(groups)
    together: dict[torch.dtype, list[int]] = {}
    for g, (terms, base) in enumerate(zip(groups, bases, strict=True)):
        if terms and common_units(terms) <= ALONE and len(groups) > 1:
            together.setdefault(common_dtype(terms), []).append(g)
        else:
            out[g] = gain_matrix(terms, base, precision) if terms else base
    for dtype, chosen in together.items():
        results = _multiply_groups([groups[g] for g in chosen], [bases[g] for g in chosen], dtype, precision)
        for g, result in zip(chosen, results, strict=True):
            out[g] = result
    return [gain for gain in out if gain is not None]


def _multiply_groups(
    groups: Sequence[Sequence[Term]], bases: Sequence[Tensor | None], dtype: torch.dtype, precision: str
) -> list[Tensor]:
    device = groups[0][0].a.device
    sides = lay_out(groups, dtype)
    outs = [
        torch.empty(len(side.a), len(side.a), dtype=torch.float32, device=device) if base is None else base
        for side, base in zip(sides, bases, strict=True)
    ]
    if not any(len(side.a) for side in sides):
        return outs

    def prepare(config: Config) -> Callable[[], object]:
        # Trials may not add to a base.
        trial = [torch.empty_like(out) for out in outs]
        return _prepared(sides, trial, [False] * len(outs), dtype, precision, config)

    problem = {
        "dtype": dtype,
        "precision": _precision(dtype, precision),
        "groups": size_class(len(groups)),
        "units": size_class(max(len(side.a) for side in sides)),
        "entries": size_class(max(side.a.shape[1] for side in sides)),
    }
    kind = _kind(dtype)
    config = tuned("grouped_kernel", problem, (DEFAULTS[kind][2], *GROUPED_OTHERS[kind]), prepare, device)
    return _prepared(sides, outs, [base is not None for base in bases], dtype, precision, config)()


def _prepared(
    sides: Sequence[Sides],
    outs: list[Tensor],
    adds: Sequence[bool],
    dtype: torch.dtype,
    precision: str,
    config: Config,
) -> Callable[[], list[Tensor]]:
    """What multiplies the sides of many groups into `outs`, adding to those that `adds` names, and returns `outs`."""
    # Long sums first, so that no tile of theirs is left running at the end.
    order = sorted(range(len(sides)), key=lambda g: -sides[g].a.shape[1])
    table, tiles = [], []
    for g in order:
        (units, width), out = sides[g].a.shape, outs[g]
        addresses = (sides[g].a.data_ptr(), sides[g].b.data_ptr(), out.data_ptr())
        table.append([*addresses, units, width, out.stride(0), int(adds[g])])
        tiles.append(triton.cdiv(units, config.m) * triton.cdiv(units, config.n))
    count = torch.tensor(tiles)
    places = torch.repeat_interleave(torch.arange(len(order)), count)
    tables = sent(outs[0].device, torch.tensor(table), torch.cumsum(count, 0) - count, places)

    def launch() -> list[Tensor]:
        grouped_kernel[(len(places),)](
            *tables,
            DTYPE=DTYPES[dtype],
            PRECISION=_precision(dtype, precision),
            WIDEN=interpreted() and dtype == torch.bfloat16,
            FLUSH=config.flush,
            BLOCK_M=config.m,
            BLOCK_N=config.n,
            BLOCK_K=config.k,
            num_warps=config.warps,
            num_stages=config.stages,
        )
        return outs

    return launch


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
    k = term.entry_count()
    packed = torch.empty(units, width_of(k), dtype=dtype, device=term.b.device)
    run_jobs([Job(term.b, term.units, term.gathers, None, packed, 0)])
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


def _precision(dtype: torch.dtype, precision: str) -> str:
    if dtype != torch.float32:
        return "ieee"
    # AMD's matrix units multiply float32 as it is.
    return "ieee" if torch.version.hip is not None and precision == "tf32x3" else precision


def _processors(device: torch.device) -> int:
    """How many tiles run at a time."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _configs(dtype: torch.dtype, units: int) -> tuple[Config, ...]:
    """The configurations for a product, the default for its size first."""
    kind = _kind(dtype)
    default = DEFAULTS[kind][0 if units >= LARGE else 1 if units >= MIDDLE else 2]
    return (default, *(config for config in (*DEFAULTS[kind], *OTHERS[kind]) if config != default))


def _kind(dtype: torch.dtype) -> tuple[str, str]:
    """Kind of number and maker of the GPU, by which configurations are listed."""
    return "float32" if dtype == torch.float32 else "half", "cuda" if torch.version.hip is None else "hip"

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

Precision. Half types multiply exactly. float32 is split into three products of tf32 ("tf32x3"), or of float16, at
twice the rate and after a pass over both sides ("fp16x3", `triton_halves`: large products by "auto"), or is multiplied
as it is ("ieee"). The matrix units cut, not round, when they add to a large sum: every `flush` steps the sum so far
is added, rounded, to one of its own. Few tiles over many entries are split along K; the parts are added in order,
without atomics: the same inputs give the same result.

With precision "library", large products of half types are left to the GPU's own one (`blas`).

The LAP that comes next starts from each row's best columns and a bound of the others. Where they are asked for, the
tiles leave them behind (`triton_candidates`), so that nobody reads the result for them.

Many small groups (a few hundred units each) are one launch as well: every tile of every group is a program, which
finds its group's operands in a table of addresses. For those all terms are laid out first, the rows padded with zeros
to whole vectors; the groups with the longest sums come first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
import triton
from torch import Tensor

from ..._backend import interpreted
from ..tuning import size_class, tuned
from . import blas
from .configs import DEFAULTS, GROUPED_OTHERS, LARGE, MIDDLE, OTHERS, Config
from .terms import GainCandidates, Term, common_dtype, common_units
from .triton_candidates import Kept, gain_candidates
from .triton_cut import Cut
from .triton_halves import half_configs, halves_of, has_room, multiply_halves
from .triton_operands import Operand, operands_of
from .triton_pack import DTYPES, Sides, lay_out, sent
from .triton_product import grouped_kernel, product_kernel

__all__ = ["gain_matrices", "gain_matrix", "gain_matrix_and_candidates"]

# Entries from which on a term of a group is multiplied by itself: laying it out takes longer than adding to the result.
ALONE_FROM = 256
# Groups of so many units fill a GPU by themselves.
ALONE = 1024
# Units and entries from which on splitting float32 into halves pays.
HALVES_FROM, HALF_ENTRIES_FROM = 1024, 64


def gain_matrix(terms: Sequence[Term], base: Tensor | None = None, precision: str = "auto") -> Tensor:
    """`ops.gain_matrix.gain_matrix` of terms in float16, bfloat16 or float32; `base` float32, rows in one run."""
    return _gain(terms, base, precision)[0]


def gain_matrix_and_candidates(
    terms: Sequence[Term], column_duals: Tensor, k: int, base: Tensor | None = None, precision: str = "auto"
) -> tuple[Tensor, GainCandidates]:
    """`gain_matrix`, and the candidates of the result, which tiles of ours leave if they hold whole sums."""
    duals = column_duals.to(torch.float32).to(terms[0].a.device, non_blocking=True).contiguous()
    gain, kept = _gain(terms, base, precision, duals)
    return gain, gain_candidates(gain, duals, k) if kept is None else kept.merged(k)


def _gain(
    terms: Sequence[Term], base: Tensor | None, precision: str, duals: Tensor | None = None
) -> tuple[Tensor, Kept | None]:
    units = common_units(terms)
    dtype = common_dtype(terms)
    if blas.takes(terms, precision):
        return blas.gain_matrix(terms, base), None
    add = base is not None
    out = torch.empty(units, units, dtype=torch.float32, device=terms[0].a.device) if base is None else base
    if units == 0:
        return out, None
    products = _products(terms, units, dtype, precision)
    kept = None
    for place, (operands, k) in enumerate(products):
        # The last one's tiles hold whole sums.
        last = duals if place == len(products) - 1 else None
        kept = _product(operands, k, out, add or place > 0, precision, last)
    return out, kept


def _products(
    terms: Sequence[Term], units: int, dtype: torch.dtype, precision: str
) -> list[tuple[tuple[Operand, Operand], int]]:
    """What is multiplied, each with its number of entries: large terms where they lie, all others side by side."""
    found, others = [], []
    for term in terms:
        large = len(terms) == 1 or (units >= MIDDLE and term.entry_count() >= ALONE_FROM)
        gathers_runs = _by_halves(dtype, precision, units, term.entry_count(), term.a.device)
        operands = operands_of(term, dtype, gathers_runs) if large else None
        if operands is None:
            others.append(term)
        else:
            found.append((operands, term.entry_count()))
    if others:
        (sides,) = lay_out([others], dtype)
        k = sides.a.shape[1]
        found.append(((Operand(sides.a, k, 1), Operand(sides.b, k, 1)), k))
    return found


def _product(
    operands: tuple[Operand, Operand], k: int, out: Tensor, add: bool, precision: str, duals: Tensor | None
) -> Kept | None:
    dtype, units = operands[0].tensor.dtype, out.shape[0]
    problem: dict[str, object] = {"units": size_class(units), "entries": size_class(k)}
    if _by_halves(dtype, precision, units, k, out.device):
        sides = halves_of(operands[0], units, k), halves_of(operands[1], units, k)

        def prepare_halves(config: Config) -> Callable[[], object]:
            # Trials may not add to a base.
            return partial(multiply_halves, sides, torch.empty_like(out), False, config)

        config = tuned("halves_kernel", problem, half_configs(k, out.device), prepare_halves, out.device)
        return multiply_halves(sides, out, add, config, duals)

    def prepare(config: Config) -> Callable[[], object]:
        return partial(_multiply, operands, k, torch.empty_like(out), False, precision, config)

    problem |= {
        "dtype": dtype,
        "precision": _precision(dtype, precision),
        "gathered": int(operands[1].gather is not None),
    }
    config = tuned("product_kernel", problem, _configs(dtype, units), prepare, out.device)
    return _multiply(operands, k, out, add, precision, config, duals)


def _by_halves(dtype: torch.dtype, precision: str, units: int, k: int, device: torch.device) -> bool:
    """Whether a product of float32 is made of float16's: asked for, or large enough to pay for the splitting."""
    if dtype != torch.float32 or precision not in ("auto", "fp16x3"):
        return False
    large = units >= HALVES_FROM and k >= HALF_ENTRIES_FROM
    # AMD's matrix units multiply float32 as it is.
    return precision == "fp16x3" or (large and torch.version.hip is None and has_room(device))


def gain_matrices(
    groups: Sequence[Sequence[Term]], bases: Sequence[Tensor | None], precision: str = "auto"
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
    table = []
    for g in order:
        (units, width), out = sides[g].a.shape, outs[g]
        addresses = (sides[g].a.data_ptr(), sides[g].b.data_ptr(), out.data_ptr())
        table.append([*addresses, units, width, out.stride(0), int(adds[g])])
    fields = np.array(table)
    count = -(-fields[:, 3] // config.m) * -(-fields[:, 3] // config.n)
    places = np.repeat(np.arange(len(order)), count)
    tables = sent(outs[0].device, fields, np.cumsum(count) - count, places)

    def launch() -> list[Tensor]:
        grouped_kernel[(len(places),)](
            *tables,
            DTYPE=DTYPES[dtype],
            PRECISION=_precision(dtype, precision),
            WIDEN=interpreted() and dtype == torch.bfloat16,
            FLUSH=config.flush,
            NESTED=config.nested,
            BLOCK_M=config.m,
            BLOCK_N=config.n,
            BLOCK_K=config.k,
            num_warps=config.warps,
            num_stages=config.stages,
        )
        return outs

    return launch


def _multiply(
    operands: tuple[Operand, Operand],
    k: int,
    out: Tensor,
    add: bool,
    precision: str,
    config: Config,
    duals: Tensor | None = None,
) -> Kept | None:
    a, b = operands
    units = out.shape[0]
    cut = Cut.of(units, triton.cdiv(k, config.k), config, out, duals)
    product_kernel[cut.grid](
        a.tensor,
        b.tensor,
        b.tensor if b.gather is None else b.gather,
        cut.parts,
        units,
        k,
        a.unit_stride,
        a.entry_stride,
        b.unit_stride,
        b.entry_stride,
        cut.parts.stride(-2),
        cut.steps,
        *cut.kept_pointers(),
        GATHERED=b.gather is not None,
        ADD=add and not cut.splits,
        PRECISION=_precision(a.tensor.dtype, precision),
        WIDEN=interpreted() and a.tensor.dtype == torch.bfloat16,
        NESTED=config.nested,
        **cut.constants(config),
    )
    return cut.summed(out, add)


def _precision(dtype: torch.dtype, precision: str) -> str:
    if dtype != torch.float32:
        return "ieee"
    if precision in ("auto", "fp16x3", "library"):
        # Too small for the one, and not there for the other.
        precision = "tf32x3"
    # AMD's matrix units multiply float32 as it is.
    return "ieee" if torch.version.hip is not None and precision == "tf32x3" else precision


def _configs(dtype: torch.dtype, units: int) -> tuple[Config, ...]:
    """The configurations for a product, the default for its size first."""
    kind = _kind(dtype)
    default = DEFAULTS[kind][0 if units >= LARGE else 1 if units >= MIDDLE else 2]
    return (default, *(config for config in (*DEFAULTS[kind], *OTHERS[kind]) if config != default))


def _kind(dtype: torch.dtype) -> tuple[str, str]:
    """Kind of number and maker of the GPU, by which configurations are listed."""
    return "float32" if dtype == torch.float32 else "half", "cuda" if torch.version.hip is None else "hip"

"""Ways to do the same on a GPU, side by side: what the defaults of kernels are chosen by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from lmc_fast.ops.gain_matrix import Term, blas, triton
from lmc_fast.ops.gain_matrix import triton_halves as halves
from lmc_fast.ops.gain_matrix.configs import DEFAULTS, OTHERS, Config
from lmc_fast.ops.gain_matrix.triton_operands import Operand, operands_of
from lmc_fast.ops.gain_matrix.triton_pack import lay_out
from lmc_fast.ops.permuted_lerp import naive as lerp_naive
from lmc_fast.ops.permuted_lerp import triton as lerp
from lmc_fast.ops.permuted_lerp import triton_rows

from .kernel_works import Work, correction_work, gain_work, interpolation_work

__all__ = ["variants"]

# Tiles for rows that lie in order, beside the defaults.
TILES = (
    Config(128, 128, 64, 8, 3, 4, 1),
    Config(128, 128, 64, 8, 4, 8, 1),
    Config(128, 128, 64, 8, 4, 16, 1),
    Config(128, 128, 128, 8, 3, 4),
)
FEW = (halves.FEW_HALVES, Config(128, 64, 64, 8, 2, 8), Config(64, 128, 64, 8, 2, 8), Config(64, 64, 32, 4, 3, 8))
HALVES = (*halves.HALVES, Config(128, 128, 64, 8, 3, 4), Config(128, 128, 32, 8, 5, 8), Config(64, 128, 64, 4, 3, 8))
CHUNKS = (512, 4096)
# Entries of a tile of rows, of a warp's share, turns.
ROWS = (
    (4096, 512, 4),
    (4096, 512, 2),
    (4096, 512, 1),
    (4096, 1024, 1),
    (4096, 256, 1),
    (8192, 512, 1),
    (8192, 1024, 2),
)


def variants(n: int, device: torch.device) -> Iterator[Work]:
    """Works whose contenders are the variants, the first of them what is the default."""
    for dtype in (torch.bfloat16, torch.float32):
        for work, terms in _gains(n, dtype, device):
            others = [*_by_halves(terms)] if dtype == torch.float32 else [*_by_library(terms), *_by_tiles(terms, dtype)]
            yield replace(work, family=f"variants: {work.family}", contenders={**_torch(work), **dict(others)})
    for dtype in (torch.bfloat16, torch.float32):
        work = interpolation_work(n, dtype, device)
        others = dict(_interpolations(n, dtype, device))
        yield replace(work, family="variants: interpolation", contenders={**_torch(work), **others})


def _torch(work: Work) -> dict[str, Callable[[], object]]:
    """Ours as it is, and torch's own; not what takes long to compile."""
    return {name: run for name, run in work.contenders.items() if "compile" not in name}


def _gains(n: int, dtype: torch.dtype, device: torch.device) -> Iterator[tuple[Work, list[Term]]]:
    for columns in (False, True):
        work = gain_work(n, dtype, columns, device)
        yield work, _terms_of(work)
    work = correction_work(n, dtype, device)
    yield work, _terms_of(work)


def _terms_of(work: Work) -> list[Term]:
    return [work.term] if work.term is not None else []


def _by_library(terms: list[Term]) -> Iterator[tuple[str, Callable[[], object]]]:
    entries = terms[0].entry_count()
    for chunk in CHUNKS:
        if chunk // 2 < entries or chunk == CHUNKS[0]:
            yield f"library, chunks of {min(chunk, entries)}", lambda chunk=chunk: blas.gain_matrix(terms, chunk=chunk)


def _by_halves(terms: list[Term]) -> Iterator[tuple[str, Callable[[], object]]]:
    """What lays out and splits, and products of what is split already."""
    (term,) = terms
    k, units = term.entry_count(), term.unit_count()
    out = torch.zeros(units, units, device=term.a.device)
    operands = operands_of(term, torch.float32, True)
    configs, add = HALVES, operands is None
    if operands is None:
        yield "laid out", lambda: lay_out([terms], torch.float32)
        (sides,) = lay_out([terms], torch.float32)
        k = sides.a.shape[1]
        operands, configs = (Operand(sides.a, k, 1), Operand(sides.b, k, 1)), (*HALVES[:1], *FEW)
    for name, operand in zip("ab", operands, strict=True):
        yield f"halves of {name}", lambda operand=operand: halves.halves_of(operand, units, k)
    left, right = (halves.halves_of(operand, units, k) for operand in operands)
    split = left, right
    for config in configs:

        def multiplied(config: Config = config) -> object:
            halves.multiply_halves(split, out, add, config)
            # What is added again and again is no gain.
            return None if add else out

        yield f"halves, {_named(config)}", multiplied


def _by_tiles(terms: list[Term], dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], object]]]:
    units, k = terms[0].unit_count(), terms[0].entry_count()
    out = torch.empty(units, units, device=terms[0].a.device)
    for config in (*DEFAULTS["half", "cuda"][:1], *OTHERS["half", "cuda"][:1], *TILES):

        def laid_out(config: Config = config) -> object:
            for place, (a, b) in enumerate(blas._sides(terms[0], dtype)):
                triton._multiply((_operand(a), _operand(b)), k, out, place > 0, "ieee", config)
            return out

        yield f"tiles, laid out, {_named(config)}", laid_out
        if terms[0].before is not None:
            break


def _operand(matrix: Tensor) -> Operand:
    run = matrix.contiguous()
    return Operand(run, run.stride(0), 1)


def _named(config: Config) -> str:
    flush = f"flush {config.flush}{' nested' if config.nested else ''}"
    return f"{config.m} x {config.n} x {config.k}, {config.warps} warps, {config.stages} stages, {flush}"


def _interpolations(n: int, dtype: torch.dtype, device: torch.device) -> Iterator[tuple[str, Callable[[], object]]]:
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    gathers = [[(None, None), tuple(torch.randperm(n).to(device) for _ in range(2))]]
    out = [[torch.empty_like(a)]]

    def run(**settings: object) -> object:
        """With other settings for as long as it takes."""
        where = {name: triton_rows if hasattr(triton_rows, name) else lerp for name in settings}
        kept = {name: getattr(module, name) for name, module in where.items()}
        for name, value in settings.items():
            setattr(where[name], name, value)
        try:
            return lerp.permuted_lerp_many([[a, b]], [[0.5, 0.5]], gathers, out)
        finally:
            for name, value in kept.items():
                setattr(where[name], name, value)

    for tile, share, turns in ROWS:
        yield f"rows, {tile} a tile, {share} a warp, {turns} turns", partial(run, TILE=tile, SHARE=share, TURNS=turns)
    for config in (lerp.CONFIG, *lerp.OTHERS):
        name = f"entries, {config[0]} x {config[1]}, {config[2]} warps"
        yield name, partial(run, CONFIG=config, MOST_WIDTH=0)
    yield "plain reference", lambda: lerp_naive.permuted_lerp_many([[a, b]], [[0.5, 0.5]], gathers)

"""Spectral overlap on a GPU: both products of singular vectors, their product and its sums in one kernel.

Operations: 2 (m + n) r_a r_b. Bytes: the four matrices of vectors, 4 (m + n) (r_a + r_b), if the r_a x r_b products
stay in registers, as they do here: the matrix units are the bound. A tile of pairs (i, j) takes <u_a,i, P u_b,j> over
m, then <v_a,i, Q v_b,j> over n, multiplies the two and sums what passes each threshold. Permutations choose whole rows
of b's vectors, so their gather costs nothing. Tiles of which no pair passes the least threshold are not computed.
float32 is multiplied as three products of tf32. Sums of tiles are written and added in order, in float64, without
atomics: the same inputs give the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..tuning import size_class, tuned
from .naive import counted

__all__ = ["CONFIG", "OTHERS", "overlap_kernel", "spectral_overlap"]

# Vectors of a and of b in a tile, entries in a step, warps, stages. Twice the entries leave no register over, and spill
# under Triton 3.2.
CONFIG = (64, 64, 16, 4, 3)
# What tuning tries beside it.
OTHERS = ((64, 64, 32, 8, 3), (128, 64, 16, 8, 3), (64, 32, 32, 4, 3))


@triton.jit
def _product(
    a, b, gather, i, j, length, a_row, b_row, GATHERED: tl.constexpr, PRECISION: tl.constexpr, BLOCK_K: tl.constexpr
):
    """<a_i, b_j> over the rows of both, [block i, block j]."""
    total = tl.zeros((i.shape[0], j.shape[0]), dtype=tl.float32)
    for start in range(0, length, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inside = k < length
        chosen = tl.load(gather + k, mask=inside, other=0) if GATHERED else k.to(tl.int64)
        x = tl.load(a + i[:, None] + (k.to(tl.int64) * a_row)[None, :], mask=inside[None, :], other=0)
        y = tl.load(b + j[None, :] + (chosen * b_row)[:, None], mask=inside[:, None], other=0)
        total = tl.dot(x, y, total, input_precision=PRECISION)
    return total


@triton.jit
def overlap_kernel(
    u_a,
    v_a,
    u_b,
    v_b,
    rows,
    columns,
    passes_a,  # int32 [r_a]: how many of the thresholds, in ascending order, a vector passes
    passes_b,
    sums,  # float32 [tiles, THRESHOLDS]
    m,
    n,
    count_a,
    count_b,
    u_a_row,
    v_a_row,
    u_b_row,
    v_b_row,
    THRESHOLDS: tl.constexpr,
    BY_ROWS: tl.constexpr,
    BY_COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Sums over one tile of pairs of <u_a,i, P u_b,j> <v_a,i, Q v_b,j>, for every threshold."""
    tile = tl.program_id(0)
    across = tl.cdiv(count_b, BLOCK_J)
    i = (tile // across) * BLOCK_I + tl.arange(0, BLOCK_I)
    j = (tile % across) * BLOCK_J + tl.arange(0, BLOCK_J)
    of_a = tl.load(passes_a + i, mask=i < count_a, other=0)
    of_b = tl.load(passes_b + j, mask=j < count_b, other=0)
    if (tl.max(of_a, 0) > 0) & (tl.max(of_b, 0) > 0):
        # What lies beyond the last vector is computed from the first and does not pass.
        i = tl.where(i < count_a, i, 0)
        j = tl.where(j < count_b, j, 0)
        both = _product(u_a, u_b, rows, i, j, m, u_a_row, u_b_row, BY_ROWS, PRECISION, BLOCK_K)
        both *= _product(v_a, v_b, columns, i, j, n, v_a_row, v_b_row, BY_COLUMNS, PRECISION, BLOCK_K)
        for t in tl.static_range(THRESHOLDS):
            taken = (of_a > t)[:, None] & (of_b > t)[None, :]
            total = tl.sum(tl.sum(tl.where(taken, both, 0.0), 1), 0)
            tl.store(sums + tile.to(tl.int64) * THRESHOLDS + t, total)


def spectral_overlap(
    u_a: Tensor,
    s_a: Tensor,
    v_a: Tensor,
    u_b: Tensor,
    s_b: Tensor,
    v_b: Tensor,
    rows: Tensor | None,
    columns: Tensor | None,
    gammas: Sequence[float],
) -> Tensor:
    """R(gamma) for every gamma; as `ops.spectral_overlap.spectral_overlap`, float32 on one device."""
    order = sorted(range(len(gammas)), key=lambda g: gammas[g])
    if not order or min(s_a.numel(), s_b.numel()) == 0:
        return torch.zeros(len(gammas), dtype=torch.float64)
    passes = []
    sides = (u_a.shape[0], v_a.shape[0])
    for values in (s_a, s_b):
        # Whoever passes a threshold passes those below it.
        taken = torch.stack([counted(values, gammas[g], max(sides), min(sides)) for g in order])
        passes.append(taken.sum(0, dtype=torch.int32))
    vectors = [tensor.contiguous() for tensor in (u_a, v_a, u_b, v_b)]
    gathers = [None if index is None else index.contiguous() for index in (rows, columns)]
    problem = {
        "thresholds": len(order),
        "gathered": sum(index is not None for index in gathers),
        "rows": size_class(sides[0]),
        "columns": size_class(sides[1]),
        "vectors": size_class(max(s_a.numel(), s_b.numel())),
    }
    prepare = partial(_prepared, vectors, gathers, passes, len(order))
    sums = prepare(tuned("overlap_kernel", problem, (CONFIG, *OTHERS), prepare, u_a.device))()
    totals = sums.double().sum(0).cpu()
    found = torch.zeros(len(order), dtype=torch.float64)
    for place, g in enumerate(order):
        pairs = 1
        for passed in passes:
            pairs *= int((passed > place).sum())
        found[g] = totals[place] / pairs**0.5 if pairs else 0.0
    return found


def _prepared(
    vectors: Sequence[Tensor],
    gathers: Sequence[Tensor | None],
    passes: Sequence[Tensor],
    thresholds: int,
    config: tuple[int, int, int, int, int],
) -> Callable[[], Tensor]:
    """What sums tile by tile and returns the sums, [tiles, thresholds]."""
    u_a, v_a, u_b, v_b = vectors
    rows, columns = gathers
    block_i, block_j, block_k, warps, stages = config
    tiles = triton.cdiv(u_a.shape[1], block_i) * triton.cdiv(u_b.shape[1], block_j)
    # Tiles that nothing passes stay as they are here.
    sums = torch.zeros(tiles, thresholds, dtype=torch.float32, device=u_a.device)

    def launch() -> Tensor:
        overlap_kernel[(tiles,)](
            u_a,
            v_a,
            u_b,
            v_b,
            passes[0] if rows is None else rows,
            passes[0] if columns is None else columns,
            passes[0],
            passes[1],
            sums,
            u_a.shape[0],
            v_a.shape[0],
            u_a.shape[1],
            u_b.shape[1],
            u_a.stride(0),
            v_a.stride(0),
            u_b.stride(0),
            v_b.stride(0),
            THRESHOLDS=thresholds,
            BY_ROWS=rows is not None,
            BY_COLUMNS=columns is not None,
            PRECISION="tf32x3" if torch.version.hip is None else "ieee",
            BLOCK_I=block_i,
            BLOCK_J=block_j,
            BLOCK_K=block_k,
            num_warps=warps,
            num_stages=stages,
        )
        return sums

    return launch

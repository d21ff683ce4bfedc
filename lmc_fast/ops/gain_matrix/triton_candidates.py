"""Each row's best columns and a bound of all others, by gain less column dual: for the assignment that comes next.

A solve on the CPU that is given them need not read the matrix. The search for them must not read it either: 4 n^2
bytes, as many as the product writes. So a tile of the product keeps, while its gains are in registers, the KEPT best
of each of its rows and the value of the best of the others; from n x n / (rows x columns of a tile) programs that is
8 KEPT + 4 bytes for every row of a tile, 36 beside the 512 of 128 gains. A second small kernel reads those alone and
merges a row's tiles. Operations: KEPT + 1 maxima over a tile, some 30 for every gain, on units that the product leaves
idle: at n = k = 4096 a hundredth of its own 2 k.

The bound of a row is the greatest of what any tile left out and of what the merge did; a tile that holds more than
KEPT of a row's best so makes it less tight, never wrong. Of 32 tiles that keep 4 each, random rows have about 35
columns above their bound.

Rounding. Duals are rounded to float32 before, and handed out so: the bound is meant under these. A difference that is
rounded to r is below the number after r, and rounding keeps the order, so the number after the greatest r left out is
above every exact difference left out. A row with a gain or a difference that is not finite gets the bound +inf and no
columns.

A product that is split along K has no tile that sees whole gains. Its matrix is small, up to 512 units or so, 1 MB in
the cache: there, for groups laid out in one launch, and for gains that are there already, the tiles are read by a
kernel of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .terms import GainCandidates

__all__ = ["KEPT", "MERGE_ENTRIES", "SEARCH_TILE", "Kept", "candidates_kernel", "gain_candidates", "merge_kernel"]

# Columns that a tile keeps of each row.
KEPT = 4
# Rows and columns of a tile that is read from memory, warps.
SEARCH_TILE = (32, 64, 4)
# Entries of a block of the merge.
MERGE_ENTRIES = 1024


@triton.jit
def keep_best(
    gains,  # [BLOCK_M, BLOCK_N] of a tile
    duals,  # float32 [columns]
    rm,
    rn,
    rows,
    columns,
    tile,  # which of the row's tiles
    tiles,
    best_gains,  # float32 [rows, tiles, KEPT]
    best_columns,  # int32 [rows, tiles, KEPT]
    rests,  # float32 [rows, tiles]
    KEPT: tl.constexpr,
):
    """Store the KEPT best of each row of a tile, best first, and the best of the others; +inf if one is not finite."""
    in_rows = rm < rows
    in_columns = rn < columns
    reduced = gains - tl.load(duals + rn, mask=in_columns, other=0.0)[None, :]
    finite = tl.abs(reduced) < float("inf")
    wrong = tl.max(tl.where(finite, 0, 1) * tl.where(in_columns, 1, 0)[None, :], axis=1)
    reduced = tl.where(finite & in_columns[None, :], reduced, float("-inf"))
    first = tl.min(rn, axis=0)
    place = rm.to(tl.int64) * tiles + tile
    for k in tl.static_range(KEPT):
        best, at = tl.max(reduced, axis=1, return_indices=True)
        tl.store(best_gains + place * KEPT + k, best, mask=in_rows)
        tl.store(best_columns + place * KEPT + k, (first + at).to(tl.int32), mask=in_rows)
        reduced = tl.where((rn - first)[None, :] == at[:, None], float("-inf"), reduced)
    rest = tl.where(wrong != 0, float("inf"), tl.max(reduced, axis=1))
    tl.store(rests + place, rest, mask=in_rows)


@triton.jit
def candidates_kernel(
    gain,  # float32 [rows, columns]
    duals,
    best_gains,
    best_columns,
    rests,
    rows,
    columns,
    gain_row,
    gain_column,
    KEPT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """The best of one tile of a gain matrix, read from memory."""
    tiles = tl.cdiv(columns, BLOCK_N)
    tile = tl.program_id(0) % tiles
    rm = (tl.program_id(0) // tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
    rn = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    places = gain + (rm.to(tl.int64) * gain_row)[:, None] + (rn.to(tl.int64) * gain_column)[None, :]
    gains = tl.load(places, mask=(rm < rows)[:, None] & (rn < columns)[None, :], other=0.0)
    keep_best(gains, duals, rm, rn, rows, columns, tile, tiles, best_gains, best_columns, rests, KEPT)


@triton.jit
def merge_kernel(
    best_gains,  # float32 [rows, width]: of all tiles
    best_columns,  # int32 [rows, width]
    rests,  # float32 [rows, tiles]
    chosen,  # int32 [rows, k]
    bounds,  # float32 [rows]
    rows,
    width,
    tiles,
    k,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    TILES: tl.constexpr,
):
    """The k best of what the tiles of some rows kept, and the number after the best that is left out."""
    rm = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    in_rows = rm < rows
    entry = tl.arange(0, WIDTH)
    places = (rm.to(tl.int64) * width)[:, None] + entry[None, :]
    inside = in_rows[:, None] & (entry < width)[None, :]
    left = tl.load(best_gains + places, mask=inside, other=float("-inf"))
    tile = tl.arange(0, TILES)
    inside = in_rows[:, None] & (tile < tiles)[None, :]
    rest = tl.load(rests + (rm.to(tl.int64) * tiles)[:, None] + tile[None, :], mask=inside, other=float("-inf"))
    bound = tl.max(rest, axis=1)
    sound = in_rows & (bound < float("inf"))
    for s in range(k):
        best, at = tl.max(left, axis=1, return_indices=True)
        taken = sound & (best > float("-inf"))
        column = tl.load(best_columns + rm.to(tl.int64) * width + at, mask=taken, other=-1)
        tl.store(chosen + rm.to(tl.int64) * k + s, column, mask=in_rows)
        left = tl.where(entry[None, :] == at[:, None], float("-inf"), left)
    bound = tl.maximum(bound, tl.max(left, axis=1))
    bits = bound.to(tl.int32, bitcast=True)
    after = tl.where(bound > 0, bits + 1, tl.where(bound < 0, bits - 1, 1)).to(tl.float32, bitcast=True)
    tl.store(bounds + rm, tl.where(tl.abs(bound) < float("inf"), after, bound), mask=in_rows)


@dataclass(frozen=True)
class Kept:
    """What the tiles of a matrix keep of its rows, under column duals in float32."""

    gains: Tensor  # float32 [rows, tiles, KEPT]
    columns: Tensor  # int32 [rows, tiles, KEPT]
    rests: Tensor  # float32 [rows, tiles]
    duals: Tensor  # float32 [columns]

    @classmethod
    def empty(cls, rows: int, tiles: int, duals: Tensor) -> Kept:
        gains = torch.empty(rows, tiles, KEPT, device=duals.device)
        columns = torch.empty(rows, tiles, KEPT, dtype=torch.int32, device=duals.device)
        return cls(gains, columns, torch.empty(rows, tiles, device=duals.device), duals)

    def merged(self, k: int) -> GainCandidates:
        """The k best columns of each row."""
        rows, tiles = self.rests.shape
        chosen = torch.empty(rows, k, dtype=torch.int32, device=self.duals.device)
        bounds = torch.empty(rows, device=self.duals.device)
        if rows:
            width = triton.next_power_of_2(max(1, tiles * KEPT))
            block = max(1, MERGE_ENTRIES // width)
            merge_kernel[(triton.cdiv(rows, block),)](
                *(self.gains, self.columns, self.rests, chosen, bounds, rows, tiles * KEPT, tiles, k),
                ROWS=block,
                WIDTH=width,
                TILES=triton.next_power_of_2(max(1, tiles)),
                num_warps=4,
            )
        return GainCandidates(chosen, bounds, self.duals)


def gain_candidates(gain: Tensor, column_duals: Tensor, k: int) -> GainCandidates:
    """`ops.gain_matrix.gain_candidates` of a float32 matrix with any strides."""
    rows, columns = gain.shape
    block_m, block_n, warps = SEARCH_TILE
    tiles = triton.cdiv(columns, block_n)
    kept = Kept.empty(rows, tiles, column_duals.to(torch.float32).to(gain.device, non_blocking=True).contiguous())
    if gain.numel():
        candidates_kernel[(triton.cdiv(rows, block_m) * tiles,)](
            *(gain, kept.duals, kept.gains, kept.columns, kept.rests, rows, columns, *gain.stride()),
            KEPT=KEPT,
            BLOCK_M=block_m,
            BLOCK_N=block_n,
            num_warps=warps,
        )
    return kept.merged(k)

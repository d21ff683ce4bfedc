from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

def build() -> tuple[str, bool, str]:
    """The compiler, whether it was asked to optimise, and the widest instruction set that is used here."""

def solve_lap(
    cost: NDArray[np.float32] | NDArray[np.float64],
    maximize: bool,
    *,
    row_duals: NDArray[np.float64] | None = None,
    column_duals: NDArray[np.float64] | None = None,
    column_of_row: NDArray[np.int64] | None = None,
    changed_rows: NDArray[np.int64] | None = None,
    changed_columns: NDArray[np.int64] | None = None,
    candidate_columns: NDArray[np.int32] | None = None,
    candidate_bounds: NDArray[np.float64] | None = None,
    threads: int = 0,
    name: str = "cost",
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Solve a matrix that is contiguous along its longer side; return (column_of_row, row_duals, column_duals).

    `column_of_row` holds -1 for rows left over. The solve starts from duals and `column_of_row` where they are given
    (together). Numbers of changed rows and columns, both ascending, promise that these are a solution of the cost
    as it was, and that no other entry has changed; the core may leave the others unread. `candidate_columns`
    [n, k] (-1: none) and `candidate_bounds` [n] promise, of each row with a bound other than -inf (+inf when
    maximizing), that its entries are valid and that under the start's column duals no column that it does not list has
    a reduced cost below (above) the bound; the core may leave such rows unread. Raises ValueError for NaN,
    the infinity of the wrong sign and infeasible matrices, OverflowError for float64 entries beyond 2**960. The
    result does not depend on `threads` (0: all cores). Messages call the matrix `name`.
    """

def assign(cost: object, maximize: bool, /) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Solve an aligned C-contiguous float32 or float64 array of at most as many rows as columns.

    Returns (row_ind, col_ind), or None for any other object, and where `solve_lap` would raise ValueError or
    OverflowError. As fast a call as can be.
    """

def solve_lap_batch(
    costs: NDArray[np.float32] | NDArray[np.float64], maximize: bool, *, threads: int = 0, name: str = "costs"
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Solve C-contiguous [batch, rows, columns]; return (column_of_row, row_duals, column_duals), batch first.

    `column_of_row` [batch, rows] holds -1 for rows left over. Errors are those of `solve_lap` and name the first
    problem that has one, as an item of `name`.
    """

def permuted_dots(parts: Sequence[LerpPart], squares: bool, *, threads: int = 0) -> list[tuple[float, float, float]]:
    """<a, a> and <b, b> (0 unless `squares`), and <a, b>, of pairs of tensors, given as to `permuted_lerp`.

    Each has two sources and no outputs. Raises IndexError for indices beyond their dimension. The result does not
    depend on `threads`.
    """

class Descent:
    """Coordinate descent over the permutations of groups that lie beside each other; no two calls at once.

    Gains are float32, summed column by column in one order, whatever the threads (0: all cores). Calls raise
    KeyboardInterrupt in the middle, and are not to be gone on from then.

    Args:
        parameters: (address of a, address of b, axes), float32, which must stay there; of each axis (size, stride in a,
            stride in b, segments), and of each segment (group, outer, inner), or (-1, 1, entries) where nothing moves.
        groups: (units, scale, leaves, neighbours): what is no more than `scale` is no gain; a leaf is (parameter, axis,
            start, outer, inner, tail, length): (outer, unit, inner) from `start` on, and of each unit `length` entries
            from `tail`; neighbours are the groups whose gains it changes. No parameter has one group on two axes.
        worth_correcting: share of a gain's columns that are corrected at most, rather than all summed anew.
        most_corrections: shares after which a gain is summed anew.
        factors: (parameter, axis, rank, (q_a, q_b, c_a, c_b)): Q C in the place of a parameter, by the addresses of
            Q [entries of the axis, rank] and C [rank, entries of the other axes in their order], float32, in one run.
            Gains over such are summed anew at each visit.

    Raises:
        ValueError: numbers that do not fit each other.
    """

    def __init__(
        self,
        parameters: Sequence[tuple[int, int, Sequence[tuple[int, int, int, Sequence[tuple[int, int, int]]]]]],
        groups: Sequence[tuple[int, float, Sequence[tuple[int, int, int, int, int, int, int]], Sequence[int]]],
        worth_correcting: float,
        most_corrections: float,
        factors: Sequence[tuple[int, int, int, Sequence[int]]] = (),
    ) -> None: ...
    def choice(self, group: int) -> NDArray[np.int64]:
        """Where the units of a group are: int64 [units]. All are in place at first."""

    def choose(self, group: int, choice: NDArray[np.int64]) -> None:
        """Put a group elsewhere. ValueError unless that is a permutation of its units."""

    def anchor(self, visits: Sequence[tuple[int, Sequence[int]]], *, threads: int = 0) -> None:
        """Put groups, one after another, where some of their leaves (numbers, ascending) say; none: where they are."""

    def sweep(self, batches: Sequence[Sequence[int]], *, threads: int = 0) -> tuple[float, int, int, bool]:
        """Put those groups that are stale where they are best, the neighbours of those that move being stale then.

        Groups of one batch are no neighbours, and named once. Returns what was gained, how many units moved, how many
        groups were solved, and whether any is stale.
        """

    def set_stale(self, groups: Sequence[int]) -> None:
        """Make these groups stale, and no others."""

    def check(self, *, threads: int = 0) -> list[tuple[int, float, float, float]]:
        """Of each gain that was corrected (group, ||gain r - A (B^T r)||, ||A|| ||B||, its share of corrections).

        Over a few rows and columns, for a vector r of signs, in float64.
        """

    def forget(self, group: int) -> None:
        """Sum the next gain of a group anew."""

def lay_out(
    type: int,
    sizes: Sequence[int],
    limits: Sequence[int],
    address: int,
    strides: Sequence[int],
    gathers: Sequence[int],
    out: int,
    *,
    threads: int = 0,
) -> None:
    """Write a tensor, gathered along its dimensions, in C order as float32 (float64 for type 3).

    `sizes` are those of the result, `limits` those of the tensor; `gathers` are the addresses of int64 indices, 0 where
    nothing moves. Raises IndexError for indices beyond their dimension.
    """

def contract(
    type: int,
    address: int,
    sizes: Sequence[int],
    strides: Sequence[int],
    vector: int,
    out: int,
    units: bool,
    *,
    threads: int = 0,
) -> None:
    """Contract a tensor [before, units, after] with a vector of float64, over its units or over all else.

    `strides` are those of before and units, in elements; after, or units where that is 1, lies in one run. None of
    the three is 0. Over units `vector` has [units] and `out` [before, after], else the other way round.
    """

LerpPart = tuple[int, Sequence[int], Sequence[int], Sequence[Sequence[int]], Sequence[Sequence[int]], Sequence[int]]

def permuted_lerp(parts: Sequence[LerpPart], weights: Sequence[Sequence[float]], *, threads: int = 0) -> None:
    """Write weighted sums of gathered tensors, for all parts at once.

    A part is (type, sizes, addresses, strides, gathers, outputs): type 0 to 3 for float16, bfloat16, float32 and
    float64; for every source its address, its strides in elements and for every dimension the address of int64
    indices, 0 where nothing moves; the addresses of C-contiguous outputs, one for each row of weights. The caller
    keeps what lies at the addresses alive. Raises IndexError for indices beyond their dimension.
    """

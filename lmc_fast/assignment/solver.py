"""A solver that keeps duals and matching from one matrix to the next."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .. import _native
from .._checks import check_int, check_type
from .candidates import Candidates, Listed, listed_of
from .entries import SCALE_DOWN, Floats, matrix_of, numbers_of

__all__ = ["AssignmentSolver", "Solution", "last_solution", "solve_from", "threads_of"]


class Solution(NamedTuple):
    """What a solve found. Its arrays are never written to.

    Attributes:
        column_of_row: int64 [n], -1 where a row is left over.
        row_duals, column_duals: float64 [n], [m]; those of the cost times 2**exponent.
        exponent: 0, or less where the entries were too large for their sums.
    """

    column_of_row: NDArray[np.int64]
    row_duals: NDArray[np.float64]
    column_duals: NDArray[np.float64]
    exponent: int = 0

    def fits(self, matrix: Floats) -> bool:
        """Whether a solve of `matrix` can start here: the same shape, and duals of the entries as they are."""
        return (len(self.row_duals), len(self.column_duals)) == matrix.shape and not self.exponent


class Changes(NamedTuple):
    """Where a matrix differs from the one solved before: int64, ascending, distinct."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]


Found: TypeAlias = "tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]"


def solve_from(
    start: Solution | None,
    matrix: Floats,
    maximize: bool,
    threads: int,
    changes: Changes | None = None,
    listed: Listed | None = None,
    name: str = "cost",
) -> Solution | Found:
    """Solve a matrix that `matrix_of` gave back, from `start` if that fits it, else from nothing.

    With `changes`, all other entries of the matrix must be those of which `start` is the solution; with `listed`, it
    must fit. Messages call the matrix `name`.
    """
    try:
        if start is not None and start.fits(matrix):
            return _native.solve_lap(
                matrix,
                maximize,
                row_duals=start.row_duals,
                column_duals=start.column_duals,
                column_of_row=start.column_of_row,
                changed_rows=None if changes is None else changes.rows,
                changed_columns=None if changes is None else changes.columns,
                candidate_columns=None if listed is None else listed.columns,
                candidate_bounds=None if listed is None else listed.bounds,
                threads=threads,
                name=name,
            )
        # A small solve takes no longer than named arguments do.
        if not threads and name == "cost":
            return _native.solve_lap(matrix, maximize)
        return _native.solve_lap(matrix, maximize, threads=threads, name=name)
    except OverflowError:
        scaled = np.ldexp(matrix, SCALE_DOWN)
        return Solution(*_native.solve_lap(scaled, maximize, threads=threads, name=name), SCALE_DOWN)


def threads_of(threads: int | None) -> int:
    """What the core takes for the argument `threads`: 0 for all cores."""
    return 0 if threads is None else check_int("threads", threads, 1)


class AssignmentSolver:
    """Solves one assignment problem after another, each from the duals and the matching of the one before.

    Exact whatever the cost has become: any duals are a valid start, near ones a fast one. A cost of another shape
    than the last one's starts from nothing, and so does one beside whose entries the last duals are too large.

    The state is a few vectors of the matrix's sides; no matrix is kept. A call that raises (bad input, Ctrl-C)
    leaves it as it was. Solvers share nothing: use one for each thread. They can be pickled and copied; a copy
    goes its own way.

    Args:
        maximize: look for the greatest total in place of the least, on every call.
        threads: how many to use at most; None: as many as there are cores. They do not change the result.

    Raises:
        TypeError: `maximize` is not a bool, or `threads` no whole number.
        ValueError: `threads` is less than 1.
    """

    def __init__(self, maximize: bool = False, *, threads: int | None = None) -> None:
        check_type("maximize", maximize, (bool, np.bool_), "a bool")
        threads_of(threads)
        self.maximize, self.threads = bool(maximize), threads
        self._last: tuple[Solution, float] | None = None

    @overload
    def solve(
        self,
        cost: torch.Tensor,
        *,
        changed_rows: ArrayLike | torch.Tensor | None = None,
        changed_columns: ArrayLike | torch.Tensor | None = None,
        candidates: Candidates | None = None,
    ) -> torch.Tensor: ...
    @overload
    def solve(
        self,
        cost: ArrayLike,
        *,
        changed_rows: ArrayLike | torch.Tensor | None = None,
        changed_columns: ArrayLike | torch.Tensor | None = None,
        candidates: Candidates | None = None,
    ) -> NDArray[np.int64]: ...
    def solve(
        self,
        cost: ArrayLike | torch.Tensor,
        *,
        changed_rows: ArrayLike | torch.Tensor | None = None,
        changed_columns: ArrayLike | torch.Tensor | None = None,
        candidates: Candidates | None = None,
    ) -> NDArray[np.int64] | torch.Tensor:
        """Return the column of each row in an assignment of the least (greatest) total cost.

        The result depends on the cost and on the solves since the last `reset`, on nothing else; among several
        optima it may be another than a fresh solver's.

        Args:
            cost: [n, m], as `linear_sum_assignment` takes it; +inf (-inf when maximizing) forbids an entry. It is
                read in place or copied as there, and never changed.
            changed_rows, changed_columns: whole numbers [k], in any order. Where one of them is given, every entry
                outside of these rows and columns (None: of no row, no column) is promised to be as it was in the
                last solve that returned. That saves reads of a wide matrix with few changes; the total is the
                same without. A promise that is not kept makes the result wrong.
            candidates: what is known of the rows, which saves a read of the matrix: in the last solves of a sequence
                most of the time, from nothing a little. For matrices of 513 columns and more with the entries of each
                row side by side; others are read, and so are those of few changes that are told.

        Returns:
            int64 [n], the caller's own: a tensor on the device of `cost` for a tensor, else a numpy array. Where
            n > m, n - m rows are left over and hold -1; drop these before indexing.

        Raises:
            TypeError, ValueError: as `linear_sum_assignment`. TypeError: changes that are no whole numbers.
            ValueError: changes out of range or not in one dimension, or without an earlier solve of this shape;
            candidates that are not as `Candidates` says, or of a cost of more rows than columns.
        """
        matrix = matrix_of("cost", cost)
        changes = None
        if changed_rows is not None or changed_columns is not None:
            changes = self._changes(matrix.shape, changed_rows, changed_columns)
        start, threads = last_solution(self), threads_of(self.threads)
        listed = None
        if candidates is not None:
            start = start if start is not None and start.fits(matrix) else _zeros(matrix)
            listed = listed_of(candidates, matrix.shape, start.column_duals, self.maximize)
        found = Solution(*solve_from(start, matrix, self.maximize, threads, changes, listed))
        rows = np.flatnonzero(found.column_of_row >= 0)
        total = float(matrix[rows, found.column_of_row[rows]].sum(dtype=np.float64))
        # One assignment: an interrupt comes before it or after it.
        self._last = found, total
        columns = found.column_of_row.copy()
        return torch.from_numpy(columns).to(cost.device) if isinstance(cost, torch.Tensor) else columns

    def _changes(self, shape: tuple[int, ...], rows: object, columns: object) -> Changes:
        if self._last is None:
            raise ValueError("changed_rows and changed_columns tell of an earlier solve, got none since the last reset")
        last = self._last[0]
        if (len(last.row_duals), len(last.column_duals)) != shape:
            was = (len(last.row_duals), len(last.column_duals))
            raise ValueError(f"changed_rows and changed_columns need a cost of the last shape {was}, got {shape}")
        return Changes(numbers_of("changed_rows", rows, shape[0]), numbers_of("changed_columns", columns, shape[1]))

    def reset(self) -> None:
        """Forget the last solve: the next one starts from nothing."""
        self._last = None

    @property
    def duals(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(row duals [n], column duals [m]) of the last solve, float64, copies.

        row + column dual <= cost for every entry (>= when maximizing), with equality on the assignment, each up to
        rounding; duals of the longer side are <= 0 (>= 0), and 0 where it is left over. Infinite where they pass
        the range of float64, which takes entries beyond 2**960.

        Raises:
            RuntimeError: nothing has been solved since the last `reset`.
        """
        found, _ = self._solved()
        with np.errstate(over="ignore"):
            return np.ldexp(found.row_duals, -found.exponent), np.ldexp(found.column_duals, -found.exponent)

    @property
    def cost(self) -> float:
        """Total cost of the last solve, summed in float64.

        Raises:
            RuntimeError: nothing has been solved since the last `reset`.
        """
        return self._solved()[1]

    def _solved(self) -> tuple[Solution, float]:
        if self._last is None:
            raise RuntimeError("this AssignmentSolver holds no solution: call solve first")
        return self._last

    def __repr__(self) -> str:
        state = "nothing solved"
        if self._last is not None:
            found, total = self._last
            state = f"last {len(found.row_duals)} x {len(found.column_duals)}, cost {total:.6g}"
        return f"AssignmentSolver(maximize={self.maximize}): {state}"


def _zeros(matrix: Floats) -> Solution:
    """A start of no duals and no matching: from nothing, but that rows need not be read for it."""
    rows, columns = matrix.shape
    return Solution(np.full(rows, -1, np.int64), np.zeros(rows), np.zeros(columns))


def last_solution(solver: AssignmentSolver) -> Solution | None:
    """What a solver would start from."""
    return None if solver._last is None else solver._last[0]

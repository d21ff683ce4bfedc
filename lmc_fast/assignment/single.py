"""One assignment problem, behind scipy's signature."""

from __future__ import annotations

from typing import Any, TypeAlias, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .. import _native
from .._checks import fail_type
from .entries import matching_of, matrix_of, vector_of
from .solver import AssignmentSolver, Solution, last_solution, solve_from, threads_of

__all__ = ["WarmStart", "linear_sum_assignment"]

# A solver, or (row duals [n], column duals [m], column of each row [n], -1 where there is none).
WarmStart: TypeAlias = "AssignmentSolver | tuple[Any, Any, Any]"

_START = "an AssignmentSolver or (row duals, column duals, column of each row)"


@overload
def linear_sum_assignment(
    cost_matrix: torch.Tensor,
    maximize: bool = False,
    *,
    warm_start: WarmStart | None = None,
    threads: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]: ...
@overload
def linear_sum_assignment(
    cost_matrix: ArrayLike, maximize: bool = False, *, warm_start: WarmStart | None = None, threads: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...
def linear_sum_assignment(
    cost_matrix: ArrayLike | torch.Tensor,
    maximize: bool = False,
    *,
    warm_start: WarmStart | None = None,
    threads: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | tuple[torch.Tensor, torch.Tensor]:
    """Choose one entry per row and column, as many as the shorter side has, with the least total cost.

    The signature and the contract are those of `scipy.optimize.linear_sum_assignment`. Among several optima
    the one returned may differ from scipy's; it is the same on every call.

    Args:
        cost_matrix: [n, m] numpy array, torch tensor or array-like of bool, integer or real floating dtype, in any
            layout. An entry of +inf (-inf when maximizing) is forbidden. It is never changed.
        maximize: look for the greatest total in place of the least.
        warm_start: where to start, for speed alone: (row duals [n], column duals [m], column of each row [n] with
            -1 for none) of any finite duals and any partial matching, or an `AssignmentSolver`, whose last
            solution is read if it has this shape and left as it is. To go on from one call to the next, use the
            solver's own `solve`.
        threads: how many to use at most; None: as many as there are cores. They do not change the result.

    Returns:
        (row_ind, col_ind), int64 of length min(n, m), row_ind ascending. Tensors on the device of `cost_matrix` for a
        tensor, numpy arrays for anything else.

    float32 and float64 matrices are read in place if the entries of the longer side lie side by side (for a
    square matrix: C or Fortran order, any step between rows or columns); other layouts are copied. bool,
    8- and 16-bit integers and 16-bit floats are cast to float32, which is exact; wider integers to float64 as
    scipy does, which rounds int64 beyond 2**53; longdouble to float64. float64 matrices with entries beyond
    2**960 are solved as a scaled copy, from nothing. Tensors are detached, and copied to the CPU if they are
    elsewhere. Path lengths and duals are float64 for every dtype. Other threads run during the solve; Ctrl-C
    stops it.

    Raises:
        TypeError: `cost_matrix` holds something else than real numbers, or another argument is of the wrong kind.
        ValueError: `cost_matrix` has not 2 dimensions; it holds NaN or the infinity that is not the forbidden one (the
            message names row and column); or no full assignment avoids the forbidden entries (the message names
            a row or column that is left). `warm_start` does not fit `cost_matrix`, holds duals that are not finite, or
            no matching; or its solver looks for the other extreme. `threads` is less than 1.

    Sources:
        R. Jonker and A. Volgenant, "A shortest augmenting path algorithm for dense and sparse linear assignment
        problems", Computing 38, 1987. D. F. Crouse, "On implementing 2D rectangular assignment algorithms",
        IEEE Transactions on Aerospace and Electronic Systems 52(4), 2016.
    """
    if warm_start is None and threads is None:
        # A small solve takes no longer than the checks below do; what is no plain array or has no solution goes on.
        found = _native.assign(cost_matrix, maximize)
        if found is not None:
            return found
    matrix = matrix_of("cost_matrix", cost_matrix)
    maximize = bool(maximize)
    count = threads_of(threads)
    start = None if warm_start is None else _start(warm_start, matrix.shape, maximize)
    if start is None and 0 in matrix.shape:
        # Nothing to choose; the duals of a wide one would take its width.
        rows, columns = np.empty(0, np.int64), np.empty(0, np.int64)
    else:
        column_of_row = solve_from(start, matrix, maximize, count, name="cost_matrix")[0]
        if matrix.shape[0] <= matrix.shape[1]:
            rows, columns = np.arange(matrix.shape[0], dtype=np.int64), column_of_row
        else:
            rows = np.flatnonzero(column_of_row >= 0).astype(np.int64, copy=False)
            columns = column_of_row[rows]
    if isinstance(cost_matrix, torch.Tensor):
        return torch.from_numpy(rows).to(cost_matrix.device), torch.from_numpy(columns).to(cost_matrix.device)
    return rows, columns


def _start(given: WarmStart, shape: tuple[int, ...], maximize: bool) -> Solution | None:
    if isinstance(given, AssignmentSolver):
        if given.maximize != maximize:
            raise ValueError(f"warm_start must be a solver with maximize={maximize}, got maximize={given.maximize}")
        return last_solution(given)
    if not (isinstance(given, (tuple, list)) and len(given) == 3):
        fail_type("warm_start", _START, given)
    rows = vector_of("warm_start[0], the row duals,", given[0], shape[0])
    columns = vector_of("warm_start[1], the column duals,", given[1], shape[1])
    for name, duals in (("row", rows), ("column", columns)):
        if not np.isfinite(duals).all():
            raise ValueError(f"warm_start must have finite duals, got {name} duals with nan or infinity")
    matching = matching_of("warm_start[2], the column of each row,", given[2], shape)
    return Solution(matching, rows.astype(np.float64), columns.astype(np.float64))

"""The linear assignment problem, exact and dense."""

from __future__ import annotations

from typing import TypeAlias, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from . import _native
from ._checks import fail_type, fail_value

__all__ = ["linear_sum_assignment"]

_TAKES = "a matrix of real numbers"
_Matrix: TypeAlias = "NDArray[np.float32] | NDArray[np.float64]"
# Brings every finite float64 below the core's bound; a power of two keeps the order of the sums.
_SCALE_DOWN = -100


@overload
def linear_sum_assignment(cost: torch.Tensor, maximize: bool = False) -> tuple[torch.Tensor, torch.Tensor]: ...
@overload
def linear_sum_assignment(cost: ArrayLike, maximize: bool = False) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...
def linear_sum_assignment(
    cost: ArrayLike | torch.Tensor, maximize: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | tuple[torch.Tensor, torch.Tensor]:
    """Choose one entry per row and column, as many as the shorter side has, with the least total cost.

    The signature and the contract are those of `scipy.optimize.linear_sum_assignment`. Among several optima
    the one returned may differ from scipy's; it is the same on every call.

    Args:
        cost: [n, m] numpy array, torch tensor or array-like of bool, integer or real floating dtype, in any
            layout. An entry of +inf (-inf when maximizing) is forbidden. It is never changed.
        maximize: look for the greatest total in place of the least.

    Returns:
        (row_ind, col_ind), int64 of length min(n, m), row_ind ascending. Tensors on the device of `cost` for a
        tensor, numpy arrays for anything else.

    float32 and float64 matrices are read in place if the entries of the longer side lie side by side (for a
    square matrix: C or Fortran order, any step between rows or columns); other layouts are copied. bool,
    8- and 16-bit integers and 16-bit floats are cast to float32, which is exact; wider integers to float64 as
    scipy does, which rounds int64 beyond 2**53; longdouble to float64. float64 matrices with entries beyond
    2**960 are solved as a scaled copy. Tensors are detached, and copied to the CPU if they are elsewhere. Path
    lengths and duals are float64 for every dtype. Other threads run during the solve; Ctrl-C stops it.

    Raises:
        TypeError: `cost` holds something else than real numbers.
        ValueError: `cost` has not 2 dimensions; it holds NaN or the infinity that is not the forbidden one (the
            message names row and column); or no full assignment avoids the forbidden entries (the message names
            a row or column that is left).

    Sources:
        R. Jonker and A. Volgenant, "A shortest augmenting path algorithm for dense and sparse linear assignment
        problems", Computing 38, 1987. D. F. Crouse, "On implementing 2D rectangular assignment algorithms",
        IEEE Transactions on Aerospace and Electronic Systems 52(4), 2016.
    """
    if isinstance(cost, torch.Tensor):
        rows, columns = _solve(_tensor_entries(cost), bool(maximize))
        return torch.from_numpy(rows).to(cost.device), torch.from_numpy(columns).to(cost.device)
    try:
        entries = np.asarray(cost)
    except ValueError as error:
        raise ValueError(f"cost must be {_TAKES}, got a {type(cost).__name__} that is not one: {error}") from error
    return _solve(entries, bool(maximize))


def _tensor_entries(cost: torch.Tensor) -> NDArray[np.generic]:
    if cost.is_complex():
        fail_type("cost", _TAKES, cost)
    if cost.layout != torch.strided or cost.is_meta:
        fail_type("cost", "a dense tensor with data", cost)
    if cost.is_floating_point() and cost.dtype not in (torch.float32, torch.float64):
        cost = cost.to(torch.float32)  # numpy has no bfloat16
    entries: NDArray[np.generic] = cost.detach().cpu().resolve_neg().numpy()
    return entries


def _solve(entries: NDArray[np.generic], maximize: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if entries.dtype.kind not in "biuf":
        fail_type("cost", _TAKES, entries)
    if entries.ndim != 2:
        fail_value("cost", "a matrix, of 2 dimensions", entries)
    matrix = _readable(_as_float(entries))
    try:
        column_of_row, _, _ = _native.solve_lap(matrix, maximize)
    except OverflowError:
        column_of_row, _, _ = _native.solve_lap(np.ldexp(matrix, _SCALE_DOWN), maximize)
    rows = np.flatnonzero(column_of_row >= 0).astype(np.int64, copy=False)
    return rows, column_of_row[rows]


def _as_float(entries: NDArray[np.generic]) -> _Matrix:
    kind, size = entries.dtype.kind, entries.dtype.itemsize
    if kind == "b" or size <= (4 if kind == "f" else 2):
        return entries.astype(np.float32, copy=False)
    return entries.astype(np.float64, copy=False)


def _readable(matrix: _Matrix) -> _Matrix:
    """Return `matrix` if the core can walk along its longer side, else a copy that it can."""
    rows, columns = matrix.shape
    by_rows = rows <= columns and _walks(matrix)
    by_columns = columns <= rows and _walks(matrix.T)
    if matrix.flags.aligned and (by_rows or by_columns):
        return matrix
    copied: _Matrix = matrix.copy(order="C" if rows <= columns else "F")
    return copied


def _walks(matrix: _Matrix) -> bool:
    rows, columns = matrix.shape
    row_step, column_step = matrix.strides
    size = matrix.itemsize
    return rows == 0 or ((columns <= 1 or column_step == size) and (rows <= 1 or row_step % size == 0))

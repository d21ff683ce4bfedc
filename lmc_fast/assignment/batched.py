"""Many assignment problems of one shape."""

from __future__ import annotations

from typing import overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .. import _native
from .entries import LARGEST, SCALE_DOWN, Floats, as_float, entries_of
from .solver import threads_of

__all__ = ["linear_sum_assignment_batched"]


@overload
def linear_sum_assignment_batched(
    cost_matrix: torch.Tensor, maximize: bool = False
) -> tuple[torch.Tensor, torch.Tensor]: ...
@overload
def linear_sum_assignment_batched(
    cost_matrix: ArrayLike, maximize: bool = False, *, threads: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...
def linear_sum_assignment_batched(
    cost_matrix: ArrayLike | torch.Tensor, maximize: bool = False, *, threads: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | tuple[torch.Tensor, torch.Tensor]:
    """Solve `linear_sum_assignment` for every matrix of a batch, side by side in threads.

    Args:
        cost_matrix: [batch, n, m], of the kinds and dtypes that `linear_sum_assignment` takes. It is never changed;
            read in place where it is float32 or float64 and C-contiguous, else copied.
        maximize: look for the greatest totals in place of the least.
        threads: how many to use at most; None: as many as there are cores. They do not change the result.

    Returns:
        (row_ind, col_ind), int64 [batch, min(n, m)], row_ind ascending along each row. Tensors on the device of
        `cost_matrix` for a tensor, numpy arrays for anything else. Each problem's assignment is the same on every
        call, whatever else the batch holds.

    Raises:
        TypeError: `cost_matrix` holds something else than real numbers, or `threads` is no whole number.
        ValueError: `cost_matrix` has not 3 dimensions, or one of its problems cannot be solved; the message names its
            index in the batch and says what `linear_sum_assignment` would; or `threads` is less than 1.
    """
    count = threads_of(threads)
    matrices: Floats = np.require(as_float(entries_of("cost_matrix", cost_matrix, 3)), requirements=["C", "A"])
    batch, rows, columns = matrices.shape
    if matrices.size == 0:
        # Nothing to choose, in however many problems.
        row_ind, col_ind = (np.empty((batch, min(rows, columns)), np.int64) for _ in range(2))
    elif rows <= columns:
        row_ind = np.tile(np.arange(rows, dtype=np.int64), (batch, 1))
        col_ind = _solve(matrices, bool(maximize), count)
    else:
        columns_of_rows = _solve(matrices, bool(maximize), count)
        chosen = columns_of_rows >= 0
        row_ind = np.nonzero(chosen)[1].astype(np.int64, copy=False).reshape(batch, columns)
        col_ind = columns_of_rows[chosen].reshape(batch, columns)
    if isinstance(cost_matrix, torch.Tensor):
        return torch.from_numpy(row_ind).to(cost_matrix.device), torch.from_numpy(col_ind).to(cost_matrix.device)
    return row_ind, col_ind


def _solve(matrices: Floats, maximize: bool, threads: int) -> NDArray[np.int64]:
    """Return the columns of the rows, int64 [batch, n]."""
    try:
        return _native.solve_lap_batch(matrices, maximize, threads=threads, name="cost_matrix")[0]
    except OverflowError:
        largest = np.abs(matrices, where=np.isfinite(matrices), out=np.zeros_like(matrices)).max(axis=(1, 2))
        exponents = np.where(largest > LARGEST, SCALE_DOWN, 0)
        scaled = np.ldexp(matrices, exponents[:, None, None])
        return _native.solve_lap_batch(scaled, maximize, threads=threads, name="cost_matrix")[0]

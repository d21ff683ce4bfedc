import numpy as np
from numpy.typing import NDArray

def solve_lap(
    cost: NDArray[np.float32] | NDArray[np.float64],
    maximize: bool,
    *,
    row_duals: NDArray[np.float64] | None = None,
    column_duals: NDArray[np.float64] | None = None,
    column_of_row: NDArray[np.int64] | None = None,
    threads: int = 0,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Solve a matrix that is contiguous along its longer side; return (column_of_row, row_duals, column_duals).

    `column_of_row` holds -1 for rows left over. Raises ValueError for NaN, the infinity of the wrong sign and
    infeasible matrices, OverflowError for float64 entries beyond 2**960. The result does not depend on `threads`
    (0: all cores).
    """

def solve_lap_batch(
    costs: NDArray[np.float32] | NDArray[np.float64], maximize: bool, *, threads: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Solve C-contiguous [batch, rows, columns]; return (column_of_row, row_duals, column_duals), batch first.

    `column_of_row` [batch, rows] holds -1 for rows left over. Errors are those of `solve_lap` and name the first
    problem that has one.
    """

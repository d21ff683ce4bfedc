"""What is known of a matrix's rows before a solve, so that it need not read them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._checks import check_type, fail_type, fail_value
from .entries import array_of, vector_of

__all__ = ["Candidates", "Listed", "listed_of"]


class Candidates(NamedTuple):
    """For each row some columns, and a bound that no other column passes. Arrays or tensors; none is written to.

    Of each row whose bound is not -inf (+inf where the cost is maximized) two things are promised: every entry may
    stand in a cost, and in exact arithmetic no column that the row does not list has cost - column dual below the
    bound (above it, maximizing). A solve is as exact with them as without; a promise that is not kept makes it wrong.
    A row with the bound -inf (+inf) is promised nothing, and is read and checked.

    Attributes:
        columns: whole numbers [n, k], -1 where a row has fewer; in any order, and not necessarily the best ones. int32
            is taken as it is.
        bounds: real numbers [n], one for each row.
        column_duals: real and finite [m]: what the bounds are meant under, in place of the duals of a solve. Near
            duals make tight bounds: those of the solver's last solve, rounded as may be; zeros for a first one.
    """

    columns: Any
    bounds: Any
    column_duals: Any


class Listed(NamedTuple):
    """Candidates as the core takes them: int32 [n, k], float64 [n] under the duals of the start."""

    columns: NDArray[np.int32]
    bounds: NDArray[np.float64]


def listed_of(
    candidates: Candidates, shape: tuple[int, ...], start_duals: NDArray[np.float64], maximize: bool
) -> Listed:
    """Check candidates of a matrix, and move their bounds to the column duals that a solve starts from.

    A reduced cost c - v is (c - w) + (w - v), so that a bound under duals w and the least (greatest) difference w - v
    make one under duals v. Sums are moved a step of float64 to the safe side.

    Raises:
        TypeError, ValueError: what does not fit `Candidates`, or a matrix of more rows than columns.
    """
    check_type("candidates", candidates, Candidates, "Candidates or None")
    if shape[0] > shape[1]:
        raise ValueError(f"candidates take a cost of at most as many rows as columns, got {shape}")
    columns = _columns_of(candidates.columns, shape)
    bounds = vector_of("candidates.bounds", candidates.bounds, shape[0]).astype(np.float64)
    if np.isnan(bounds).any():
        raise ValueError("candidates.bounds must not hold NaN")
    duals = vector_of("candidates.column_duals", candidates.column_duals, shape[1]).astype(np.float64)
    if not np.isfinite(duals).all():
        raise ValueError("candidates.column_duals must be finite, got nan or infinity")
    sign = -1.0 if maximize else 1.0
    bounds *= sign
    with np.errstate(over="ignore", invalid="ignore"):
        shift = np.nextafter(np.min(sign * (duals - start_duals), initial=np.inf), -np.inf)
        # Where all other columns are forbidden, they are so under any duals.
        bounds = np.where(bounds == np.inf, bounds, np.nextafter(bounds + shift, -np.inf))
    return Listed(columns, sign * bounds)


def _columns_of(values: object, shape: tuple[int, ...]) -> NDArray[np.int32]:
    columns = array_of("candidates.columns", values, "a matrix of whole numbers")
    if columns.dtype.kind not in "iu":
        fail_type("candidates.columns", "a matrix of whole numbers", columns)
    if columns.ndim != 2 or len(columns) != shape[0]:
        fail_value("candidates.columns", f"a matrix of {shape[0]} rows", columns)
    if columns.size and (columns.min() < -1 or columns.max() >= shape[1]):
        wrong = columns[(columns < -1) | (columns >= shape[1])][0]
        raise ValueError(f"candidates.columns must hold columns from 0 to {shape[1] - 1}, or -1 for none, got {wrong}")
    return np.ascontiguousarray(columns, dtype=np.int32)

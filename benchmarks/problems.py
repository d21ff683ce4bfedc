"""Small random assignment problems of awkward kinds, and the checks that an answer has to pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmc_fast.assignment import Candidates, assignment_gap

__all__ = [
    "DTYPES",
    "LAYOUTS",
    "Problem",
    "assert_certified",
    "assert_optimal",
    "candidates_of",
    "lay_out",
    "random_problem",
]

DTYPES = (np.float32, np.float64, np.float16, np.bool_, np.int8, np.uint8, np.int16, np.int32, np.int64)
LAYOUTS = ("c", "fortran", "reversed", "row steps", "column steps", "rows backwards", "unaligned")


@dataclass(frozen=True)
class Problem:
    """A cost [n, m] in its dtype and layout, and the sense; `kind` says how the entries were made."""

    cost: np.ndarray
    maximize: bool
    kind: str


def _few_values(rng: np.random.Generator, n: int, m: int) -> np.ndarray:
    return rng.integers(-2, 3, (n, m)).astype(np.float64)


def _constant(rng: np.random.Generator, n: int, m: int) -> np.ndarray:
    return np.full((n, m), rng.normal())


def _low_rank(rng: np.random.Generator, n: int, m: int) -> np.ndarray:
    return rng.normal(size=(n, 2)) @ rng.normal(size=(2, m))


def _huge(rng: np.random.Generator, n: int, m: int) -> np.ndarray:
    return rng.normal(size=(n, m)) * 1e30


def _denormal(rng: np.random.Generator, n: int, m: int) -> np.ndarray:
    # Multiples of the least positive float32 and float64.
    return rng.integers(0, 1000, (n, m)) * (2.0**-149 if rng.random() < 0.5 else 2.0**-1074)


def _duplicate_rows(rng: np.random.Generator, n: int, m: int) -> np.ndarray:
    return rng.normal(size=(n, m))[rng.integers(0, max(n, 1), n)]


def _dead_units(rng: np.random.Generator, n: int, m: int) -> np.ndarray:
    return rng.normal(size=(n, m)) * (rng.random((n, 1)) < 0.7) * (rng.random(m) < 0.7)


def _mixed_magnitudes(rng: np.random.Generator, n: int, m: int) -> np.ndarray:
    return rng.normal(size=(n, m)) * 10.0 ** rng.integers(-30, 30, (n, m))


def _normal(rng: np.random.Generator, n: int, m: int) -> np.ndarray:
    return rng.normal(size=(n, m))


# A kind of entries is a function (rng, n, m) -> [n, m]; forbidden entries, dtype and layout come on top.
KINDS: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "few values": _few_values,
    "constant": _constant,
    "low rank": _low_rank,
    "huge": _huge,
    "denormal": _denormal,
    "duplicate rows": _duplicate_rows,
    "dead units": _dead_units,
    "mixed magnitudes": _mixed_magnitudes,
    "normal": _normal,
}
_KIND_NAMES = tuple(KINDS)


def random_problem(rng: np.random.Generator) -> Problem:
    """Draw a problem: sides to 8, a quarter of the time to 40, seldom to 200; any kind, dtype, layout and sense.

    One in 200 is wide or tall enough for candidate lists (from 513 columns on), one in 2000 is so and square.
    """
    chance = rng.random()
    largest = 8 if chance < 0.74 else 40 if chance < 0.98 else 200
    n, m = (int(size) for size in rng.integers(0, largest + 1, 2))
    if rng.random() < 0.4:
        m = n
    chance = rng.random()
    if chance < 0.0055:
        long = int(rng.integers(513, 640))
        n, m = (long, long) if chance < 0.0005 else (min(n, 40), long) if chance < 0.003 else (long, min(m, 40))
    maximize = bool(rng.integers(2))
    # Two thirds are float32 or float64, which are read in place.
    dtype = np.dtype(DTYPES[int(rng.integers(2))] if rng.random() < 0.65 else DTYPES[int(rng.integers(2, len(DTYPES)))])
    if dtype.kind in "bui":
        kind, high = "integers", 2 if dtype.kind == "b" else (3, 100)[int(rng.integers(2))]
        entries = rng.integers(0, high, (n, m)).astype(dtype)
    else:
        kind = _KIND_NAMES[int(rng.integers(len(_KIND_NAMES)))]
        values = KINDS[kind](rng, n, m)
        if dtype.itemsize == 2:
            values = np.clip(values, -6e4, 6e4)
        elif dtype.itemsize == 4:
            values = np.clip(values, -3e38, 3e38)
        if rng.random() < 0.4:
            share = (0.1, 0.5, 0.8)[int(rng.integers(3))]
            values[rng.random((n, m)) < share] = -np.inf if maximize else np.inf
        entries = values.astype(dtype)
    return Problem(lay_out(entries, LAYOUTS[int(rng.integers(len(LAYOUTS)))]), maximize, kind)


def lay_out(entries: np.ndarray, layout: str) -> np.ndarray:
    """Return the same matrix in other memory; what lies between its entries is NaN where the dtype has one."""
    n, m = entries.shape
    fill: Any = np.nan if entries.dtype.kind == "f" else 1
    if layout == "fortran":
        return np.asfortranarray(entries)
    if layout == "reversed":
        return entries[::-1, ::-1].copy()[::-1, ::-1]
    if layout == "row steps":
        view = np.full((2 * n, m + 3), fill, dtype=entries.dtype)[::2, 1 : m + 1]
    elif layout == "column steps":
        view = np.full((n, 3 * m), fill, dtype=entries.dtype)[:, ::3]
    elif layout == "rows backwards":
        view = np.full((n, m + 1), fill, dtype=entries.dtype)[::-1, :m]
    elif layout == "unaligned":
        raw = np.zeros(entries.size * entries.itemsize + 1, dtype=np.uint8)
        view = raw[1:].view(entries.dtype).reshape(n, m)
    else:
        return entries
    view[...] = entries
    return view


def candidates_of(cost: np.ndarray, duals: np.ndarray, k: int, maximize: bool) -> Candidates:
    """The k best columns of each row [n, m] under column duals [m], and a bound just beyond the best of the others."""
    sign = -1.0 if maximize else 1.0
    reduced = sign * (cost.astype(np.float64) - duals)
    order = np.argsort(reduced, axis=1, kind="stable")
    ranked = np.take_along_axis(reduced, order, axis=1)
    bounds = np.nextafter(ranked[:, k], -np.inf) if k < cost.shape[1] else np.full(len(cost), np.inf)
    return Candidates(order[:, :k].astype(np.int32), sign * bounds, duals)


def assert_optimal(cost: np.ndarray, rows: np.ndarray, columns: np.ndarray, maximize: bool) -> None:
    """Check that (rows, columns) is an assignment in scipy's form with scipy's total cost."""
    n, m = cost.shape
    assert rows.dtype == columns.dtype == np.int64, "not int64"
    assert len(rows) == len(columns) == min(n, m), "not full"
    assert (rows[1:] > rows[:-1]).all(), "rows not ascending"
    assert len(set(columns.tolist())) == len(columns), "a column twice"
    cost = cost.astype(np.float64)
    from scipy.optimize import linear_sum_assignment as scipy_assignment

    chosen, wanted = cost[rows, columns], cost[scipy_assignment(cost, maximize=maximize)]
    scale = np.abs(wanted).sum() + np.abs(chosen).sum()
    # Duals are as large as the largest entries, and so are their roundings, in scipy's too.
    largest = np.abs(cost[np.isfinite(cost)]).max(initial=0.0)
    tolerance = 1e-13 * scale + 1e-15 * largest * len(rows)
    assert abs(chosen.sum() - wanted.sum()) <= tolerance, f"total {chosen.sum()}, not {wanted.sum()}"


def assert_certified(
    cost: np.ndarray, columns: np.ndarray, duals: tuple[np.ndarray, np.ndarray], maximize: bool
) -> None:
    """Check that the duals prove the columns of the rows [n] optimal, up to roundings of entries and duals."""
    gap = assignment_gap(cost, columns, duals, maximize)
    scale = sum(float(np.abs(side).sum()) for side in duals)
    assert gap <= 1e-13 * scale + 1e-322 * len(columns), f"gap {gap} at scale {scale}"

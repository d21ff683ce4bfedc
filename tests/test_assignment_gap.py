"""The proven gap: never below the true one, tiny at the optimum, exact in its arithmetic, lean in memory."""

from __future__ import annotations

import math
import tracemalloc
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment as scipy_assignment

from benchmarks.problems import LAYOUTS, assert_certified, lay_out
from lmc_fast.assignment import AssignmentSolver, assignment_gap

SHAPES = [(12, 12), (7, 15), (15, 7), (1, 1), (1, 6), (6, 1)]


def random_columns(rng: np.random.Generator, n: int, m: int) -> np.ndarray:
    columns = np.full(n, -1)
    columns[rng.permutation(n)[: min(n, m)]] = rng.permutation(m)[: min(n, m)]
    return columns


def true_gap(cost: np.ndarray, columns: np.ndarray, maximize: bool) -> Fraction:
    """How much worse `columns` is than scipy's optimum, exactly."""
    best = scipy_assignment(cost, maximize=maximize)
    rows = np.flatnonzero(columns >= 0)
    chosen, optimum = (
        sum((Fraction(float(entry)) for entry in entries), Fraction(0))
        for entries in (cost[rows, columns[rows]], cost[best])
    )
    return optimum - chosen if maximize else chosen - optimum


@pytest.mark.parametrize("maximize", [False, True], ids=["min", "max"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.bool_], ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_bounds_the_true_gap(shape: tuple[int, int], dtype: Any, maximize: bool) -> None:
    rng = np.random.default_rng(0)
    for k in range(60):
        cost = (rng.normal(size=shape) * 20).astype(dtype)
        solver = AssignmentSolver(maximize)
        best = solver.solve(cost)
        noise = 0.0 if k % 3 == 0 else 10.0 ** rng.integers(-17, 3)
        duals = tuple(side + noise * rng.normal(size=len(side)) for side in solver.duals)
        for columns in (best, random_columns(rng, *shape)):
            gap = assignment_gap(cost, columns, duals, maximize)
            assert Fraction(gap) >= true_gap(cost.astype(np.float64), columns, maximize)
            # With the optimal duals the bound is the optimum, but for rounding.
            assert noise or gap <= float(true_gap(cost.astype(np.float64), columns, maximize)) + 1e-12


@pytest.mark.parametrize("maximize", [False, True], ids=["min", "max"])
def test_either_side_of_the_duals_is_enough(maximize: bool) -> None:
    rng = np.random.default_rng(1)
    for shape in SHAPES:
        cost = rng.normal(size=shape)
        solver = AssignmentSolver(maximize)
        columns = solver.solve(cost)
        rows, sides = solver.duals
        for duals in ((rows, rng.normal(size=shape[1]) * 99), (rng.normal(size=shape[0]) * 99, sides)):
            assert assignment_gap(cost, columns, duals, maximize) < 1e-12


def test_it_shows_an_assignment_that_is_not_optimal() -> None:
    cost = np.array([[0.0, 1.0], [1.0, 0.0]])
    solver = AssignmentSolver()
    columns = solver.solve(cost)
    assert assignment_gap(cost, columns, solver.duals) < 1e-12
    assert assignment_gap(cost, columns[::-1], solver.duals) == pytest.approx(2)
    assert assignment_gap(cost, columns, solver.duals, maximize=True) == pytest.approx(2)


def test_certificate_can_fail() -> None:
    cost = np.random.default_rng(2).random((6, 9))
    solver = AssignmentSolver()
    columns = solver.solve(cost)
    rows, sides = solver.duals
    assert_certified(cost, columns, (rows, sides), False)
    for spoiled in ((np.roll(columns, 1), rows, sides), (columns, rows * 0.9, sides * 0.5)):
        with pytest.raises(AssertionError, match="gap"):
            assert_certified(cost, spoiled[0], spoiled[1:], False)


def test_rounding_cannot_make_the_bound_wrong() -> None:
    # Differences below one unit in the last place of the sums.
    rng = np.random.default_rng(3)
    for _ in range(200):
        cost = 1e16 + 2 * rng.integers(0, 4, (5, 5)).astype(np.float64) + rng.random((5, 5))
        columns = random_columns(rng, 5, 5)
        duals = (rng.normal(size=5) * 1e16, rng.normal(size=5) * 1e16)
        assert Fraction(assignment_gap(cost, columns, duals)) >= true_gap(cost, columns, False)


def test_an_exact_zero_is_zero() -> None:
    assert assignment_gap(np.zeros((0, 0)), [], ([], [])) == 0
    assert assignment_gap(np.zeros((0, 3)), [], ([], np.zeros(3))) == 0
    assert assignment_gap(np.zeros((3, 0)), [-1, -1, -1], (np.zeros(3), [])) == 0


@pytest.mark.parametrize("maximize", [False, True], ids=["min", "max"])
def test_forbidden_entries(maximize: bool) -> None:
    forbidden = -np.inf if maximize else np.inf
    cost = np.array([[1.0, forbidden], [forbidden, 2.0]])
    assert assignment_gap(cost, [0, 1], (np.zeros(2), np.zeros(2)), maximize) < 1e-12
    assert assignment_gap(cost, [1, 0], (np.zeros(2), np.zeros(2)), maximize) == math.inf
    # The infinity of the other sign leaves the optimum unbounded.
    assert assignment_gap(-cost, [1, 0], (np.zeros(2), np.zeros(2)), maximize) == math.inf


def test_sums_beyond_float64_prove_nothing() -> None:
    cost = np.full((3, 3), 1e308)
    cost[0, 0] = -1e308
    assert assignment_gap(cost, [1, 0, 2], (np.zeros(3), np.zeros(3))) == math.inf
    assert assignment_gap(cost, [0, 1, 2], (np.full(3, -1e308), np.full(3, 1.7e308))) == math.inf


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_tensors(layout: str) -> None:
    rng = np.random.default_rng(4)
    for shape in ((9, 9), (5, 11), (11, 5)):
        entries = rng.normal(size=shape)
        solver = AssignmentSolver()
        columns = solver.solve(entries)
        plain = assignment_gap(entries, columns, solver.duals)
        assert assignment_gap(lay_out(entries, layout), columns, solver.duals) == plain
        tensors = [torch.from_numpy(part) for part in (entries, columns, *solver.duals)]
        assert assignment_gap(tensors[0], tensors[1], (tensors[2], tensors[3])) == plain
        assert assignment_gap(entries.tolist(), columns.tolist(), tuple(d.tolist() for d in solver.duals)) == plain
    halves = torch.from_numpy(entries).to(torch.bfloat16)
    columns = solver.solve(halves)
    assert assignment_gap(halves, columns, solver.duals) < 1e-12


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_matrix_is_not_copied(order: Any) -> None:
    cost = np.asarray(np.random.default_rng(5).random((3000, 3000), dtype=np.float32), order=order)
    duals, columns = (np.zeros(3000), np.zeros(3000)), np.arange(3000)
    tracemalloc.start()
    assignment_gap(cost, columns, duals)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < cost.nbytes


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"cost": np.zeros(3)}, ValueError, "cost must be a matrix, of 2 dimensions"),
        ({"cost": np.zeros((3, 3), complex)}, TypeError, "cost must be a matrix of real numbers"),
        ({"cost": np.full((3, 3), np.nan)}, ValueError, "cost must not hold NaN"),
        ({"col": [0, 1]}, ValueError, r"col must be a vector of length 3, got .*\(2,\)"),
        ({"col": [0.0, 1.0, 2.0]}, TypeError, "col must be a vector of whole numbers"),
        ({"col": [0, 1, 3]}, ValueError, "col must hold columns from 0 to 2, or -1 for none, got 3"),
        ({"col": [0, 1, 1]}, ValueError, "col must hold distinct columns"),
        ({"col": [0, 1, -1]}, ValueError, "col must assign 3 rows, got 2"),
        ({"duals": 3}, TypeError, r"duals must be a pair \(row duals, column duals\), got 3"),
        ({"duals": (np.zeros(3),)}, ValueError, "duals must be a pair"),
        ({"duals": (np.zeros(2), np.zeros(3))}, ValueError, r"duals\[0\], the row duals, must be a vector of length 3"),
        ({"duals": (np.zeros(3), [0, 0, np.nan])}, ValueError, r"duals\[1\], the column duals, must be finite"),
        ({"duals": (np.zeros(3), ["a"] * 3)}, TypeError, r"duals\[1\], the column duals, must be a vector of real"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_bad_input_names_the_argument(change: dict[str, Any], error: type[Exception], says: str) -> None:
    arguments: dict[str, Any] = {"cost": np.eye(3), "col": [0, 1, 2], "duals": (np.zeros(3), np.zeros(3))}
    with pytest.raises(error, match=says):
        assignment_gap(**(arguments | change))

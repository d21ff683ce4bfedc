"""Solves that are given candidates: the same optimum as without, fewer reads, bad candidates named."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.problems import assert_certified, candidates_of
from lmc_fast.assignment import AssignmentSolver, Candidates


def duals_of(solver: AssignmentSolver, columns: int) -> np.ndarray:
    return np.zeros(columns) if "nothing" in repr(solver) else solver.duals[1]


def changed(rng: np.random.Generator, cost: np.ndarray, kind: str) -> np.ndarray:
    shape = cost.shape
    if kind == "tied":
        return rng.integers(0, 20, shape).astype(cost.dtype)
    if kind == "dead units":
        return (
            rng.normal(size=shape).astype(cost.dtype) * (rng.random((shape[0], 1)) < 0.8) * (rng.random(shape[1]) < 0.8)
        )
    if kind == "constant":
        return np.full(shape, 3, cost.dtype)
    return cost + (0.1 * rng.normal(size=shape)).astype(cost.dtype)


# Either dtype and either direction; their other two pairs with --slow.
SIGNS = [
    pytest.param(np.float32, True, id="float32-max"),
    pytest.param(np.float64, False, id="float64-min"),
    pytest.param(np.float32, False, id="float32-min", marks=pytest.mark.slow),
    pytest.param(np.float64, True, id="float64-max", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("dtype", "maximize"), SIGNS)
@pytest.mark.parametrize("shape", [(1, 1), (7, 9), (1, 600), (600, 600), (550, 640)], ids=str)
def test_sequences_have_the_optimum_that_they_have_without(shape: tuple[int, int], dtype: Any, maximize: bool) -> None:
    rng = np.random.default_rng(0)
    for k in (1, 8, 40, 60):
        solver, plain = AssignmentSolver(maximize), AssignmentSolver(maximize)
        cost = rng.normal(size=shape).astype(dtype)
        for kind in ("drift", "drift", "tied", "dead units", "dead units", "drift", "constant", "drift"):
            cost = changed(rng, cost, kind)
            # As a GPU has them: rounded duals of the solve before.
            duals = duals_of(solver, shape[1]).astype(np.float32).astype(np.float64)
            candidates = candidates_of(cost, duals, min(k, shape[1]), maximize)
            was = [field.copy() for field in candidates]
            found = solver.solve(cost, candidates=candidates)
            plain.solve(cost)
            assert_certified(cost, found, solver.duals, maximize)
            assert solver.cost == pytest.approx(plain.cost, rel=1e-9, abs=1e-9)
            for field, before in zip(candidates, was, strict=True):
                np.testing.assert_array_equal(field, before)


def test_any_duals_make_candidates() -> None:
    """Bounds are moved to the duals that the solve starts from, which differ from those of the candidates."""
    rng = np.random.default_rng(1)
    cost = rng.normal(size=(600, 600))
    for maximize in (False, True):
        solver = AssignmentSolver(maximize)
        solver.solve(cost)
        for scale in (1e-7, 1e-2, 1.0, 1e3):
            cost = cost + 0.05 * rng.normal(size=cost.shape)
            duals = solver.duals[1] + scale * rng.normal(size=600)
            found = solver.solve(cost, candidates=candidates_of(cost, duals, 12, maximize))
            assert_certified(cost, found, solver.duals, maximize)


def test_forbidden_entries_and_rows_of_few_columns() -> None:
    rng = np.random.default_rng(2)
    for forbidden, maximize in ((np.inf, False), (-np.inf, True)):
        solver = AssignmentSolver(maximize)
        for share in (0.5, 0.98, 0.98, 0.9):
            cost = rng.normal(size=(600, 600))
            cost[(rng.random(cost.shape) < share) & ~np.eye(600, dtype=bool)] = forbidden
            candidates = candidates_of(cost, duals_of(solver, 600), 30, maximize)
            found = solver.solve(cost, candidates=candidates)
            assert_certified(cost, found, solver.duals, maximize)


def solved_and_listed() -> tuple[AssignmentSolver, np.ndarray, Candidates]:
    """A solver, its cost, and candidates beside which a solve of the same cost need not read a row."""
    cost = np.random.default_rng(3).random((600, 640))
    solver = AssignmentSolver()
    solver.solve(cost)
    return solver, cost, candidates_of(cost, solver.duals[1], 12, False)


def test_rows_are_left_unread_unless_nothing_is_promised_of_them() -> None:
    solver, cost, candidates = solved_and_listed()
    expected = solver.solve(cost)
    wrong = cost.copy()
    unlisted = np.setdiff1d(np.arange(640), candidates.columns[17])[5]
    wrong[17, unlisted] = np.nan
    np.testing.assert_array_equal(solver.solve(wrong, candidates=candidates), expected)
    candidates.bounds[17] = -np.inf
    np.testing.assert_array_equal(solver.solve(cost, candidates=candidates), expected)
    with pytest.raises(ValueError, match=rf"NaN, got one at \(row 17, column {unlisted}\)"):
        solver.solve(wrong, candidates=candidates)


def test_tensors_and_wider_integers_and_unused_places() -> None:
    solver, cost, candidates = solved_and_listed()
    expected = solver.solve(cost)
    columns = np.concatenate([np.full((600, 1), -1), candidates.columns[:, ::-1], np.full((600, 60), -1)], axis=1)
    for given in (
        Candidates(*(torch.from_numpy(field) for field in candidates)),
        candidates._replace(columns=columns),
        candidates._replace(columns=columns.astype(np.int64)[:, ::-1], bounds=candidates.bounds.tolist()),
        candidates._replace(columns=np.empty((600, 0), np.int32), bounds=np.full(600, -np.inf)),
    ):
        np.testing.assert_array_equal(solver.solve(cost, candidates=given), expected)


def test_other_layouts_and_told_changes_may_have_them_too() -> None:
    solver, cost, candidates = solved_and_listed()
    expected = solver.solve(cost)
    for given in (cost[::-1].copy()[::-1], cost[:, ::-1].copy()[:, ::-1], np.asfortranarray(cost)):
        np.testing.assert_array_equal(solver.solve(given, candidates=candidates), expected)
    np.testing.assert_array_equal(solver.solve(cost, changed_rows=[3], candidates=candidates), expected)
    square = cost[:, :600]
    other = AssignmentSolver()
    other.solve(square)
    listed = candidates_of(square, other.duals[1], 5, False)
    np.testing.assert_array_equal(other.solve(np.asfortranarray(square), candidates=listed), other.solve(square))


def test_a_cost_beyond_the_core_is_solved_without() -> None:
    cost = np.random.default_rng(4).random((600, 600))
    solver = AssignmentSolver()
    for scale in (1e305, 1.0, 1e305, 1e305):
        scaled = cost * scale
        candidates = candidates_of(scaled, np.zeros(600), 12, False)
        candidates.bounds[:] = -np.inf if scale > 1 else candidates.bounds
        found = solver.solve(scaled, candidates=candidates)
        assert solver.cost == pytest.approx(scaled[np.arange(600), found].sum())
        np.testing.assert_array_equal(found, AssignmentSolver().solve(cost))


@pytest.mark.parametrize(
    ("field", "value", "error", "says"),
    [
        ("columns", np.zeros((4, 2)), TypeError, "candidates.columns must be a matrix of whole numbers"),
        ("columns", np.zeros(4, np.int32), ValueError, "candidates.columns must be a matrix of 4 rows"),
        ("columns", np.zeros((5, 2), np.int32), ValueError, "candidates.columns must be a matrix of 4 rows"),
        ("columns", np.full((4, 2), 6), ValueError, "columns must hold columns from 0 to 5, or -1 for none, got 6"),
        ("columns", np.full((4, 2), -2), ValueError, "columns must hold columns from 0 to 5, or -1 for none, got -2"),
        ("columns", np.full((4, 2), 1 << 40), ValueError, "columns must hold columns from 0 to 5"),
        ("bounds", np.zeros(6), ValueError, "candidates.bounds must be a vector of length 4"),
        ("bounds", ["a"] * 4, TypeError, "candidates.bounds must be a vector of real numbers"),
        ("bounds", np.full(4, np.nan), ValueError, "candidates.bounds must not hold NaN"),
        ("column_duals", np.zeros(4), ValueError, "candidates.column_duals must be a vector of length 6"),
        ("column_duals", np.full(6, np.inf), ValueError, "candidates.column_duals must be finite"),
    ],
    ids=lambda value: None if isinstance(value, np.ndarray) else getattr(value, "__name__", str(value))[:50],
)
def test_bad_candidates_name_the_field(field: str, value: Any, error: type[Exception], says: str) -> None:
    good = Candidates(np.zeros((4, 2), np.int32), np.full(4, -np.inf), np.zeros(6))
    cost = np.random.default_rng(5).random((4, 6))
    solver = AssignmentSolver()
    solver.solve(cost, candidates=good)
    with pytest.raises(error, match=re.escape(says)):
        solver.solve(cost, candidates=good._replace(**{field: value}))
    assert "4 x 6" in repr(solver)


def test_what_are_no_candidates_is_named() -> None:
    cost = np.random.default_rng(6).random((6, 4))
    with pytest.raises(ValueError, match=r"candidates take a cost of at most as many rows as columns, got \(6, 4\)"):
        AssignmentSolver().solve(cost, candidates=Candidates(np.zeros((6, 2), int), np.zeros(6), np.zeros(4)))
    with pytest.raises(TypeError, match="candidates must be Candidates or None, got a tuple"):
        AssignmentSolver().solve(cost, candidates=(1, 2, 3))  # type: ignore[arg-type]


@pytest.mark.parametrize("maximize", [False, True], ids=["min", "max"])
def test_the_core_checks_what_it_is_given(maximize: bool) -> None:
    from lmc_fast import _native

    cost = np.eye(3)
    start: dict[str, Any] = {"row_duals": np.zeros(3), "column_duals": np.zeros(3), "column_of_row": np.full(3, -1)}
    columns, bounds = np.zeros((3, 2), np.int32), np.full(3, np.inf if maximize else -np.inf)
    good = {"candidate_columns": columns, "candidate_bounds": bounds}
    for options, says in (
        ({**start, "candidate_columns": columns}, "must be given together, with a start"),
        (good, "must be given together, with a start"),
        ({**start, **good, "candidate_columns": columns[:2]}, "candidate_columns must have 2 dimensions, of 3 rows"),
        ({**start, **good, "candidate_columns": columns + 3}, "candidate_columns must hold columns from 0 to 2, or -1"),
        ({**start, **good, "candidate_columns": columns - 2}, "candidate_columns must hold columns from 0 to 2, or -1"),
        ({**start, **good, "candidate_bounds": bounds[:2]}, "candidate_bounds must have length 3, got 2"),
        ({**start, **good, "candidate_bounds": bounds * np.nan}, "candidate_bounds must not hold NaN"),
    ):
        with pytest.raises(ValueError, match=says):
            _native.solve_lap(cost, maximize, **options)
    assert sorted(_native.solve_lap(cost, maximize, **start, **good)[0].tolist()) == [0, 1, 2]

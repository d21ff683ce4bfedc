"""AssignmentSolver and warm starts: sequences of changing costs, copies, pickles, threads, interrupts, bad input."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.problems import assert_certified, assert_optimal
from lmc_fast import _native
from lmc_fast.assignment import AssignmentSolver, linear_sum_assignment

from . import forked

SHAPES = [
    *((40, 40), (25, 60), (60, 25), (1, 1), (2, 1), (63, 63), (220, 220), (150, 260), (260, 150), (300, 300)),
    (270, 400),
]


def assert_solves(solver: AssignmentSolver, cost: np.ndarray) -> np.ndarray:
    """Solve, and check the assignment, its certificate and what the solver says about it."""
    columns = solver.solve(cost)
    rows = np.flatnonzero(columns >= 0)
    assert columns.shape == (cost.shape[0],)
    assert (columns[columns < 0] == -1).all()
    assert_optimal(cost, rows, columns[rows], solver.maximize)
    assert_certified(cost, columns, solver.duals, solver.maximize)
    chosen = cost[rows, columns[rows]].astype(np.float64)
    assert solver.cost == pytest.approx(chosen.sum(), rel=1e-14, abs=1e-300)
    return columns


def drift(rng: np.random.Generator, cost: np.ndarray) -> Iterator[np.ndarray]:
    n, m = cost.shape
    for _ in range(6):
        yield cost
        cost = cost + rng.normal(size=(n, m)).astype(cost.dtype) * np.asarray(0.05, cost.dtype)


def few_columns(rng: np.random.Generator, cost: np.ndarray) -> Iterator[np.ndarray]:
    n, m = cost.shape
    left, right = rng.normal(size=(n, 6)), rng.normal(size=(6, m))
    for share in (0.0, 0.1, 1.0, 0.02, 1.0):
        left = np.where(rng.random((n, 1)) < share, rng.normal(size=left.shape), left)
        yield (left @ right).astype(cost.dtype)


def changed_rows_and_columns(rng: np.random.Generator, cost: np.ndarray) -> Iterator[np.ndarray]:
    n, m = cost.shape
    for k in range(8):
        yield cost
        cost = cost.copy()
        if k % 2:
            cost[rng.integers(n)] = rng.normal(size=m)
        else:
            cost[:, rng.integers(m)] = rng.normal(size=n)


def other_problems(rng: np.random.Generator, cost: np.ndarray) -> Iterator[np.ndarray]:
    n, m = cost.shape
    yield cost
    yield rng.integers(0, 3, (n, m)).astype(cost.dtype)
    yield np.zeros((n, m), cost.dtype)
    yield -cost
    yield cost * np.asarray(1e-25, cost.dtype)
    yield cost * np.asarray(1e25, cost.dtype)
    yield cost
    yield (cost.astype(np.float64) * 2.0**-1060).astype(np.float64)
    yield rng.integers(0, 9, (n, m)).astype(np.int32)


def forbidden_entries(rng: np.random.Generator, cost: np.ndarray) -> Iterator[np.ndarray]:
    n, m = cost.shape
    for share in (0.0, 0.3, 0.6, 0.1, 0.6):
        # A diagonal that is allowed keeps the problem feasible.
        forbidden = (rng.random((n, m)) < share) & (np.arange(n)[:, None] % m != np.arange(m) % n)
        yield np.where(forbidden, np.asarray(np.inf, cost.dtype), cost)


def shapes(rng: np.random.Generator, cost: np.ndarray) -> Iterator[np.ndarray]:
    n, m = cost.shape
    yield cost
    yield cost[: n // 2]
    yield cost[:, : m // 2]
    yield cost.T
    yield cost
    yield np.asfortranarray(cost)


@pytest.mark.parametrize("maximize", [False, True], ids=["min", "max"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    "sequence", [drift, few_columns, changed_rows_and_columns, other_problems, forbidden_entries, shapes]
)
def test_sequences_stay_optimal(
    sequence: Callable[..., Iterator[np.ndarray]], shape: tuple[int, int], dtype: Any, maximize: bool
) -> None:
    rng = np.random.default_rng(1)
    solver = AssignmentSolver(maximize)
    for cost in sequence(rng, rng.normal(size=shape).astype(dtype)):
        before = cost.tobytes()
        assert_solves(solver, np.where(np.isinf(cost), -cost, cost) if maximize else cost)
        assert cost.tobytes() == before


def test_the_same_cost_again_keeps_the_assignment() -> None:
    rng = np.random.default_rng(2)
    for cost in (rng.normal(size=(50, 50)), np.zeros((20, 20)), rng.integers(0, 3, (30, 45))):
        solver = AssignmentSolver()
        first = solver.solve(cost)
        np.testing.assert_array_equal(solver.solve(cost), first)


def test_a_solve_starts_from_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    given: list[dict[str, Any]] = []
    solve_lap = _native.solve_lap

    def watched(*args: Any, **named: Any) -> Any:
        given.append(named)
        return solve_lap(*args, **named)

    monkeypatch.setattr(_native, "solve_lap", watched)
    solver = AssignmentSolver()
    columns = solver.solve(rng.random((9, 12)))
    duals = solver.duals
    solver.solve(rng.random((9, 12)))
    assert "column_of_row" not in given[0]
    np.testing.assert_array_equal(given[1]["column_of_row"], columns)
    np.testing.assert_array_equal(given[1]["row_duals"], duals[0])
    np.testing.assert_array_equal(given[1]["column_duals"], duals[1])
    # Another shape, and a reset, start from nothing.
    solver.solve(rng.random((12, 9)))
    solver.reset()
    solver.solve(rng.random((12, 9)))
    assert ["column_of_row" in named for named in given] == [False, True, False, False]


@pytest.mark.parametrize("scale", [1e300, 1e308], ids=["large", "beyond the core"])
def test_sums_beyond_float64(scale: float) -> None:
    rng = np.random.default_rng(3)
    solver = AssignmentSolver()
    small = rng.random((9, 9))
    for cost in (small, small * scale, small * scale, small):
        rows = np.arange(9)
        np.testing.assert_array_equal(solver.solve(cost), linear_sum_assignment(small)[1])
        assert solver.cost == pytest.approx(cost[rows, solver.solve(cost)].sum())
        assert all(len(side) == 9 and not np.isnan(side).any() for side in solver.duals)


def test_empty() -> None:
    for shape in ((0, 0), (0, 3), (3, 0)):
        solver = AssignmentSolver()
        for _ in range(2):
            columns = solver.solve(np.zeros(shape))
            assert columns.tolist() == [-1] * shape[0]
            assert [len(side) for side in solver.duals] == list(shape)
            assert solver.cost == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64], ids=str)
def test_tensors_in_tensors_out(dtype: torch.dtype) -> None:
    solver = AssignmentSolver(maximize=True)
    for shape in ((12, 12), (7, 12), (12, 7)):
        cost = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 50).to(dtype)
        columns = solver.solve(cost)
        assert isinstance(columns, torch.Tensor)
        assert columns.dtype == torch.int64
        assert_certified(cost.double().numpy(), columns.numpy(), solver.duals, True)


@pytest.mark.gpu
def test_tensor_on_the_gpu_stays_there() -> None:
    cost = torch.rand(30, 30, device="cuda")
    assert AssignmentSolver().solve(cost).device == cost.device


def test_what_is_handed_out_is_the_callers() -> None:
    cost = np.random.default_rng(4).random((20, 20))
    solver = AssignmentSolver()
    columns = solver.solve(cost)
    kept, duals = columns.copy(), solver.duals
    columns[:] = 99
    for side in duals:
        side[:] = np.nan
    np.testing.assert_array_equal(solver.solve(cost), kept)
    assert_certified(cost, kept, solver.duals, False)


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda solver: pickle.loads(pickle.dumps(solver))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_copies_go_their_own_way(duplicate: Callable[[AssignmentSolver], AssignmentSolver]) -> None:
    rng = np.random.default_rng(5)
    cost = rng.random((30, 30))
    for solver in (AssignmentSolver(maximize=True, threads=1), AssignmentSolver()):
        twin = duplicate(solver)
        assert (twin.maximize, twin.threads) == (solver.maximize, solver.threads)
        assert_solves(twin, cost)
        with pytest.raises(RuntimeError, match="call solve first"):
            _ = solver.cost
        solver.solve(cost)
        twin = duplicate(solver)
        assert twin.cost == solver.cost
        total = solver.cost
        assert_solves(twin, cost + rng.normal(size=(30, 30)))
        assert solver.cost == total
        np.testing.assert_array_equal(duplicate(twin).solve(cost), twin.solve(cost))


def test_reset_forgets() -> None:
    cost = np.random.default_rng(6).random((15, 15))
    solver = AssignmentSolver()
    assert "nothing solved" in repr(solver)
    for read in ("duals", "cost"):
        with pytest.raises(RuntimeError, match="call solve first"):
            getattr(solver, read)
    solver.solve(cost)
    assert "15 x 15" in repr(solver)
    solver.reset()
    with pytest.raises(RuntimeError, match="call solve first"):
        _ = solver.duals
    assert_solves(solver, cost)


@pytest.mark.parametrize("shape", [(300, 300), (200, 350), (350, 200), (33, 33), (700, 700)], ids=str)
def test_threads_do_not_change_the_result(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(7)
    one, two, three = (AssignmentSolver(threads=count) for count in (1, 2, 3))
    for make in (
        lambda: rng.normal(size=shape).astype(np.float32),
        lambda: rng.integers(0, 5, shape).astype(np.float32),
        lambda: rng.normal(size=(shape[0], 3)) @ rng.normal(size=(3, shape[1])),
    ):
        cost = make()
        for _ in range(3):
            columns = one.solve(cost)
            for other in (two, three):
                np.testing.assert_array_equal(other.solve(cost), columns)
                for mine, theirs in zip(one.duals, other.duals, strict=True):
                    np.testing.assert_array_equal(mine, theirs)
            found = [linear_sum_assignment(cost, threads=count)[1] for count in (None, 1, 2, 3)]
            for columns in found[1:]:
                np.testing.assert_array_equal(columns, found[0])
            cost = cost + (0.1 * rng.normal(size=shape)).astype(cost.dtype)


def test_two_python_threads_with_a_solver_each() -> None:
    rng = np.random.default_rng(8)
    costs = [rng.normal(size=(200, 200)).astype(np.float32)]
    for _ in range(7):
        costs.append(costs[-1] + np.float32(0.1) * rng.normal(size=(200, 200)).astype(np.float32))
    found: list[Any] = [None, None]

    def work(k: int) -> None:
        solver = AssignmentSolver()
        found[k] = [solver.solve(cost) for cost in costs[:: 1 if k == 0 else -1]]

    threads = [threading.Thread(target=work, args=(k,)) for k in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k, order in enumerate((costs, costs[::-1])):
        solver = AssignmentSolver()
        for cost, columns in zip(order, found[k], strict=True):
            np.testing.assert_array_equal(columns, solver.solve(cost))


def test_a_call_that_raises_leaves_the_solver_as_it_was() -> None:
    rng = np.random.default_rng(9)
    cost = rng.random((20, 20))
    solver, twin = AssignmentSolver(), AssignmentSolver()
    solver.solve(cost)
    twin.solve(cost)
    wrong = cost.copy()
    wrong[3, 4] = np.nan
    infeasible = cost.copy()
    infeasible[2] = np.inf
    negative = np.where(np.eye(20) > 0, -np.inf, cost)
    for bad, says in ((wrong, "NaN"), (infeasible, "infeasible"), (negative, "-inf"), (cost[0], "2 dimensions")):
        with pytest.raises(ValueError, match=f"cost must .*{says}|cost is {says}"):
            solver.solve(bad)
        assert solver.cost == twin.cost
    for bad_kind in (None, np.zeros((2, 2), complex), torch.eye(2).to_sparse()):
        with pytest.raises(TypeError, match="cost must be"):
            solver.solve(bad_kind)  # type: ignore[call-overload]
    after = cost + 0.1 * rng.random((20, 20))
    np.testing.assert_array_equal(solver.solve(after), twin.solve(after))


INTERRUPTED = """
import signal, sys, threading, time, os
import numpy as np
from lmc_fast.assignment import AssignmentSolver, assignment_gap

# It is ignored where the tests are a shell's background job.
signal.signal(signal.SIGINT, signal.default_int_handler)
small = np.random.default_rng(0).random((50, 50))
# Its solution needs nearly n**2 row scans.
slow = np.multiply.outer(np.arange(1.0, 4001.0), np.arange(1.0, 4001.0)).astype(np.float32)
solver = AssignmentSolver()
columns = solver.solve(small)
if sys.argv[1] == "warm":
    solver.solve(np.eye(4000, dtype=np.float32))
total, duals = solver.cost, solver.duals
sent = []
def send():
    sent.append(time.perf_counter())
    os.kill(os.getpid(), signal.SIGINT)
threading.Timer(0.2, send).start()
try:
    solver.solve(slow)
except KeyboardInterrupt:
    took = time.perf_counter() - sent[0]
else:
    sys.exit("the solve was not interrupted")
assert took < 1, f"stopped after {took:.2f} s"
assert solver.cost == total
assert all((mine == kept).all() for mine, kept in zip(solver.duals, duals))
assert (solver.solve(small) == columns).all()
assert assignment_gap(small, columns, solver.duals) < 1e-12
print("stopped")
"""


@pytest.mark.parametrize("start", ["cold", "warm"])
def test_ctrl_c_stops_a_long_solve_and_keeps_the_state(start: str) -> None:
    done = forked.run(["-c", INTERRUPTED, start])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "stopped"


@pytest.mark.parametrize("maximize", [False, True], ids=["min", "max"])
@pytest.mark.parametrize("shape", [(30, 30), (20, 45), (45, 20), (0, 3)], ids=str)
def test_the_function_takes_a_warm_start(shape: tuple[int, int], maximize: bool) -> None:
    rng = np.random.default_rng(10)
    cost = rng.normal(size=shape)
    solver = AssignmentSolver(maximize)
    columns = solver.solve(cost)
    before = copy.deepcopy(solver)
    changed = cost + 0.2 * rng.normal(size=shape)
    tensors = tuple(torch.from_numpy(part) for part in (*solver.duals, columns))
    nothing = (np.zeros(shape[0]), np.zeros(shape[1]), np.full(shape[0], -1))
    for start in (solver, (*solver.duals, columns), [*solver.duals, columns.tolist()], tensors, nothing):
        for matrix in (cost, changed, cost * 1e-40, cost * 1e40):
            assert_optimal(matrix, *linear_sum_assignment(matrix, maximize, warm_start=start), maximize)  # type: ignore[arg-type]
    assert solver.cost == before.cost
    np.testing.assert_array_equal(linear_sum_assignment(cost, maximize, warm_start=solver)[1], columns[columns >= 0])


def test_a_solver_of_another_shape_is_no_start_and_no_error() -> None:
    rng = np.random.default_rng(11)
    solver = AssignmentSolver()
    cost = rng.random((8, 8))
    assert_optimal(cost, *linear_sum_assignment(cost, warm_start=solver), False)
    solver.solve(rng.random((5, 5)))
    assert_optimal(cost, *linear_sum_assignment(cost, warm_start=solver), False)


@pytest.mark.parametrize(
    ("start", "error", "says"),
    [
        (3, TypeError, "warm_start must be an AssignmentSolver or"),
        ((np.zeros(3), np.zeros(3)), TypeError, "warm_start must be an AssignmentSolver or"),
        ((np.zeros(2), np.zeros(3), [0, 1, 2]), ValueError, r"warm_start\[0\].* length 3, got .*\(2,\)"),
        ((np.zeros(3), np.zeros(2), [0, 1, 2]), ValueError, r"warm_start\[1\].* length 3, got .*\(2,\)"),
        ((np.zeros(3), np.zeros(3), [0, 1]), ValueError, r"warm_start\[2\].* length 3, got .*\(2,\)"),
        ((["a"] * 3, np.zeros(3), [0, 1, 2]), TypeError, r"warm_start\[0\].* real numbers"),
        ((np.zeros(3), np.zeros(3), [0.0, 1.0, 2.0]), TypeError, r"warm_start\[2\].* whole numbers"),
        (([0, np.inf, 0], np.zeros(3), [0, 1, 2]), ValueError, "finite duals, got row duals"),
        ((np.zeros(3), [0, np.nan, 0], [0, 1, 2]), ValueError, "finite duals, got column duals"),
        ((np.zeros(3), np.zeros(3), [0, 1, 3]), ValueError, r"warm_start\[2\].* 0 to 2.* got 3"),
        ((np.zeros(3), np.zeros(3), [0, 1, -2]), ValueError, r"warm_start\[2\].* 0 to 2.* got -2"),
        ((np.zeros(3), np.zeros(3), [0, 1, 1]), ValueError, r"warm_start\[2\].* distinct"),
        (AssignmentSolver(maximize=True), ValueError, "warm_start must be a solver with maximize=False"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_bad_warm_starts_name_the_argument(start: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        linear_sum_assignment(np.eye(3), warm_start=start)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"maximize": "yes"}, TypeError, "maximize must be a bool"),
        ({"maximize": 1}, TypeError, "maximize must be a bool"),
        ({"threads": 0}, ValueError, "threads must be a whole number of at least 1, got 0"),
        ({"threads": 1.5}, TypeError, "threads must be a whole number"),
        ({"threads": True}, TypeError, "threads must be a whole number"),
    ],
    ids=str,
)
def test_bad_options(options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        AssignmentSolver(**options)
    if "threads" in options:
        with pytest.raises(error, match=says):
            linear_sum_assignment(np.eye(2), **options)


@pytest.mark.parametrize("maximize", [False, True], ids=["min", "max"])
@pytest.mark.parametrize("shape", [(40, 40), (30, 45), (600, 600), (520, 700)], ids=str)
def test_duals_of_another_scale_are_dropped(shape: tuple[int, int], maximize: bool) -> None:
    rng = np.random.default_rng(12)
    cost = rng.normal(size=shape)
    cold = _native.solve_lap(cost, maximize)
    given = rng.permutation(shape[1])[: shape[0]]
    for scale in (1e7, 1e17, 1e290, 1.7e308):
        u, v = (scale * rng.uniform(-1, 1, size) for size in shape)
        found = _native.solve_lap(cost, maximize, row_duals=u, column_duals=v, column_of_row=given)
        for mine, theirs in zip(found, cold, strict=True):
            np.testing.assert_array_equal(mine, theirs)
        # The matching is looked at even so.
        twice = np.concatenate([given[:1], given[:-1]])
        with pytest.raises(ValueError, match="start must be finite duals and a matching"):
            _native.solve_lap(cost, maximize, row_duals=u, column_duals=v, column_of_row=twice)
    # Duals that the cost itself may have are kept: a start of the right ones is where the solve ends.
    again = _native.solve_lap(cost, maximize, row_duals=cold[1], column_duals=cold[2], column_of_row=cold[0])
    for mine, theirs in zip(again, cold, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("shape", [(50, 50), (30, 45), (45, 30), (700, 700), (600, 750)], ids=str)
def test_the_same_cost_again_keeps_the_duals(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(13)
    planted = rng.normal(size=shape)
    dead = np.where((rng.random(shape[0]) < 0.3)[:, None], 0.0, planted)
    for cost in (planted, dead, rng.integers(0, 3, shape).astype(np.float32), np.ones(shape)):
        solver = AssignmentSolver()
        columns, duals = solver.solve(cost), solver.duals
        for changes in ({}, {"changed_rows": []}):
            np.testing.assert_array_equal(solver.solve(cost, **changes), columns)
            for mine, kept in zip(solver.duals, duals, strict=True):
                np.testing.assert_array_equal(mine, kept)


@pytest.mark.parametrize("maximize", [False, True], ids=["min", "max"])
@pytest.mark.parametrize(
    "shape", [(40, 40), (600, 600), (560, 640), (1, 700), pytest.param((640, 560), marks=pytest.mark.slow)], ids=str
)
def test_told_changes_give_the_same_total(shape: tuple[int, int], maximize: bool) -> None:
    rng = np.random.default_rng(14)
    for make in (
        lambda size: rng.normal(size=size),
        lambda size: rng.integers(0, 4, size).astype(np.float32),
        lambda size: np.where(rng.random(size) < 0.3, -np.inf if maximize else np.inf, rng.normal(size=size)),
        lambda size: np.where(rng.random((size[0], 1)) < 0.3, 0, rng.normal(size=size)),
    ):
        cost = make(shape)
        solver, plain = AssignmentSolver(maximize), AssignmentSolver(maximize, threads=1)
        solver.solve(cost)
        plain.solve(cost)
        for rows, columns in ((1, 0), (0, 1), (3, 2), (30, 0), (0, 2), (shape[0], 0), (5, shape[1])):
            changed_rows = rng.choice(shape[0], min(rows, shape[0]), replace=False)
            changed_columns = rng.choice(shape[1], min(columns, shape[1]), replace=False)
            cost = cost.copy()
            other = make(shape)
            cost[changed_rows] = other[changed_rows]
            cost[:, changed_columns] = other[:, changed_columns]
            twin = copy.copy(solver)
            found = solver.solve(cost, changed_rows=changed_rows, changed_columns=changed_columns)
            assert_certified(cost, found, solver.duals, maximize)
            plain.solve(cost)
            assert solver.cost == pytest.approx(plain.cost, rel=1e-12)
            # As lists and as tensors, in one thread.
            twin.threads = 1
            told: dict[str, Any] = {"changed_rows": changed_rows.tolist()}
            told["changed_columns"] = torch.from_numpy(changed_columns)
            np.testing.assert_array_equal(twin.solve(cost, **told), found)


def test_told_changes_are_all_that_is_read() -> None:
    rng = np.random.default_rng(15)
    cost = rng.random((600, 600))
    solver = AssignmentSolver()
    solver.solve(cost)
    for column in (0, 599):
        # A row that nobody asks for may hold anything; told of, it is looked at.
        wrong = cost.copy()
        wrong[17, column] = np.nan
        np.testing.assert_array_equal(solver.solve(wrong, changed_rows=[3]), solver.solve(cost))
        for told in ({"changed_rows": [17]}, {"changed_columns": [column, 5]}, {}):
            with pytest.raises(ValueError, match=rf"NaN, got one at \(row 17, column {column}\)"):
                solver.solve(wrong, **told)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"changed_rows": [4]}, ValueError, "changed_rows must hold numbers from 0 to 3, got 4"),
        ({"changed_columns": [0, -1]}, ValueError, "changed_columns must hold numbers from 0 to 4, got -1"),
        ({"changed_rows": [0.0]}, TypeError, "changed_rows must be a vector of whole numbers"),
        ({"changed_rows": [True]}, TypeError, "changed_rows must be a vector of whole numbers"),
        ({"changed_columns": [[1]]}, ValueError, "changed_columns must be a vector"),
        ({"changed_columns": 1}, ValueError, "changed_columns must be a vector"),
    ],
    ids=str,
)
def test_bad_changes_name_the_argument(changes: dict[str, Any], error: type[Exception], says: str) -> None:
    solver = AssignmentSolver()
    cost = np.random.default_rng(16).random((4, 5))
    with pytest.raises(ValueError, match="changed_rows and changed_columns tell of an earlier solve"):
        solver.solve(cost, **changes)
    solver.solve(cost)
    with pytest.raises(ValueError, match=r"need a cost of the last shape \(4, 5\), got \(5, 4\)"):
        solver.solve(cost.T, **changes)
    with pytest.raises(error, match=says):
        solver.solve(cost, **changes)
    solver.reset()
    with pytest.raises(ValueError, match="earlier solve"):
        solver.solve(cost, changed_rows=[0])

"""The assignment problem against scipy, brute certificates, layouts, dtypes, bad input, threads and signals."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.fuzz import check_seed
from benchmarks.problems import DTYPES, KINDS, LAYOUTS, assert_optimal, lay_out
from lmc_fast import _native
from lmc_fast.assignment import linear_sum_assignment

from .slow import slow_but


def assert_dual_contract(
    cost: np.ndarray, column_of_row: np.ndarray, u: np.ndarray, v: np.ndarray, maximize: bool
) -> None:
    """Check the core's word: duals feasible, tight on the matching, zero where nothing is matched."""
    cost = cost.astype(np.float64)
    n, m = cost.shape
    sign = -1.0 if maximize else 1.0
    rows = np.flatnonzero(column_of_row >= 0)
    columns = column_of_row[rows]
    assert len(np.unique(columns)) == len(rows) == min(n, m)
    if not rows.size:
        return
    slack = sign * (cost - u[:, None] - v[None, :])
    tolerance = 1e-12 * (np.abs(u).max() + np.abs(v).max() + 1e-300)
    assert slack.min() >= -tolerance, "not dual feasible"
    assert np.abs(slack[rows, columns]).max() <= tolerance, "not tight on the matching"
    longer, left = (v, np.setdiff1d(np.arange(m), columns)) if n < m else (u, np.setdiff1d(np.arange(n), rows))
    if n != m:
        assert (longer[left] == 0).all()
        assert (sign * longer <= 0).all()


@pytest.mark.parametrize("seed", slow_but(range(5), lambda seed: seed == 0), ids=lambda seed: f"seed{seed}")
def test_random_problems_equal_scipy_with_certificates(seed: int) -> None:
    seen = check_seed((1, seed), 1000)
    assert 0.01 < seen["infeasible"] / 1000 < 0.5
    assert min(seen[kind] for kind in KINDS) > 20


@pytest.mark.slow
def test_many_random_problems_equal_scipy_with_certificates() -> None:
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        seen = pool.map(check_seed, [(2, seed) for seed in range(50)], chunksize=1)
    assert sum(counted.total() for counted in seen) == 50_000


@pytest.mark.parametrize("maximize", [False, True], ids=["min", "max"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (63, 63), (40, 97), (97, 40), (257, 257)], ids=str)
def test_duals_certify(shape: tuple[int, int], dtype: Any, maximize: bool) -> None:
    rng = np.random.default_rng(3)
    for entries in (
        rng.normal(size=shape),
        rng.integers(0, 4, shape),
        rng.normal(size=(shape[0], 3)) @ rng.normal(size=(3, shape[1])),
        np.zeros(shape),
        np.multiply.outer(np.arange(shape[0]), np.arange(shape[1])),
    ):
        cost = np.asarray(entries, dtype, order="C" if shape[0] <= shape[1] else "F")
        column_of_row, u, v = _native.solve_lap(cost, maximize)
        assert_dual_contract(cost, column_of_row, u, v, maximize)
        # The transposed reading of a square matrix is another code path with the same duals' meaning.
        if shape[0] == shape[1]:
            assert_dual_contract(cost, *_native.solve_lap(np.asfortranarray(cost), maximize), maximize)


@pytest.mark.parametrize("maximize", [False, True], ids=["min", "max"])
@pytest.mark.parametrize("shape", [(30, 30), (20, 45), (45, 20), (0, 0), (0, 3), (1, 2)], ids=str)
@pytest.mark.parametrize("start", ["same", "changed", "garbage"])
def test_warm_starts_reach_the_optimum(start: str, shape: tuple[int, int], maximize: bool) -> None:
    rng = np.random.default_rng(4)
    order = "C" if shape[0] <= shape[1] else "F"
    for _ in range(30):
        cost = np.asarray(rng.normal(size=shape), order=order)
        column_of_row, u, v = _native.solve_lap(cost, maximize)
        if start == "changed":
            cost = np.asarray(cost + 0.3 * rng.normal(size=shape), order=order)
        elif start == "garbage":
            u, v = rng.normal(size=len(u)) * 10, rng.normal(size=len(v)) * 10
            column_of_row[rng.random(len(u)) < 0.3] = -1
        given = (u.copy(), v.copy(), column_of_row.copy())
        found = _native.solve_lap(cost, maximize, row_duals=u, column_duals=v, column_of_row=column_of_row)
        assert_dual_contract(cost, *found, maximize)
        for mine, kept in zip((u, v, column_of_row), given, strict=True):
            np.testing.assert_array_equal(mine, kept)
        if start == "same":
            np.testing.assert_array_equal(found[0], column_of_row)


def test_bad_warm_starts_are_refused() -> None:
    cost, duals = np.eye(3), np.zeros(3)

    def start(shape_of: np.ndarray, row: np.ndarray, column: np.ndarray, matching: list[int]) -> None:
        _native.solve_lap(
            shape_of, False, row_duals=row, column_duals=column, column_of_row=np.array(matching, dtype=np.int64)
        )

    for matching in ([0, 0, 1], [3, 0, 1], [-2, 0, 1]):
        with pytest.raises(ValueError, match="start"):
            start(cost, duals, duals, matching)
        with pytest.raises(ValueError, match="start"):
            start(np.zeros((3, 2), order="F"), duals, np.zeros(2), matching)
    with pytest.raises(ValueError, match="start"):
        start(cost, duals, np.array([0, np.nan, 0]), [0, 1, 2])
    with pytest.raises(ValueError, match="column_duals must have length 3, got 2"):
        start(cost, duals, np.zeros(2), [0, 1, 2])
    with pytest.raises(ValueError, match="together"):
        _native.solve_lap(cost, False, row_duals=duals)


@pytest.mark.parametrize(
    "matrix",
    [np.zeros((3, 2)), np.zeros((2, 6))[:, ::2], np.zeros(3), np.zeros((2, 2, 2))],
    ids=["tall in c order", "column steps", "vector", "cube"],
)
def test_core_refuses_what_it_cannot_walk(matrix: np.ndarray) -> None:
    with pytest.raises(ValueError, match="cost must"):
        _native.solve_lap(matrix, False)


def test_core_refuses_other_dtypes() -> None:
    with pytest.raises(TypeError, match="int64"):
        _native.solve_lap(np.zeros((2, 2), dtype=np.int64), False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda rows, columns: (rows, columns[::-1].copy()),
        lambda rows, columns: (rows[:-1], columns[:-1]),
        lambda rows, columns: (rows[::-1].copy(), columns[::-1].copy()),
        lambda rows, columns: (rows, np.full_like(columns, 0)),
        lambda rows, columns: (rows.astype(np.int32), columns),
    ],
    ids=["worse total", "short", "rows descending", "column twice", "int32"],
)
def test_comparison_can_fail(spoil: Callable[..., tuple[np.ndarray, np.ndarray]]) -> None:
    cost = np.random.default_rng(0).random((6, 6))
    rows, columns = linear_sum_assignment(cost)
    assert_optimal(cost, rows, columns, False)
    with pytest.raises(AssertionError):
        assert_optimal(cost, *spoil(rows, columns), False)


def test_certificate_can_fail() -> None:
    cost = np.random.default_rng(0).random((4, 6))
    column_of_row, u, v = _native.solve_lap(cost, False)
    assert_dual_contract(cost, column_of_row, u, v, False)
    for spoiled in (
        (np.roll(column_of_row, 1), u, v),
        (column_of_row, u + 1e-3, v),
        (column_of_row, u - 1e-3, v),
        (column_of_row, u + 1e-3, v - 1e-3),
        (np.zeros_like(column_of_row), u, v),
    ):
        with pytest.raises(AssertionError):
            assert_dual_contract(cost, *spoiled, False)


@pytest.mark.parametrize("dtype", [*DTYPES, np.uint16, np.uint32, np.uint64, np.longdouble], ids=lambda d: d.__name__)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_numpy_dtypes_and_layouts(dtype: Any, layout: str) -> None:
    rng = np.random.default_rng(5)
    for shape in ((7, 7), (5, 9), (9, 5), (1, 1), (1, 4), (4, 1)):
        cost = lay_out(rng.integers(0, 2 if dtype is np.bool_ else 50, shape).astype(dtype), layout)
        for maximize in (False, True):
            rows, columns = linear_sum_assignment(cost, maximize)
            assert type(rows) is type(columns) is np.ndarray
            assert_optimal(cost, rows, columns, maximize)


def test_other_byte_order_read_only_and_broadcast() -> None:
    cost = np.random.default_rng(6).random((8, 8))
    assert_optimal(cost, *linear_sum_assignment(cost.astype(">f8")), False)
    cost.flags.writeable = False
    assert_optimal(cost, *linear_sum_assignment(cost), False)
    repeated = np.broadcast_to(cost[0], (8, 8))
    assert_optimal(repeated, *linear_sum_assignment(repeated), False)


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
    ],
    ids=lambda dtype: str(dtype).removeprefix("torch."),
)
@pytest.mark.parametrize("maximize", [False, True], ids=["min", "max"])
def test_torch_dtypes(dtype: torch.dtype, maximize: bool) -> None:
    rng = np.random.default_rng(7)
    for shape in ((12, 12), (5, 9), (9, 5)):
        entries = torch.from_numpy(rng.integers(0, 2 if dtype is torch.bool else 60, shape)).to(dtype)
        for cost in (entries, entries.T, entries.repeat_interleave(2, 1)[:, ::2]):
            before = cost.clone()
            rows, columns = linear_sum_assignment(cost, maximize)
            assert isinstance(rows, torch.Tensor)
            assert isinstance(columns, torch.Tensor)
            assert_optimal(cost.double().numpy(), rows.numpy(), columns.numpy(), maximize)
            assert torch.equal(cost, before)


def test_tensors_that_require_grad_or_are_negated_views() -> None:
    cost = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    rows, columns = linear_sum_assignment(cost)
    assert not rows.requires_grad
    assert_optimal(cost.detach().numpy(), rows.numpy(), columns.numpy(), False)
    negated = torch.complex(cost.detach(), cost.detach().T).conj().imag
    assert negated.is_neg()
    rows, columns = linear_sum_assignment(negated)
    assert_optimal(negated.resolve_neg().numpy(), rows.numpy(), columns.numpy(), False)


@pytest.mark.gpu
def test_tensor_on_the_gpu_stays_there() -> None:
    cost = torch.rand(50, 50, device="cuda")
    rows, columns = linear_sum_assignment(cost)
    assert rows.device == columns.device == cost.device
    assert_optimal(cost.cpu().numpy(), rows.cpu().numpy(), columns.cpu().numpy(), False)


@pytest.mark.parametrize(
    "cost",
    [[[4, 1, 3], [2, 0, 5], [3, 2, 2]], ((4, 1.5), (2, 0)), [[True, False], [False, True]], [np.arange(3.0)] * 2],
    ids=["list", "tuple", "bools", "list of arrays"],
)
def test_array_likes(cost: Any) -> None:
    rows, columns = linear_sum_assignment(cost)
    assert isinstance(rows, np.ndarray)
    assert_optimal(np.asarray(cost), rows, columns, False)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)], ids=str)
@pytest.mark.parametrize("order", ["C", "F"])
def test_empty(shape: tuple[int, int], order: Any) -> None:
    for cost in (np.zeros(shape, order=order), np.zeros(shape, np.int8), np.zeros((9, 9))[: shape[0], : shape[1]]):
        rows, columns = linear_sum_assignment(cost)
        assert rows.shape == columns.shape == (0,)
        assert rows.dtype == columns.dtype == np.int64
    tensors = linear_sum_assignment(torch.zeros(shape), maximize=True)
    assert all(isinstance(t, torch.Tensor) and t.shape == (0,) and t.dtype == torch.int64 for t in tensors)


@pytest.mark.parametrize(
    ("cost", "error", "says"),
    [
        (np.zeros((2, 2), complex), TypeError, "complex128"),
        (np.array([[1, None]], dtype=object), TypeError, "object"),
        (np.array([["a"]]), TypeError, "<U1"),
        (np.zeros((2, 2), "M8[s]"), TypeError, "datetime64"),
        (None, TypeError, "object"),
        (torch.zeros(2, 2, dtype=torch.complex64), TypeError, "complex64"),
        (torch.eye(2).to_sparse(), TypeError, "dense"),
        (torch.zeros(2, 2, device="meta"), TypeError, "with data"),
        (3.0, ValueError, r"shape \(\)"),
        ([1, 2], ValueError, r"shape \(2,\)"),
        (np.zeros((2, 2, 2)), ValueError, r"shape \(2, 2, 2\)"),
        (torch.zeros(4), ValueError, r"shape \(4,\)"),
        ([[1, 2], [3]], ValueError, "inhomogeneous"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_wrong_kinds_name_the_argument(cost: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=f"cost_matrix must be .*{says}"):
        linear_sum_assignment(cost)


@pytest.mark.parametrize("maximize", [False, True], ids=["min", "max"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64], ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_invalid_entries_are_located(layout: str, dtype: Any, maximize: bool) -> None:
    rng = np.random.default_rng(8)
    wrong, forbidden = (np.inf, -np.inf) if maximize else (-np.inf, np.inf)
    for shape in ((6, 6), (4, 19), (19, 4), (1, 1), (33, 33)):
        i, j = (int(rng.integers(size)) for size in shape)
        for value, says in ((np.nan, "NaN"), (wrong, r"\+inf" if maximize else "-inf")):
            entries = rng.normal(size=shape).astype(dtype)
            entries[rng.random(shape) < 0.2] = forbidden
            entries[i, j] = value
            with pytest.raises(ValueError, match=rf"cost_matrix must not hold {says}.*\(row {i}, column {j}\)"):
                linear_sum_assignment(lay_out(entries, layout), maximize)


@pytest.mark.parametrize("maximize", [False, True], ids=["min", "max"])
def test_infeasible_says_who_is_left(maximize: bool) -> None:
    forbidden = -np.inf if maximize else np.inf
    cost = np.random.default_rng(9).normal(size=(5, 8))
    cost[3] = forbidden
    with pytest.raises(ValueError, match=r"infeasible.* row 3 "):
        linear_sum_assignment(cost, maximize)
    with pytest.raises(ValueError, match=r"infeasible.* column 3 "):
        linear_sum_assignment(cost.T, maximize)
    # Three rows that share two columns: any of the three may be named.
    cost = np.random.default_rng(9).normal(size=(6, 6))
    cost[np.ix_([1, 2, 4], [0, 1, 3, 5])] = forbidden
    with pytest.raises(ValueError, match=r"infeasible.* row [124] "):
        linear_sum_assignment(cost, maximize)


def test_huge_and_tiny_entries() -> None:
    rng = np.random.default_rng(10)
    huge = np.array([[1e308, -1e308], [-1e308, 1e308]])
    assert linear_sum_assignment(huge)[1].tolist() == [1, 0]
    assert linear_sum_assignment(huge, maximize=True)[1].tolist() == [0, 1]
    for scale in (5e-324, 1e-310, 1e-300, 1e280):
        cost = rng.integers(1, 1000, (20, 20)) * scale
        assert_optimal(cost, *linear_sum_assignment(cost), False)
    beyond = (2**60 + rng.integers(0, 2**40, (9, 9))).astype(np.int64)
    assert_optimal(beyond, *linear_sum_assignment(beyond), False)


def test_rounding_makes_no_endless_reduction() -> None:
    # Differences near one unit in the last place: duals that hardly fall, or not at all.
    rng = np.random.default_rng(12)
    for size in (20, 200):
        cost = 1e16 + rng.integers(0, 5, (size, size)) * 2.0
        assert_optimal(cost, *linear_sum_assignment(cost), False)
        cost = 1.0 + rng.integers(0, 4, (size, size)) * np.finfo(np.float64).eps
        assert_optimal(cost, *linear_sum_assignment(cost, maximize=True), True)


def slow_cost(n: int) -> np.ndarray:
    """A matrix whose solution needs nearly n**2 row scans."""
    return np.multiply.outer(np.arange(1.0, n + 1), np.arange(1.0, n + 1))


def test_two_threads_at_once() -> None:
    rng = np.random.default_rng(13)
    costs = [rng.normal(size=(300, 300)).astype(np.float32) for _ in range(8)]
    found: list[Any] = [None] * len(costs)

    def work(start: int) -> None:
        for k in range(start, len(costs), 2):
            found[k] = linear_sum_assignment(costs[k])

    threads = [threading.Thread(target=work, args=(start,)) for start in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for cost, (rows, columns) in zip(costs, found, strict=True):
        assert_optimal(cost, rows, columns, False)


def test_gil_is_free_during_a_solve() -> None:
    cost = slow_cost(1200)
    solving = threading.Event()
    solving.set()

    def work() -> None:
        while solving.is_set():
            linear_sum_assignment(cost)

    thread = threading.Thread(target=work)
    thread.start()
    end, turns = time.perf_counter() + 0.5, 0
    while time.perf_counter() < end:
        turns += 1
        time.sleep(0.002)
    solving.clear()
    thread.join()
    assert turns > 30


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C raises, also where the tests were started with SIGINT ignored (a shell's background job)."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_stops_a_solve(ctrl_c: None) -> None:
    cost = slow_cost(1500)
    killer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    begin = time.perf_counter()
    killer.start()
    with pytest.raises(KeyboardInterrupt):
        while time.perf_counter() - begin < 10:
            linear_sum_assignment(cost)
    assert time.perf_counter() - begin < 1.3
    assert linear_sum_assignment(np.eye(3), maximize=True)[1].tolist() == [0, 1, 2]

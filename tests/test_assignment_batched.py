"""Batches of assignment problems: the same as one by one, in every layout and dtype; errors name the index."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.problems import assert_optimal
from lmc_fast.assignment import linear_sum_assignment, linear_sum_assignment_batched

SHAPES = [(5, 8, 8), (7, 3, 9), (7, 9, 3), (1, 33, 33), (300, 4, 4), (2, 1, 5), (2, 5, 1)]
EMPTY = [(0, 4, 4), (3, 0, 0), (3, 0, 4), (3, 4, 0), (0, 0, 0)]


def layouts(costs: np.ndarray) -> dict[str, np.ndarray]:
    unaligned = np.zeros(costs.size * costs.itemsize + 1, np.uint8)[1:].view(costs.dtype).reshape(costs.shape)
    unaligned[...] = costs
    stepped = np.full((costs.shape[0], costs.shape[1] * 2, costs.shape[2] + 3), 1, costs.dtype)
    stepped[:, ::2, :-3] = costs
    read_only = costs.copy()
    read_only.flags.writeable = False
    return {
        "c": costs,
        "transposed": np.ascontiguousarray(costs.swapaxes(1, 2)).swapaxes(1, 2),
        "batch last": np.ascontiguousarray(costs.transpose(1, 2, 0)).transpose(2, 0, 1),
        "backwards": costs[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
        "steps": stepped[:, ::2, :-3],
        "unaligned": unaligned,
        "read only": read_only,
        "other byte order": costs.astype(costs.dtype.newbyteorder()),
    }


@pytest.mark.parametrize("maximize", [False, True], ids=["min", "max"])
@pytest.mark.parametrize(
    "dtype", [np.float32, np.float64, np.float16, np.int32, np.uint8, np.bool_], ids=lambda dtype: dtype.__name__
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_each_problem_is_solved(shape: tuple[int, int, int], dtype: Any, maximize: bool) -> None:
    entries = np.random.default_rng(0).normal(size=shape) * (1 if np.dtype(dtype).kind == "f" else 40)
    costs = np.abs(entries).astype(dtype)
    for name, laid_out in layouts(costs).items():
        before = laid_out.tobytes()
        rows, columns = linear_sum_assignment_batched(laid_out, maximize)
        assert type(rows) is type(columns) is np.ndarray, name
        assert rows.shape == columns.shape == (shape[0], min(shape[1:])), name
        for cost, i, j in zip(costs, rows, columns, strict=True):
            assert_optimal(cost, i, j, maximize)
        assert laid_out.tobytes() == before, name


@pytest.mark.parametrize("shape", EMPTY, ids=str)
def test_empty(shape: tuple[int, int, int]) -> None:
    for found in linear_sum_assignment_batched(np.zeros(shape)):
        assert found.shape == (shape[0], min(shape[1:]))
        assert found.dtype == np.int64


def test_a_problem_does_not_depend_on_its_batch_or_on_threads() -> None:
    rng = np.random.default_rng(1)
    costs = rng.integers(0, 4, (200, 12, 12)).astype(np.float32)
    rows, columns = linear_sum_assignment_batched(costs)
    for threads in (1, 2, 3):
        np.testing.assert_array_equal(linear_sum_assignment_batched(costs, threads=threads)[1], columns)
    np.testing.assert_array_equal(linear_sum_assignment_batched(costs[7:9])[1], columns[7:9])
    for cost, i, j in zip(costs, rows, columns, strict=True):
        found = linear_sum_assignment(cost)
        np.testing.assert_array_equal((i, j), found)


def test_entries_whose_sums_overflow_leave_the_others_alone() -> None:
    rng = np.random.default_rng(2)
    costs = rng.integers(1, 1000, (4, 6, 6)) * np.array([1.0, 1e305, 5e-324, 1e-310])[:, None, None]
    costs[1, 2, 3] = np.inf
    rows, columns = linear_sum_assignment_batched(costs)
    scaled = costs * np.array([1, 1e-305, 1, 1])[:, None, None]
    for cost, i, j in zip(scaled, rows, columns, strict=True):
        assert_optimal(cost, i, j, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int16, torch.bool], ids=str)
def test_tensors_in_tensors_out(dtype: torch.dtype) -> None:
    values = torch.randn(6, 5, 7, generator=torch.Generator().manual_seed(0)) * 30
    for costs in (values.to(dtype), values.to(dtype).transpose(1, 2), values.to(dtype)[::2]):
        rows, columns = linear_sum_assignment_batched(costs, maximize=True)
        assert isinstance(rows, torch.Tensor)
        assert isinstance(columns, torch.Tensor)
        for cost, i, j in zip(costs.double().numpy(), rows.numpy(), columns.numpy(), strict=True):
            assert_optimal(cost, i, j, True)


@pytest.mark.gpu
def test_tensors_on_the_gpu_stay_there() -> None:
    costs = torch.rand(3, 8, 8, device="cuda")
    assert all(found.device == costs.device for found in linear_sum_assignment_batched(costs))


@pytest.mark.parametrize("shape", [(6, 5, 5), (6, 3, 5), (6, 5, 3)], ids=str)
def test_errors_name_the_index_in_the_batch(shape: tuple[int, int, int]) -> None:
    costs = np.random.default_rng(3).random(shape)
    for value, says in ((np.nan, "must not hold NaN"), (-np.inf, "must not hold -inf")):
        wrong = costs.copy()
        wrong[4, 2, 1] = value
        with pytest.raises(ValueError, match=rf"cost_matrix\[4\] {says}.*\(row 2, column 1\)"):
            linear_sum_assignment_batched(wrong)
    infeasible = costs.copy()
    infeasible[2] = np.inf
    infeasible[5] = np.inf
    with pytest.raises(ValueError, match=r"cost_matrix\[2\] is infeasible"):
        linear_sum_assignment_batched(infeasible)


@pytest.mark.parametrize(
    ("costs", "options", "error", "says"),
    [
        (np.zeros((2, 2)), {}, ValueError, r"cost_matrix must be a batch of matrices.* shape \(2, 2\)"),
        (np.zeros((2, 2, 2, 2)), {}, ValueError, "cost_matrix must be a batch of matrices, of 3 dimensions"),
        ([[[1, 2], [3]]], {}, ValueError, "cost_matrix must be a batch of matrices of real numbers"),
        (np.zeros((1, 2, 2), complex), {}, TypeError, "cost_matrix must be a batch of matrices of real numbers"),
        (torch.zeros(1, 2, 2, device="meta"), {}, TypeError, "cost_matrix must be a dense tensor with data"),
        (np.zeros((1, 2, 2)), {"threads": 0}, ValueError, "threads must be a whole number of at least 1, got 0"),
        (np.zeros((1, 2, 2)), {"threads": "2"}, TypeError, "threads must be a whole number"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_bad_input_names_the_argument(costs: Any, options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        linear_sum_assignment_batched(costs, **options)


def test_lists_are_taken() -> None:
    rows, columns = linear_sum_assignment_batched([[[4, 1], [2, 0]], [[0, 9], [9, 0]]])
    assert rows.tolist() == [[0, 1], [0, 1]]
    assert re.sub(r"\s", "", str(columns.tolist())) in ("[[1,0],[0,1]]", "[[0,1],[0,1]]")

"""The reference gain matrix against sums written out by hand."""

from __future__ import annotations

import pytest
import torch

from lmc_fast.assignment import AssignmentSolver, Candidates
from lmc_fast.ops.gain_matrix import (
    Term,
    gain_candidates,
    gain_matrices,
    gain_matrix,
    gain_matrix_and_candidates,
)

from .candidates import assert_promised


@pytest.mark.parametrize("size", [1, 2, 63])
def test_it_is_the_sum_over_entries(size: int) -> None:
    weight_a, weight_b = torch.randn(5, size, 3), torch.randn(5, size, 3)
    bias_a, bias_b = torch.randn(size), torch.randn(size)
    order = torch.tensor([2, 0, 4, 1, 3])
    terms = [Term(weight_a, weight_b, (1,), (order, None, None)), Term(bias_a, bias_b, (0,), (None,))]
    expected = torch.einsum("kiz,kjz->ij", weight_a.double(), weight_b.double()[order])
    expected += torch.outer(bias_a.double(), bias_b.double())
    gain = gain_matrix(terms)
    assert gain.shape == (size, size) and gain.dtype == torch.float32
    torch.testing.assert_close(gain.double(), expected, rtol=1e-5, atol=1e-5)


def test_units_over_two_dimensions_are_taken_together() -> None:
    a, b = torch.randn(3, 2, 4, 5), torch.randn(3, 2, 4, 5)
    gain = gain_matrix([Term(a, b, (0, 2), (None,) * 4)])
    expected = torch.einsum("icuz,jcvz->iujv", a, b).reshape(12, 12)
    torch.testing.assert_close(gain, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types_are_summed_in_float32(dtype: torch.dtype) -> None:
    """The trap: half-precision accumulation. 3000 ones are 3000, which neither type can hold beside its ulp."""
    ones = torch.ones(2, 3001).to(dtype)
    gain = gain_matrix([Term(ones, ones, (0,), (None, None))])
    assert gain.dtype == torch.float32 and (gain == 3001).all()


def test_any_strides() -> None:
    a, b = torch.randn(7, 4).T, torch.randn(14, 4)[::2].T
    assert not a.is_contiguous() and not b.is_contiguous()
    torch.testing.assert_close(gain_matrix([Term(a, b, (0,), (None, None))]), a @ b.T)


def test_a_correction_is_added_in_place() -> None:
    a, b = torch.randn(30, 6), torch.randn(30, 6)
    before, now = torch.randperm(30), torch.randperm(30)
    base = gain_matrix([Term(a, b, (1,), (before, None))])
    moved = (before != now).nonzero().squeeze(1)
    term = Term(a[moved], b, (1,), (now[moved], None), (before[moved], None))
    assert gain_matrix([term], base) is base
    torch.testing.assert_close(base, a.T @ b[now], rtol=1e-5, atol=1e-5)
    assert gain_matrix([], base) is base


def test_many_groups_are_a_loop_over_them() -> None:
    groups = [[Term(torch.randn(n, 3), torch.randn(n, 3), (0,), (None, None))] for n in (1, 2, 63)]
    base = torch.ones(2, 2)
    gains = gain_matrices(groups, [None, base, None])
    assert gains[1] is base
    for gain, (term,), start in zip(gains, groups, (0, 1, 0), strict=True):
        torch.testing.assert_close(gain, start + term.a @ term.b.T)
    assert gain_matrices([[]], [base]) == [base] and gain_matrices([]) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("n", "m", "k"), [(1, 1, 1), (2, 63, 8), (63, 40, 40), (30, 20, 25), (0, 3, 2), (3, 0, 2)])
def test_candidates_are_the_best_columns(n: int, m: int, k: int, dtype: torch.dtype) -> None:
    gain, duals = torch.randn(m, n, dtype=dtype).T, torch.randn(m, dtype=torch.float64)
    found = gain_candidates(gain, duals, k)
    if m:
        assert_promised(gain, duals, k, found)
    order = (gain - duals.to(dtype)).argsort(dim=1, descending=True)[:, :k]
    assert torch.equal(found.columns[:, :m], order.int()) and (found.columns[:, m:] == -1).all()
    assert (found.bounds == -torch.inf).all() == (k >= m or n == 0)


def test_a_bound_is_above_what_rounding_hides() -> None:
    """1 - 2^-30 is 1 in float32, and more than the exact difference; 1 + 2^-30 less: the bound is above both."""
    gain = torch.tensor([[2.0, 1.0, 1.0]])
    duals = torch.tensor([0.0, -(2.0**-30), 2.0**-30], dtype=torch.float32)
    found = gain_candidates(gain, duals, 1)
    assert found.bounds.double().item() >= 1 + 2.0**-30
    assert_promised(gain, duals, 1, found)


def test_candidates_of_rows_that_are_not_finite_are_none() -> None:
    gain = torch.randn(4, 9)
    gain[0, 2], gain[2, 8], gain[3, 0] = torch.nan, torch.inf, -torch.inf
    found = gain_candidates(gain, torch.zeros(9), 3)
    assert (found.bounds == torch.inf).tolist() == [True, False, True, True]
    assert (found.columns[[0, 2, 3]] == -1).all()


def test_candidates_serve_a_solver() -> None:
    """The chain as a matcher has it: gains that drift, duals of the last solve, solves that read few rows."""
    solver, plain = AssignmentSolver(maximize=True), AssignmentSolver(maximize=True)
    a, b = torch.randn(600, 30), torch.randn(600, 30)
    duals = torch.zeros(600)
    for _ in range(4):
        gain, found = gain_matrix_and_candidates([Term(a, b, (0,), (None, None))], duals, 12)
        assert torch.equal(gain, gain_matrix([Term(a, b, (0,), (None, None))]))
        solver.solve(gain, candidates=Candidates(*found))
        plain.solve(gain)
        assert solver.cost == pytest.approx(plain.cost, rel=1e-12)
        duals = torch.from_numpy(solver.duals[1])
        b = b + 0.05 * torch.randn(600, 30)


def test_bad_searches_are_named() -> None:
    gain, duals = torch.zeros(3, 4), torch.zeros(4)
    term = Term(gain, gain, (0,), (None, None))
    with pytest.raises(TypeError, match="gain must be a tensor, got a list"):
        gain_candidates([[1.0]], duals)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="gain must be a matrix in float32 or float64"):
        gain_candidates(gain.half(), duals)
    with pytest.raises(ValueError, match="gain must be a matrix, of 2 dimensions"):
        gain_candidates(gain[0], duals)
    with pytest.raises(ValueError, match="k must be a whole number of at least 1, got 0"):
        gain_candidates(gain, duals, 0)
    with pytest.raises(RuntimeError, match="'native' cannot run gain_candidates here"):
        gain_candidates(gain, duals, backend="native")
    with pytest.raises(ValueError, match="one Term at least"):
        gain_matrix_and_candidates([], duals)
    for search, length in (
        (lambda d: gain_candidates(gain, d), 4),
        (lambda d: gain_matrix_and_candidates([term], d), 3),
    ):
        with pytest.raises(ValueError, match=f"column_duals must be a vector of length {length}"):
            search(torch.zeros(5))
        with pytest.raises(TypeError, match="column_duals must be a vector of real numbers"):
            search(torch.zeros(length, dtype=torch.complex64))
        with pytest.raises(TypeError, match="column_duals must be a tensor"):
            search([0.0] * length)


def test_bad_groups_are_named() -> None:
    term = Term(torch.randn(3, 2), torch.randn(3, 2), (0,), (None, None))
    base = torch.zeros(3, 3)
    with pytest.raises(ValueError, match="bases must have one entry for each of 1 groups, got 2"):
        gain_matrices([[term]], [None, None])
    with pytest.raises(ValueError, match=r"groups\[1\] must hold one Term at least"):
        gain_matrices([[term], []])
    with pytest.raises(ValueError, match="bases must lie apart, got one twice"):
        gain_matrices([[term], [term]], [base, base])
    with pytest.raises(ValueError, match="precision must be one of"):
        gain_matrices([[term]], precision="fp16")
    with pytest.raises(RuntimeError, match="'native' cannot run gain_matrix here"):
        gain_matrices([[term]], backend="native")


def test_bad_input_is_named() -> None:
    term = Term(torch.randn(3, 2), torch.randn(3, 2), (0,), (None, None))
    with pytest.raises(ValueError, match="one Term at least"):
        gain_matrix([])
    with pytest.raises(ValueError, match=r"precision must be one of \('auto', .*'library'\), got 'fp16'"):
        gain_matrix([term], precision="fp16")
    with pytest.raises(ValueError, match="backend must be one of"):
        gain_matrix([term], backend="cuda")
    with pytest.raises(RuntimeError, match="'native' cannot run gain_matrix here: gain_matrix has no such form"):
        gain_matrix([term], backend="native")

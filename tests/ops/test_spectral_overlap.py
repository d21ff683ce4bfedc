"""R(gamma) and its value at 0 by polar factors, against their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lmc_fast.ops.spectral_overlap import polar_overlap, spectral_overlap
from lmc_fast.ops.spectral_overlap.naive import counted

SHAPES = [(1, 1), (2, 63), (63, 2), (40, 40)]


def parts(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, S, V with vectors as columns."""
    u, s, vh = torch.linalg.svd(w, full_matrices=False)
    return u, s, vh.T


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_sum_over_pairs(shape: tuple[int, int], dtype: torch.dtype) -> None:
    a, b = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)
    rows, columns = torch.randperm(shape[0]), torch.randperm(shape[1])
    (u_a, s_a, v_a), (u_b, s_b, v_b) = parts(a), parts(b)
    gammas = (0.3, 0.0, 1.0)
    found = spectral_overlap(u_a, s_a, v_a, u_b, s_b, v_b, rows, columns, gammas=gammas)
    assert found.shape == (3,) and found.dtype == torch.float64
    for gamma, value in zip(gammas, found.tolist(), strict=True):
        ours = [i for i in range(len(s_a)) if s_a[i] >= gamma * s_a[0]]
        theirs = [j for j in range(len(s_b)) if s_b[j] >= gamma * s_b[0]]
        total = sum(float(u_a[:, i] @ u_b[rows, j]) * float(v_a[:, i] @ v_b[columns, j]) for i in ours for j in theirs)
        assert value == pytest.approx(total / (len(ours) * len(theirs)) ** 0.5, abs=1e-6)


def test_a_permuted_copy_coincides() -> None:
    w = torch.randn(30, 20)
    rows, columns = torch.randperm(30), torch.randperm(20)
    u, s, v = parts(w)
    placed_u, placed_v = torch.empty_like(u), torch.empty_like(v)
    placed_u[rows], placed_v[columns] = u, v
    found = spectral_overlap(u, s, v, placed_u, s, placed_v, rows, columns, gammas=(0.0, 0.3, 0.9))
    torch.testing.assert_close(found, torch.ones(3, dtype=torch.float64), rtol=1e-5, atol=1e-5)


def test_zero_singular_values_do_not_count() -> None:
    """Rank 3: the vectors of the zeros are noise, and turning them at random changes nothing."""
    u, s, v = parts(torch.randn(20, 3) @ torch.randn(3, 15))
    turned = u.clone()
    turned[:, 3:] = u[:, 3:] @ torch.linalg.qr(torch.randn(12, 12)).Q
    found = spectral_overlap(u, s, v, turned, s, v, gammas=(0.0,))
    torch.testing.assert_close(found, torch.ones(1, dtype=torch.float64), rtol=1e-5, atol=1e-5)
    nothing = spectral_overlap(u, torch.zeros_like(s), v, u, s, v)
    assert nothing.tolist() == [0.0, 0.0]


def test_any_basis_of_equal_singular_values_will_do() -> None:
    u, v = torch.linalg.qr(torch.randn(20, 6)).Q, torch.linalg.qr(torch.randn(15, 6)).Q
    s = torch.tensor([5.0, 2.0, 2.0, 2.0, 1.0, 1.0])
    other = parts(torch.randn(20, 15))
    turn = torch.eye(6)
    turn[1:4, 1:4] = torch.linalg.qr(torch.randn(3, 3)).Q
    gammas = (0.0, 0.3, 0.5)
    first = spectral_overlap(u, s, v, *other, gammas=gammas)
    torch.testing.assert_close(spectral_overlap(u @ turn, s, v @ turn, *other, gammas=gammas), first, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_polar_factors_give_the_value_at_zero_within_the_bound(shape: tuple[int, int], dtype: torch.dtype) -> None:
    a, b = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)
    rows, columns = torch.randperm(shape[0]), torch.randperm(shape[1])
    doubles = parts(a.double()), parts(b.double())
    exact = float(spectral_overlap(*doubles[0], *doubles[1], rows, columns, gammas=(0.0,)))
    found = polar_overlap(a, b, rows, columns)
    rounding = 100 * torch.finfo(dtype).eps
    assert abs(found.value - exact) <= found.bound + rounding
    assert found.bound < 1e-4 and found.steps < 80


def test_the_bound_holds_before_the_iteration_has_ended_and_without_full_rank() -> None:
    a, b = torch.randn(25, 40, dtype=torch.float64), torch.randn(25, 40, dtype=torch.float64)
    exact = float(spectral_overlap(*parts(a), *parts(b), gammas=(0.0,)))
    for steps in range(6):
        found = polar_overlap(a, b, by="products", max_steps=steps)
        assert found.steps == steps and abs(found.value - exact) <= found.bound
    assert polar_overlap(a[:, :1] @ b[:1], b, by="products").bound > 0.5
    assert polar_overlap(torch.zeros(3, 3), torch.eye(3), by="products").bound > 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (50, 50)], ids=str)
def test_values_that_are_zero_to_rounding_are_told_by_the_bound(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Not exact zeros: products must not lift rounding to 1. What `counted` counts gets there."""
    rank = min(shape)
    u, v = (torch.linalg.qr(torch.randn(n, rank, dtype=torch.float64)).Q for n in shape)
    s = torch.linspace(1, 0.1, rank, dtype=torch.float64)
    near = 4 * rank**0.5 * torch.finfo(dtype).eps
    for least, told in ((0.01 * near, True), (2 * near, False)):
        s[-1] = least
        w = ((u * s) @ v.T).to(dtype)
        found = polar_overlap(w, w, by="products", max_steps=100)
        assert (found.bound > 1e-2) == told
        assert told or found.value == pytest.approx(1.0, abs=1e-4)
        assert found.steps < 100


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_size_of_a_weight_does_not_matter(scale: float) -> None:
    a, b = torch.randn(30, 20), torch.randn(30, 20)
    assert polar_overlap(scale * a, b).value == pytest.approx(polar_overlap(a, b).value, abs=1e-6)


def test_products_alone_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of a GPU, on a CPU."""
    a, b = torch.randn(30, 20), torch.randn(30, 20)
    expected = polar_overlap(a, b)
    monkeypatch.setattr(torch.linalg, "cholesky_ex", None)
    monkeypatch.setattr(torch.linalg, "svd", None)
    found = polar_overlap(a, b, by="products")
    assert found.value == pytest.approx(expected.value, abs=1e-6) and found.steps > expected.steps
    assert found.bound < 1e-4


def test_bad_input_is_named() -> None:
    u, s, v = parts(torch.randn(5, 4))
    with pytest.raises(ValueError, match=r"u_b, s_b and v_b must be \[m, r\], \[r\] and \[n, r\]"):
        spectral_overlap(u, s, v, u, s[:3], v)
    with pytest.raises(ValueError, match="v_a and v_b must have as many rows, got 4 and 3"):
        spectral_overlap(u, s, v, u, s, v[:3])
    with pytest.raises(ValueError, match=r"columns must be int64 of shape \(4,\)"):
        spectral_overlap(u, s, v, u, s, v, None, torch.arange(5))
    with pytest.raises(TypeError, match="s_a must be a float32 or float64 tensor"):
        spectral_overlap(u, s.half(), v, u, s, v)
    with pytest.raises(ValueError, match=r"gammas must be from 0 to 1, got 1\.5"):
        spectral_overlap(u, s, v, u, s, v, gammas=(1.5,))
    with pytest.raises(ValueError, match="w_a and w_b must be matrices of one shape, not empty"):
        polar_overlap(torch.ones(2, 3), torch.ones(3, 2))
    with pytest.raises(ValueError, match="got 'qdwh'"):
        polar_overlap(torch.ones(2, 3), torch.ones(2, 3), by="qdwh")


def test_a_value_above_an_svds_rounding_counts_and_one_below_does_not() -> None:
    eps = torch.finfo(torch.float32).eps
    small = torch.cat([torch.ones(255), torch.tensor([100 * eps])])
    # 4 * sqrt(256) roundings is what an SVD is off by; size * eps would be 256 of them.
    assert int(counted(small, 0.0, 256).sum()) == 256
    small[-1] = 50 * eps
    assert int(counted(small, 0.0, 256).sum()) == 255

"""Polar factors by rational functions: against singular vectors, for what is hard about a matrix."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lmc_fast.ops.spectral_overlap import polar_overlap, rational
from lmc_fast.ops.spectral_overlap.rational import Zolotarev, by_rational, by_singular_values, inverted, symmetric

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
# How far R may be off.
EXACT = {torch.float32: 2e-5, torch.float64: 2e-8}


def with_values(m: int, values: Tensor) -> Tensor:
    """A matrix [m, n] of these singular values, and vectors at random."""
    n = len(values)
    u, v = (torch.linalg.qr(torch.randn(size, n, dtype=torch.float64)).Q for size in (m, n))
    return (u * values) @ v.T


def _falling(n: int, least: float) -> Tensor:
    return torch.logspace(0, math.log10(least), n, dtype=torch.float64)


def _zero_units(m: int, n: int) -> Tensor:
    w = torch.randn(m, n, dtype=torch.float64)
    w[: m // 4] = 0
    w[:, : n // 8] = 0
    return w


HARD: dict[str, Callable[[], Tensor]] = {
    "gaussian": lambda: torch.randn(300, 300, dtype=torch.float64),
    "odd and tall": lambda: torch.randn(401, 277, dtype=torch.float64),
    "wide": lambda: torch.randn(200, 900, dtype=torch.float64),
    "a few large": lambda: with_values(320, torch.cat([torch.full((6,), 20.0), torch.rand(250)]).double()),
    "falling to 1e-3": lambda: with_values(260, _falling(260, 1e-3)),
    "falling to 1e-6": lambda: with_values(260, _falling(260, 1e-6)),
    "a value of zero": lambda: with_values(300, torch.cat([torch.linspace(1, 0.1, 259), torch.zeros(1)]).double()),
    "zero units": lambda: _zero_units(300, 280),
    "more columns left than rows": lambda: _zero_units(280, 270),
    "rank of a third": lambda: torch.randn(256, 80, dtype=torch.float64) @ torch.randn(80, 256, dtype=torch.float64),
    "rows of other sizes": lambda: torch.randn(280, 256, dtype=torch.float64) * _falling(280, 1e-2)[:, None],
    "zero": lambda: torch.zeros(256, 256, dtype=torch.float64),
    "orthogonal": lambda: torch.linalg.qr(torch.randn(256, 256, dtype=torch.float64)).Q,
}


@DTYPES
@pytest.mark.parametrize("kind", HARD)
def test_r_is_that_of_the_singular_vectors(kind: str, dtype: torch.dtype) -> None:
    a = HARD[kind]().to(dtype)
    b = (a + a.std() * torch.randn_like(a)).to(dtype)
    rows, columns = (torch.randperm(n) for n in a.shape)
    expected = polar_overlap(a, b, rows, columns, by="singular vectors")
    found = polar_overlap(a, b, rows, columns, by="rational")
    assert (found.kept_a, found.kept_b) == (expected.kept_a, expected.kept_b)
    assert found.value == pytest.approx(expected.value, abs=EXACT[dtype])
    assert found.bound < 1e-4


@DTYPES
@pytest.mark.parametrize("shape", [(120, 100), (100, 120), (300, 260)], ids=str)
def test_what_is_zero_to_rounding_is_told_from_what_is_not(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """As `counted` tells it, from 4 sqrt(rank) roundings of the largest value on."""
    rank = min(shape)
    near = 4 * rank**0.5 * torch.finfo(dtype).eps
    for least, counts in ((0.01 * near, False), (3 * near, True)):
        values = torch.cat([torch.linspace(1, 0.1, rank - 1), torch.tensor([least])]).double()
        w = with_values(max(shape), values).to(dtype)
        w = w if shape[0] > shape[1] else w.T
        found = polar_overlap(w, w, by="rational")
        assert found.kept_a == rank - (not counts) and found.steps == 2
        assert found.value == pytest.approx(1.0, abs=EXACT[dtype])


def test_the_way_of_each_kind() -> None:
    """What needs no singular vectors, what another pass lifts, and what is left to singular vectors."""
    steps = {kind: polar_overlap(w := make().float(), w, by="rational").steps for kind, make in HARD.items()}
    assert [kind for kind, taken in steps.items() if taken == 0] == ["falling to 1e-6", "rank of a third", "zero"]
    assert {"gaussian", "odd and tall", "wide", "zero units", "a value of zero"} <= {
        k for k, n in steps.items() if n == 2
    }
    assert steps["falling to 1e-3"] == 4


@DTYPES
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_the_size_of_a_weight_does_not_matter(size: float, dtype: torch.dtype) -> None:
    w = torch.randn(200, 330, dtype=dtype)
    assert polar_overlap(size * w, w, by="rational").value == pytest.approx(1.0, abs=EXACT[dtype])


def test_small_matrices_and_float16_take_singular_vectors_and_float32() -> None:
    small, large = torch.randn(64, 64), torch.randn(200, 340, dtype=torch.float64)
    assert polar_overlap(small, small).steps == 0 and polar_overlap(large, large).steps == 2
    half = torch.randn(200, 340).half()
    assert polar_overlap(half, half).value == pytest.approx(polar_overlap(half.float(), half.float()).value, abs=1e-7)


def test_nothing_is_drawn_from_the_global_generator_and_the_weight_stays() -> None:
    w = torch.randn(256, 256)
    before, state = w.clone(), torch.get_rng_state()
    found = [by_rational(w) for _ in range(2)]
    assert torch.equal(w, before) and torch.equal(torch.get_rng_state(), state)
    assert found[0] is not None and found[1] is not None and torch.equal(found[0].factor, found[1].factor)


@DTYPES
def test_the_bound_holds_where_functions_are_poor(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pole each, far from the least value: off by much, and the bound says by how much at most."""
    monkeypatch.setattr(rational, "POLES", {dtype: (1, 1)})
    monkeypatch.setattr(rational, "NEAR_ZERO", {dtype: 1e-3})
    monkeypatch.setattr(rational, "ENOUGH", {dtype: 1.0})
    rational.plan_of.cache_clear()
    a = torch.randn(200, 260, dtype=torch.float64)
    near = by_rational(a.T.to(dtype).contiguous())
    rational.plan_of.cache_clear()
    exact = by_singular_values(a.T)
    assert near is not None
    off = float(torch.linalg.matrix_norm(near.factor.double() - exact.factor, "nuc"))
    assert 1e-2 < off <= near.bound


def test_functions_are_within_what_they_say_and_never_above_one() -> None:
    """Equal ripples: the least value as often as the function has freedom, from below 1."""
    for least in (1e-4, 0.03, 0.5):
        for poles in (1, 2, 3):
            f = Zolotarev.of(least, poles)
            points = [least ** (1 - k / 4000) for k in range(4001)]
            values = [f(x) for x in points]
            assert max(values) <= 1 + 1e-12 and min(values) == pytest.approx(f.reaches, rel=1e-5)
            assert f(least) == pytest.approx(f.reaches, rel=1e-9) and f(1.0) == pytest.approx(1.0, rel=1e-12)
            turns = [k for k in range(1, 4000) if (values[k] - values[k - 1]) * (values[k + 1] - values[k]) < 0]
            assert len(turns) == 2 * poles
    # Of one pole: Halley's weights that lift the least value most (Nakatsukasa, Bai, Gygi 2010).
    c = 1 / Zolotarev.of(0.1, 1).shifts[0]
    square = 0.01
    d = (4 * (1 - square) / square**2) ** (1 / 3)
    root = math.sqrt(1 + d)
    a = root + 0.5 * math.sqrt(8 - 4 * d + 8 * (2 - square) / (square * root))
    assert c == pytest.approx(a + (a - 1) ** 2 / 4 - 1, rel=1e-9)


@DTYPES
@pytest.mark.parametrize("n", [1, 2, 63, 257, 515, 600])
def test_halves_give_products_and_inverses(n: int, dtype: torch.dtype) -> None:
    a = torch.randn(n + 20, n, dtype=dtype)
    gram = symmetric(a, a)
    torch.testing.assert_close(gram, a.T @ a, rtol=1e-4, atol=1e-3)
    gram.diagonal().add_(float(n))
    torch.testing.assert_close(inverted(gram) @ gram, torch.eye(n, dtype=dtype), rtol=0, atol=1e-4)

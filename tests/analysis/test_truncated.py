"""The few largest factors: those of the whole decomposition, none missing, or none at all."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import lmc_fast as lmc
from lmc_fast.analysis import truncated
from lmc_fast.analysis.truncated import largest_factors
from lmc_fast.ops.spectral_overlap.naive import counted

N = 512
TAIL = torch.logspace(-0.9, -3, N, dtype=torch.float64)


@cache
def bases(shape: tuple[int, int], seed: int) -> tuple[Tensor, Tensor]:
    """Orthonormal columns, as many as a matrix of this shape has singular values, for its left and right vectors."""
    generator = torch.Generator().manual_seed(seed)
    u, v = (torch.linalg.qr(torch.randn(n, min(shape), generator=generator, dtype=torch.float64)).Q for n in shape)
    return u, v


def values(head: list[float], shape: tuple[int, int], tail: Tensor = TAIL) -> Tensor:
    return torch.cat([torch.tensor(head, dtype=torch.float64), tail])[: min(shape)]


def weight(head: list[float], shape: tuple[int, int] = (N, N), tail: Tensor = TAIL, seed: int = 0) -> Tensor:
    """A float64 matrix with these singular values first and those of the tail behind."""
    u, v = bases(shape, seed)
    return (u * values(head, shape, tail)) @ v.T


@pytest.fixture
def no_svd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no matrix with hundreds of both rows and columns be decomposed."""
    whole = torch.linalg.svd

    def small(a: Tensor, full_matrices: bool = True) -> object:
        assert min(a.shape[-2:]) < N
        return whole(a, full_matrices=full_matrices)

    monkeypatch.setattr(torch.linalg, "svd", small)


HEADS = {
    "apart": [1.0, 0.9, 0.7, 0.45, 0.31],
    "repeated": [1.0] * 3 + [0.5] * 4 + [0.35],
    "repeated at the threshold": [1.0] + [0.3] * 7,
    "crowded around the threshold": [1.0] + [0.3 + 0.002 * k for k in range(9, -10, -1)],
    "one": [1.0],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(N, N), (700, N), (N, 700)], ids=str)
@pytest.mark.parametrize("head", HEADS)
def test_they_are_the_first_of_the_whole(head: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    w = weight(HEADS[head], shape).to(dtype)
    found = largest_factors(w, 0.3)
    if found is None:
        # More steps than a third of the basis has.
        assert dtype == torch.float64 and "crowded" in head
        return
    u, s, v = found
    # What it is made of: its decomposition, but for the rounding of its entries.
    (whole_u, whole_v), whole_s = bases(shape, 0), values(HEADS[head], shape)
    kept = int(counted(whole_s.to(dtype), 0.3, max(shape)).sum())
    assert u.shape == (shape[0], kept) and s.shape == (kept,) and v.shape == (shape[1], kept)
    assert kept == sum(value >= 0.3 - 1e-9 for value in HEADS[head])
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(s.double(), whole_s[:kept], rtol=0, atol=20 * eps)
    # Vectors turn by rounding over the gap: 0.002 where it is crowded.
    expected = whole_u[:, :kept] @ whole_v[:, :kept].T
    assert float(torch.linalg.norm((u @ v.T).double() - expected)) < (3e4 if "crowded" in head else 1e3) * eps


@pytest.mark.usefixtures("no_svd")
def test_a_rank_of_few_is_found_whole() -> None:
    w = weight([1.0, 0.5, 0.4], tail=torch.zeros(N, dtype=torch.float64))
    found = largest_factors(w.float(), 0.1)
    assert found is not None and len(found[1]) == 3


def test_zeros_and_small_matrices_are_left_to_the_whole() -> None:
    assert largest_factors(torch.zeros(N, N), 0.3) is None
    assert largest_factors(torch.randn(100, 40), 0.3) is None
    zeros = lmc.singular_factors({"w": torch.zeros(N, N)}, gamma=0.3)["w"]
    assert zeros.kept(0.3) == 0 and zeros.u.shape == (N, 0)


def test_many_are_left_to_the_whole() -> None:
    for w in (torch.randn(N, N), torch.linalg.qr(torch.randn(N, N)).Q, weight([1.0] * 60)):
        found = largest_factors(w, 0.3)
        cut = lmc.singular_factors({"w": w}, gamma=0.3)["w"]
        s = torch.linalg.svdvals(w)
        kept = int(counted(s, 0.3, N).sum())
        assert cut.s.shape == (kept,) and (found is None or len(found[1]) == kept)
        torch.testing.assert_close(cut.s, s[:kept], rtol=1e-5, atol=0)


def test_a_value_that_was_missed_is_seen() -> None:
    w = weight(HEADS["apart"])
    s, v = values(HEADS["apart"], w.shape), bases(tuple(w.shape), 0)[1]
    limit = torch.tensor(0.3, dtype=torch.float64)
    for missing in range(5):
        there = [k for k in range(5) if k != missing]
        assert not truncated._none_beyond(w.T @ w, s[there], v[:, there], limit)
    assert truncated._none_beyond(w.T @ w, s[:5], v[:, :5], limit)
    assert not truncated._none_beyond(w.T @ w, s[:5], v[:, :5], limit / 3)


def test_a_start_without_the_first_vector_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The threshold would be that of the second value, and the count wrong; rounding alone brings the first back."""
    w = weight([1.0, 0.5, 0.4], seed=3)
    first = bases((N, N), 3)[1][:, 0]
    draw = torch.randn

    def blind(*size: int, **options: object) -> Tensor:
        drawn = draw(*size, **options)  # type: ignore[arg-type]
        return drawn - torch.outer(first, first @ drawn)

    monkeypatch.setattr(torch, "randn", blind)
    found = largest_factors(w, 0.45)
    assert found is None or found[1].tolist() == pytest.approx([1.0, 0.5], abs=1e-10)


@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_the_size_of_a_weight_does_not_matter(scale: float) -> None:
    w = weight(HEADS["apart"]).float()
    (u, s, v), (scaled_u, scaled_s, scaled_v) = (largest_factors(x, 0.3) or pytest.fail() for x in (w, scale * w))
    torch.testing.assert_close(scaled_s, scale * s, rtol=1e-5, atol=0)
    torch.testing.assert_close(scaled_u @ scaled_v.T, u @ v.T, rtol=0, atol=1e-4)


def test_the_alignment_is_that_of_whole_decompositions(no_svd: None, monkeypatch: pytest.MonkeyPatch) -> None:
    a = {"w": weight(HEADS["apart"], (N, 600)).float()}
    b = {"w": a["w"] + 0.3 * weight(HEADS["crowded around the threshold"], (N, 600), seed=1).float()}
    spec = lmc.PermutationSpec.from_axes({"w": ("rows", "columns")}, model=a)
    permutations = lmc.Permutations.random(spec, 1)
    copy = permutations.inverse().apply(b)
    gammas = (0.5, 0.3)
    few = lmc.spectral_alignment(a, copy, permutations, gammas=gammas)
    held = lmc.spectral_alignment(*(lmc.singular_factors(m, gamma=0.3) for m in (a, copy)), permutations, gammas=gammas)
    monkeypatch.undo()
    whole = lmc.spectral_alignment(*map(lmc.singular_factors, (a, copy)), permutations, gammas=gammas)
    assert (few.layers[0].kept_a, few.layers[0].kept_b) == (whole.layers[0].kept_a, whole.layers[0].kept_b)
    assert few.overall == pytest.approx(whole.overall, abs=1e-5) and held.overall == pytest.approx(
        few.overall, abs=1e-5
    )
    assert min(few.overall) > 0.3


def test_a_smaller_threshold_is_refused() -> None:
    a, b = {"w": torch.randn(8, 6)}, {"w": torch.randn(8, 6)}
    few = lmc.singular_factors(a, gamma=0.3)
    message = r"factors must reach down to gamma = 0\.2, but those of 'w' were computed for gamma = 0\.3 and above"
    with pytest.raises(ValueError, match=message):
        lmc.spectral_alignment(few, b, gammas=(0.5, 0.2))
    with pytest.raises(ValueError, match=message):
        lmc.spectral_alignment(b, few, gammas=(0.2,))
    with pytest.raises(ValueError, match=message):
        few["w"].kept(0.2)
    for call in (
        lambda: lmc.distance_decomposition(few, b),
        lambda: lmc.vector_cosines(b, few),
        lambda: lmc.input_alignment(
            torch.nn.Sequential(torch.nn.Linear(6, 8)),
            [torch.randn(2, 6)],
            factors=lmc.singular_factors(torch.nn.Sequential(torch.nn.Linear(6, 8)), gamma=0.3),
        ),
    ):
        with pytest.raises(ValueError, match="factors must reach down to gamma = 0, but"):
            call()
    expected = lmc.spectral_alignment(a, b, gammas=(0.0, 0.3)).overall[1]
    assert lmc.spectral_alignment(few, b, gammas=(0.3,)).overall == pytest.approx((expected,), abs=1e-6)
    with pytest.raises(ValueError, match=r"gamma must be from 0 to 1, got 1\.5"):
        lmc.singular_factors(a, gamma=1.5)


def test_a_vector_that_the_search_cannot_meet_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search converges without it, and the proof alone tells that it is there."""
    w = torch.zeros(N, N, dtype=torch.float64)
    w[:-1, :-1] = weight([1.0, 0.9, 0.7], (N - 1, N - 1))
    w[-1, -1] = 0.8
    drawn = torch.randn

    def blind(*shape: int, **options: Any) -> Tensor:
        start = drawn(*shape, **options)
        start[-1] = 0
        return start

    monkeypatch.setattr(torch, "randn", blind)
    factors = lmc.singular_factors({"w": w}, gamma=0.3)["w"]
    kept = factors.s[factors.s >= 0.3 * factors.s[0]]
    expected = torch.tensor([1.0, 0.9, 0.8, 0.7], dtype=torch.float64)
    torch.testing.assert_close(kept, expected, rtol=0, atol=1e-12)
    monkeypatch.setattr(truncated, "_none_beyond", lambda *_: True)
    believed = largest_factors(w, 0.3)
    assert believed is not None and len(believed[1]) == 3

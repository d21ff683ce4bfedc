"""Polar factors from eigenvectors of Gram matrices: as exact as those from singular values, which take what they can
not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lmc_fast.symmetry.kinds import polar
from lmc_fast.symmetry.kinds.polar import by_eigenvectors, by_singular_values, nuclear_norm, polar_factor

from .test_polar import DEAD, gain_with


@pytest.fixture
def left_over(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many gains each call left to singular values."""
    counts: list[int] = []

    def counted(gain: Tensor, dead: float) -> Tensor:
        counts.append(gain.shape[:-2].numel())
        return by_singular_values(gain, dead)

    monkeypatch.setattr(polar, "by_singular_values", counted)
    return counts


@pytest.mark.parametrize("size", [1, 2, 3, 63, 130])
@pytest.mark.parametrize("decades", [0, 3, 5])
def test_small_values_cost_no_digits(size: int, decades: int, left_over: list[int]) -> None:
    gain, left, right = gain_with(torch.logspace(0, -decades, size, dtype=torch.float64))
    found = by_eigenvectors(gain, DEAD)
    assert not left_over
    # As far as the gain's own rounding lets it be known.
    assert torch.allclose(found, left @ right.T, rtol=0, atol=1e-15 * 10**decades + 1e-14)
    assert torch.allclose(found @ found.T, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-13)


def test_only_those_out_of_reach_are_left_to_singular_values(left_over: list[int]) -> None:
    usual, _, _ = gain_with(torch.linspace(1, 0.1, 20, dtype=torch.float64))
    steep, left, right = gain_with(torch.logspace(0, -9, 20, dtype=torch.float64))
    found = by_eigenvectors(torch.stack([usual, steep, torch.zeros_like(usual), -usual])[:, None], DEAD)[:, 0]
    assert left_over == [1]
    assert torch.allclose(found[1], left @ right.T, atol=1e-6)
    assert torch.allclose(found[2], torch.eye(20, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(found[3], -found[0], atol=1e-13)


@pytest.mark.parametrize("size", [1, 2, 20, 90])
@pytest.mark.parametrize("decades", [5, 6, 7, 8])
def test_weak_directions_are_settled_and_orthogonal(size: int, decades: int, left_over: list[int]) -> None:
    """Where one step mends too little: the rounding of the Gram matrix is up to a tenth of the smallest square."""
    gain, left, right = gain_with(torch.logspace(0, -decades, size, dtype=torch.float64))
    found = by_eigenvectors(gain, DEAD)
    assert decades > 7 or not left_over
    assert torch.allclose(found, left @ right.T, rtol=0, atol=1e-15 * 10**decades + 1e-14)
    assert torch.allclose(found @ found.T, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("few", [1, 7, 19])
def test_dead_directions_need_no_singular_values(few: int, left_over: list[int]) -> None:
    """Of several gains at once, with other dead directions each, and weak ones beside them."""
    dead = 4e-6
    values = torch.logspace(0, -5, 20, dtype=torch.float64).repeat(4, 1)
    values[0, -few:] *= 1e-4
    values[1, -1:] = 0.0
    values[3] = 0.0
    gains = torch.stack([gain_with(row, seed)[0] for seed, row in enumerate(values)])
    found = by_eigenvectors(gains, dead)
    assert not left_over
    assert torch.allclose(found, by_singular_values(gains, dead), rtol=0, atol=1e-6)
    assert torch.allclose(found @ found.mT, torch.eye(20, dtype=torch.float64), rtol=0, atol=1e-11)


@pytest.mark.parametrize("seed", range(40))
def test_gains_of_any_kind_have_orthogonal_factors_of_the_most_value(seed: int) -> None:
    """Several at once, steep or flat, without rank, rows or columns, from rounding on dead or further up."""
    generator = torch.Generator().manual_seed(seed)

    def one_of(*choices: float) -> float:
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    size, dead = int(one_of(1, 2, 3, 20, 41)), one_of(DEAD, 4e-6)
    gains = []
    for k in range(3):
        values = torch.logspace(0, -one_of(0, 3, 6, 9, 12, 16), size, dtype=torch.float64)
        values[int(one_of(size // 2, size, size)) :] *= one_of(0, 1e-5)
        gain = gain_with(values, 3 * seed + k)[0] * one_of(1e-8, 1, 1e8)
        gain[size // 2] *= one_of(0, 1, 1)
        if one_of(0, 1):
            sides = torch.randn(2, size, int(one_of(1, 5, 30)), dtype=torch.float64, generator=generator)
            gain = sides[0] @ sides[1].T
        gains.append(gain)
    found = by_eigenvectors(torch.stack(gains), dead)
    assert torch.allclose(found @ found.mT, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-10)
    for gain, turn in zip(gains, found, strict=True):
        most = float(torch.linalg.matrix_norm(gain, ord="nuc"))
        assert float((turn * gain).sum()) == pytest.approx(most, rel=max(1e-11, size * dead))


def test_dead_directions_with_nothing_in_common_are_left_to_singular_values(left_over: list[int]) -> None:
    gain = torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)).roll(1, 1)
    gain[2] = 0.0
    found = by_eigenvectors(torch.stack([gain, torch.eye(3, dtype=torch.float64)]), DEAD)
    assert left_over == [1]
    assert torch.allclose(found[0].abs(), torch.eye(3, dtype=torch.float64).roll(1, 1), atol=1e-12)
    assert torch.allclose(found[1], torch.eye(3, dtype=torch.float64), atol=1e-12)


def test_what_rounding_of_the_gain_hides_is_dead(left_over: list[int]) -> None:
    gain, _, _ = gain_with(torch.logspace(0, -7, 20, dtype=torch.float64))
    rounded = gain.float()
    found = polar_factor(rounded)[0]
    assert not left_over
    dead = 4 * 20**0.5 * torch.finfo(torch.float32).eps
    assert torch.allclose(found, by_singular_values(rounded.double(), dead), rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-180, 1e180])
def test_squares_neither_overflow_nor_vanish(scale: float, left_over: list[int]) -> None:
    gain, left, right = gain_with(torch.linspace(1, 0.1, 12, dtype=torch.float64))
    found, value = polar_factor(scale * gain)
    assert not left_over and torch.allclose(found, left @ right.T, atol=1e-12)
    norm = nuclear_norm(scale * gain)
    assert norm is not None and float(norm) == pytest.approx(float(value), rel=1e-12)


def test_sums_of_small_values_are_those_of_singular_values(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.logspace(0, -7, 30, dtype=torch.float64)
    values[15:] = 0
    gains = torch.stack([gain_with(torch.ones_like(values))[0], gain_with(values)[0]])
    asked: list[int] = []
    real = torch.linalg.svdvals
    monkeypatch.setattr(torch.linalg, "svdvals", lambda x: asked.append(len(x)) or real(x))
    exact = nuclear_norm(gains)
    assert exact is not None and asked == [1]
    assert torch.allclose(exact, torch.tensor([30.0, float(values.sum())], dtype=torch.float64), rtol=1e-12)
    # A gain of fewer bits has no more of its own.
    rounded = nuclear_norm(gains.float())
    assert rounded is not None and asked == [1]
    assert torch.allclose(rounded, exact, rtol=1e-6)

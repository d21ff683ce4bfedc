"""Polar factors of gains: both ways against singular values that are known, and what is done with dead directions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lmc_fast.symmetry.kinds import polar
from lmc_fast.symmetry.kinds.polar import by_eigenvectors, by_products, by_singular_values, polar_factor

WAYS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "products": by_products,
    "values": by_singular_values,
    "vectors": by_eigenvectors,
}
DEAD = 1e-13


def turn(size: int, seed: int) -> Tensor:
    """A random orthogonal matrix."""
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]


def gain_with(values: Tensor, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A gain with these singular values, and their vectors."""
    left, right = turn(len(values), 2 * seed + 1), turn(len(values), 2 * seed + 2)
    return left * values @ right.T, left, right


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [1, 2, 3, 63, 130])
def test_it_is_the_product_of_the_vectors(way: str, size: int) -> None:
    gain, left, right = gain_with(torch.logspace(0, -6, size, dtype=torch.float64))
    found = WAYS[way](7e5 * gain, DEAD)
    assert torch.allclose(found, left @ right.T, atol=1e-9)
    assert torch.allclose(found @ found.T, torch.eye(size, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rank", [0, 1, 5, 39])
def test_dead_directions_turn_as_little_as_they_can(way: str, rank: int) -> None:
    size = 40
    values = torch.zeros(size, dtype=torch.float64)
    values[:rank] = torch.logspace(0, -3, rank, dtype=torch.float64)
    gain, left, right = gain_with(values)
    found = WAYS[way](gain, DEAD)
    assert torch.allclose(found @ found.T, torch.eye(size, dtype=torch.float64), atol=1e-12)
    live = left[:, :rank] @ right[:, :rank].T
    assert torch.allclose(left[:, :rank].T @ found @ right[:, :rank], torch.eye(rank, dtype=torch.float64), atol=1e-9)
    # Of the rest the largest trace that there is: the nuclear norm of what dead directions have in common.
    most = torch.linalg.matrix_norm(left[:, rank:].T @ right[:, rank:], ord="nuc")
    assert float(found.trace() - live.trace()) == pytest.approx(float(most), abs=1e-8)


@pytest.mark.parametrize("way", WAYS)
def test_dead_directions_that_have_nothing_in_common_are_turned_somehow(way: str) -> None:
    gain = torch.zeros(1, 3, 3, dtype=torch.float64)
    gain[0, 0, 1], gain[0, 2, 2] = 2.0, 1.0
    found = WAYS[way](gain, DEAD)[0]
    assert torch.allclose(found @ found.T, torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert float(found[0, 1]) == pytest.approx(1.0) and float(found[2, 2]) == pytest.approx(1.0)


def test_both_ways_agree_in_batches() -> None:
    gains = torch.randn(3, 2, 33, 33, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gains[1, 0, 5:] = 0.0
    assert torch.allclose(by_products(gains, DEAD), by_singular_values(gains, DEAD), atol=1e-8)


def test_a_gains_dtype_tells_what_is_dead() -> None:
    values = torch.ones(20, dtype=torch.float64)
    values[10:] = 1e-7
    gain, left, right = gain_with(values)
    assert torch.allclose(polar_factor(gain)[0], left @ right.T, atol=1e-6)
    rounded = polar_factor(gain.float())[0]
    assert rounded.dtype == torch.float64
    assert float(rounded.trace()) > float((left @ right.T).trace()) + 1


def test_the_value_is_the_nuclear_norm() -> None:
    gain, _, _ = gain_with(torch.linspace(3, 0, 12, dtype=torch.float64))
    assert float(polar_factor(gain)[1]) == pytest.approx(18.0)
    assert polar_factor(torch.zeros(4, 0, 0))[1].tolist() == [0.0] * 4


def test_what_is_not_on_a_cpu_goes_by_products(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []

    def products(gain: Tensor, dead: float) -> Tensor:
        asked.append(gain.device)
        return gain

    monkeypatch.setattr(polar, "by_products", products)
    polar_factor(torch.eye(3))
    polar_factor(torch.empty(3, 3, device="meta"))
    assert asked == [torch.device("meta")]

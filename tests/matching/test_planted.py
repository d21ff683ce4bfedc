"""Permutations of every group, planted in copies of many models, are found."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import lmc_fast as lmc
from benchmarks.planted import count_found

# `python -m benchmarks.run planted` counts in a ResNet20 as well, and says what the textbook loop finds.
KINDS = ("mlp", "vgg-batchnorm", "resnet", "transformer")
SEEDS = [pytest.param(8, id="eight"), pytest.param(100, id="a hundred", marks=pytest.mark.slow)]
# Groups of one owner inside each other; they take longer.
INSIDE = ("grouped-query", "grouped-query-rotary", "grouped-conv")


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_one_is_found(kind: str, seeds: int) -> None:
    assert count_found(kind, 0.0, seeds).right == seeds


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_with_noise_of_a_tenth(kind: str, seeds: int) -> None:
    assert count_found(kind, 0.1, seeds).right >= 0.99 * seeds


@pytest.mark.parametrize("noise", [0.0, 0.1], ids=["exact", "noisy"])
@pytest.mark.parametrize("kind", INSIDE)
def test_groups_inside_each_other(kind: str, noise: float, draws: Callable[[int, int], range]) -> None:
    seeds = len(draws(5, 20))
    assert count_found(kind, noise, seeds).right == seeds


def test_what_is_not_found_does_not_count() -> None:
    assert count_found("mlp", 0.0, 3, lambda a, b, spec: lmc.Permutations.identity(spec)).right == 0

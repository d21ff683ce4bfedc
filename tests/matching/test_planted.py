"""Permutations of every group, planted in copies of a hundred models, are found."""

from __future__ import annotations

import pytest

import lmc_fast as lmc
from benchmarks.planted import count_found

# `python -m benchmarks.run planted` counts in a ResNet20 as well, and says what the textbook loop finds.
KINDS = ("mlp", "vgg-batchnorm", "resnet", "transformer")
SEEDS = 100


@pytest.mark.parametrize("kind", KINDS)
def test_every_one_is_found(kind: str) -> None:
    assert count_found(kind, 0.0, SEEDS).right == SEEDS


@pytest.mark.parametrize("kind", KINDS)
def test_with_noise_of_a_tenth(kind: str) -> None:
    assert count_found(kind, 0.1, SEEDS).right >= 0.99 * SEEDS


def test_what_is_not_found_does_not_count() -> None:
    assert count_found("mlp", 0.0, 3, lambda a, b, spec: lmc.Permutations.identity(spec)).right == 0

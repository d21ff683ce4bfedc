"""The distance decomposition against the distance itself, and its lower bound."""

from __future__ import annotations

import math

import pytest
import torch

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import architectures

from .test_spectral import STRUCTURES, make


@pytest.mark.parametrize("kind", STRUCTURES)
def test_the_decomposition_is_the_distance(kind: str) -> None:
    a, b = make(kind, 1), make(kind, 2)
    permutations = lmc.Permutations.random(STRUCTURES[kind][1](a), 3)
    moved = permutations.apply(b).state_dict()
    found = lmc.distance_decomposition(a, b, permutations)
    for layer in found.layers:
        w_a, w_b, w_moved = a.state_dict()[layer.name], b.state_dict()[layer.name], moved[layer.name]
        direct = float((w_a - w_moved).square().sum())
        assert layer.squares_a + layer.squares_b - 2 * layer.cross == pytest.approx(direct, rel=1e-10, abs=1e-10)
        assert layer.after == pytest.approx(math.sqrt(direct), rel=1e-10)
        assert layer.decomposed == pytest.approx(layer.after, rel=1e-10)
        assert layer.before == pytest.approx(float((w_a - w_b).norm()), rel=1e-10)
        assert layer.squares_a == pytest.approx(float(w_a.square().sum()), rel=1e-10)
        assert 0 <= layer.bound <= min(layer.before, layer.after) + 1e-12
        assert layer.reduction == pytest.approx(1 - layer.after / layer.before)
    overall = found.overall
    assert overall.after == pytest.approx(math.sqrt(sum(layer.after**2 for layer in found.layers)))
    assert overall.bound == pytest.approx(math.sqrt(sum(layer.bound**2 for layer in found.layers)))
    assert overall.decomposed == pytest.approx(overall.after, rel=1e-10)


def test_the_bound_is_met_where_the_singular_vectors_are_the_same() -> None:
    layer = lmc.singular_factors({"w": torch.randn(9, 6).double()})["w"]
    stretched = {"w": (layer.u * torch.tensor([7.0, 5, 3, 2, 1, 0.5])) @ layer.v.T}
    (found,) = lmc.distance_decomposition({"w": layer.weight}, stretched).layers
    assert found.after == pytest.approx(found.bound, rel=1e-10) and found.bound > 0.1


def test_a_copy_comes_back_whole_and_the_table_says_so() -> None:
    model = models.randomise(models.small_resnet(), 1)
    spec = architectures.resnet(model)
    truth = lmc.Permutations.random(spec, 3)
    found = lmc.distance_decomposition(model, truth.inverse().apply(model), truth)
    assert found.overall.after == 0.0 and found.overall.before > 1 and found.overall.reduction == 1.0
    assert found.overall.bound < 1e-4
    assert "over all" in str(found) and "100.0%" in str(found)
    assert lmc.distance_decomposition(model, model).overall.reduction == 0.0


def test_factors_serve_for_it_and_matchings_count_the_same_weights() -> None:
    a, b = ({name: torch.randn(6, 5) for name in ("x", "y")} for _ in range(2))
    spec = lmc.PermutationSpec.from_axes({"x": ("p", None), "y": ("p", "q")}, model=a)
    match = lmc.weight_matching(a, b, spec)
    held = [lmc.singular_factors(side) for side in (a, b)]
    overall = lmc.distance_decomposition(*held, match).overall
    assert overall.before == pytest.approx(match.l2_before) and overall.after == pytest.approx(match.l2_after)
    assert overall.decomposed == pytest.approx(match.l2_after, rel=1e-5)

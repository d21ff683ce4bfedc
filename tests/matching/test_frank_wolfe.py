"""The search over all groups at once: its arithmetic, and what it finds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import lmc_fast as lmc
from benchmarks import models, planted
from lmc_fast import architectures
from lmc_fast.matching import weight
from lmc_fast.matching.engine import frank_wolfe
from lmc_fast.matching.engine.barycentre import Barycentre
from lmc_fast.matching.engine.descent import CoordinateDescent
from lmc_fast.matching.engine.nested import flat_choices

from .test_planted import KINDS
from .test_weight import PLANTED


def pair(kind: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], lmc.PermutationSpec]:
    build, spec_of = PLANTED[kind]
    a, b = (models.randomise(build(), seed=seed).double() for seed in (1, 2))
    return a.state_dict(), b.state_dict(), spec_of(a).bind(a)


def relaxed_objective(
    spec: lmc.PermutationSpec,
    a: dict[str, torch.Tensor],
    b: dict[str, torch.Tensor],
    parts: list[tuple[float, dict[str, np.ndarray]]],
) -> float:
    """<theta_a, P theta_b> with a dense mixture of permutation matrices on every axis, slowly."""
    permutations = [(share, lmc.Permutations(spec, choices)) for share, choices in parts]
    total = 0.0
    for name, tensor in a.items():
        if not tensor.is_floating_point() or "running" in name:
            continue
        moved = spec.view(name, b[name])
        for axis, size in enumerate(moved.shape):
            mixture = sum(share * torch.eye(size).double()[p.index(name, axis)] for share, p in permutations)
            moved = torch.tensordot(moved, mixture, dims=([axis], [1])).movedim(-1, axis)
        total += float((spec.view(name, tensor) * moved).sum())
    return total


@pytest.mark.parametrize("kind", PLANTED)
def test_a_step_is_what_dense_matrices_say(kind: str) -> None:
    """Objective, slope and gains along a few steps, against a relaxation that multiplies matrices."""
    a, b, spec = pair(kind)
    names = {name: 1.0 for name in a if a[name].is_floating_point() and "running" not in name}
    descent = CoordinateDescent(spec, a, b, names, lmc.Permutations.random(spec, 0), (), None)
    point = frank_wolfe._at(descent, dict(descent.choices))
    point.gains = {name: gain.copy() for name, gain in point.gains.items()}
    for seed, length in ((1, 0.5), (2, 0.3), (3, 0.8)):
        choices = lmc.Permutations.random(spec, seed).choices
        total = frank_wolfe._total(spec, point.gains, choices)
        frank_wolfe._step(point, frank_wolfe._at(descent, choices), length, total)
        assert sum(share for share, _ in point.parts) == pytest.approx(1.0)
        assert point.objective == pytest.approx(relaxed_objective(spec, a, b, point.parts), rel=1e-9)
        # <gradient, point>, from the gains and the matrices themselves.
        slope = 0.0
        for share, part in point.parts:
            for root in spec.roots:
                for name, flat in flat_choices(spec, root, part).items():
                    if name in point.gains:
                        slope += share * float(point.gains[name][np.arange(flat.size), flat].sum())
        assert point.slope == pytest.approx(slope, rel=1e-9)


def all_shifts(spec: lmc.PermutationSpec, frozen: set[str]) -> list[tuple[float, lmc.Permutations]]:
    """Cyclic shifts of every group but the frozen, so chosen that each axis sees every place of a unit as often."""
    rounds = math.lcm(*(spec.units(group) for group in spec.groups))
    parts = []
    for k in range(rounds):
        choices = {}
        for name, size in spec.sizes.items():
            shape = spec.shape(name)
            # The owner's shift runs first, then that of the units within.
            by = 0 if name in frozen else k // math.prod(shape[:-1])
            choices[name] = np.broadcast_to((np.arange(size) + by) % size, shape)
        parts.append((1 / rounds, lmc.Permutations(spec, choices)))
    return parts


def small_attention() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], lmc.PermutationSpec]:
    """Heads that own their value dimensions, fixed entries beside them on one axis, and a group without an owner."""
    heads = lmc.Segment("head", 1, (lmc.Segment("value"), lmc.Segment(length=1)))
    groups = [lmc.Group("head", 3), lmc.Group("value", 2, owner="head"), lmc.Group("p", 4)]
    axes = {"w": ("p", (heads, lmc.Segment(length=2))), "v": ((heads,), None), "bias": ("p",)}
    spec = lmc.PermutationSpec.from_axes(axes, groups)
    shapes = {"w": (4, 11), "v": (9, 3), "bias": (4,)}
    generator = torch.Generator().manual_seed(0)
    a, b = (
        {name: torch.randn(shape, dtype=torch.float64, generator=generator) for name, shape in shapes.items()}
        for _ in range(2)
    )
    return a, b, spec.bind(a)


@pytest.mark.parametrize("frozen", [(), ("head",), ("value",), ("p",)], ids=lambda frozen: "".join(frozen) or "none")
def test_the_middle_is_the_mean_of_all_permutations(frozen: tuple[str, ...]) -> None:
    a, b, spec = small_attention()
    now = lmc.Permutations.random(spec, 3)
    descent = CoordinateDescent(spec, a, b, dict.fromkeys(a, 1.0), now, frozen, None)
    point = frank_wolfe._at_middle(Barycentre(descent))
    parts = [(share, shift.after(now).choices) for share, shift in all_shifts(spec, set(frozen))]
    assert point.objective == pytest.approx(relaxed_objective(spec, a, b, parts), rel=1e-12)
    mean: dict[str, np.ndarray] = {}
    slope = 0.0
    for share, choices in parts:
        at = frank_wolfe._at(descent, choices)
        for name, gain in at.gains.items():
            mean[name] = mean.get(name, 0) + share * gain
        slope += share * frank_wolfe._total(spec, point.gains, choices)
    assert set(point.gains) == set(mean)
    for name, gain in point.gains.items():
        np.testing.assert_allclose(gain, mean[name], rtol=1e-12, atol=1e-12)
    assert point.slope == pytest.approx(slope, rel=1e-12)


@pytest.mark.parametrize(
    ("objective", "slope", "end", "length"),
    [(0.0, 1.0, 2.0, 1.0), (0.0, 1.0, 0.0, 0.5), (0.0, 1.0, 0.9, 1.0), (5.0, 1.0, 2.0, 0.125), (0.0, 1.0, 1.0, 1.0)],
)
def test_the_best_length_of_a_step(objective: float, slope: float, end: float, length: float) -> None:
    def value(t: float) -> float:
        return objective + slope * t + (end - objective - slope) * t * t

    assert frank_wolfe._best_length(objective, slope, end) == pytest.approx(length)
    assert value(length) == pytest.approx(max(map(value, np.linspace(0, 1, 1001).tolist())), abs=1e-3)


def test_it_finds_better_optima_than_coordinate_descent() -> None:
    better, gained = 0, 0.0
    for seed in range(10):
        a, b = (models.randomise(models.small_mlp((40, 40, 40)), seed=2 * seed + side) for side in (0, 1))
        spec = architectures.mlp(a)
        joint = lmc.weight_matching(a, b, spec, search="frank_wolfe", seed=seed)
        alone = lmc.weight_matching(a, b, spec)
        assert joint.converged and joint.method == "weight matching, Frank-Wolfe"
        better += joint.objective > alone.objective
        gained += joint.objective - alone.objective
    assert better >= 7 and gained > 0


@pytest.mark.parametrize("kind", KINDS)
def test_it_ends_at_no_less_than_its_start(kind: str) -> None:
    build, spec_of = planted.KINDS[kind]
    for seed in range(4):
        a, b = (models.randomise(build(), seed=2 * seed + side) for side in (0, 1))
        spec = spec_of(a)
        start = lmc.weight_matching(a, b, spec)
        joint = lmc.weight_matching(a, b, spec, init=start.permutations, search="frank_wolfe", seed=seed)
        assert joint.objective >= start.objective * (1 - 1e-12)


def test_what_it_finds_is_thrown_away_where_it_is_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.randomise(models.small_mlp((20, 20)), seed=0)
    spec = architectures.mlp(model)
    scrambled = lmc.Permutations.random(spec.bind(model), 5).choices
    monkeypatch.setattr(weight, "frank_wolfe", lambda descent, *_: descent.choose_all(scrambled))
    assert lmc.weight_matching(model, model, spec, search="frank_wolfe").permutations.moved == 0


@pytest.mark.parametrize("kind", KINDS)
def test_planted_permutations_are_found(kind: str) -> None:
    build, spec_of = planted.KINDS[kind]
    for seed in range(10):
        model = models.randomise(build(), seed)
        spec = spec_of(model).bind(model)
        truth = lmc.Permutations.random(spec, seed)
        match = lmc.weight_matching(model, truth.inverse().apply(model), spec, search="frank_wolfe")
        assert match.permutations == truth


def test_frozen_groups_stay() -> None:
    model = models.TransformerBlock()
    a, b = (models.randomise(models.TransformerBlock(), seed=seed) for seed in (1, 2))
    spec = models.TransformerBlock.spec().bind(model)
    for frozen in spec.groups:
        match = lmc.weight_matching(a, b, spec, search="frank_wolfe", freeze=[frozen])
        if spec.groups[frozen].owner is None:
            assert torch.equal(match.permutations[frozen], torch.arange(spec.sizes[frozen]))
        else:
            assert torch.equal(match.permutations[frozen], torch.arange(spec.sizes[frozen]).expand(spec.shape(frozen)))


def test_same_seed_same_result() -> None:
    a, b = (models.randomise(models.small_mlp((40, 40, 40)), seed=seed) for seed in (1, 2))
    spec = architectures.mlp(a)
    first, again = (lmc.weight_matching(a, b, spec, search="frank_wolfe", seed=3) for _ in range(2))
    assert first.permutations == again.permutations and first.objective == again.objective


def test_three_permuted_axes_are_refused() -> None:
    state = {"w": torch.randn(3, 4, 5)}
    spec = lmc.PermutationSpec.from_axes({"w": ("p", "q", "r")})
    with pytest.raises(ValueError, match="takes two permuted axes at most, and 'w' has 3"):
        lmc.weight_matching(state, state, spec, search="frank_wolfe")
    assert lmc.weight_matching(state, state, spec).converged


def test_an_unknown_search_is_refused() -> None:
    model = models.small_mlp()
    with pytest.raises(
        ValueError,
        match="search must be one of 'spectral', 'coordinate_descent', 'frank_wolfe', 'leading', got 'annealing'",
    ):
        lmc.weight_matching(model, model, architectures.mlp(model), search="annealing")

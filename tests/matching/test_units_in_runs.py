"""Every search takes groups whose units lie in several runs of an axis.

That those in the core do what those by torch do is tried beside all others that it takes (`test_small`).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import lmc_fast as lmc
from lmc_fast import Group, PermutationSpec, Segment
from lmc_fast.matching.engine.descent import CoordinateDescent
from lmc_fast.matching.engine.small import small_descent

from .around import Around

Pair = tuple[Around, Around, PermutationSpec, lmc.Permutations]
# Heads that hold units on both sides of others.
HEADS = (Segment("head", inner=(Segment("each", runs=(2, 3, 1)), Segment("free"))),)


@pytest.fixture(scope="module")
def pair() -> Pair:
    torch.manual_seed(0)
    model = Around().eval()
    spec = Around.spec().bind(model)
    assert lmc.verify_spec(model, spec, torch.randn(3, 7)) < 1e-10
    planted = lmc.Permutations.random(spec, 1)
    return model, planted.apply(model), spec, planted.inverse()


BATCH = torch.randn(64, 7, generator=torch.Generator().manual_seed(1))
METHODS: dict[str, Callable[[Around, Around, PermutationSpec], lmc.Permutations]] = {
    "weights": lambda a, b, spec: lmc.weight_matching(a, b, spec).permutations,
    "frank_wolfe": lambda a, b, spec: lmc.weight_matching(a, b, spec, search="frank_wolfe").permutations,
    "activations": lambda a, b, spec: lmc.activation_matching(a, b, [BATCH], spec).permutations,
}


@pytest.mark.parametrize("method", METHODS)
def test_what_was_planted_is_found(method: str, pair: Pair) -> None:
    a, b, spec, wanted = pair
    found = METHODS[method](a, b, spec)
    assert found == wanted
    state = a.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in found.apply(b).state_dict().items())


def test_of_many(pair: Pair) -> None:
    a, b, spec, _ = pair
    found = lmc.match_many([a, b], spec, method="merge_many")
    one, other = (chosen.apply(of).state_dict() for chosen, of in zip(found.permutations, (a, b), strict=True))
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)


def test_between_models(pair: Pair) -> None:
    """Interpolation gathers in one pass what apply gathers by itself."""
    a, b, spec, _ = pair
    chosen = lmc.Permutations.random(spec, 4)
    merged = lmc.interpolate(a, b, 0.3, chosen).state_dict()
    moved, still = chosen.apply(b).state_dict(), a.state_dict()
    assert all(torch.allclose(value, torch.lerp(still[n], moved[n], 0.3), atol=1e-6) for n, value in merged.items())


def test_owned_units_on_both_sides() -> None:
    generator = torch.Generator().manual_seed(3)
    shapes = {"w": (24, 9), "down": (5, 24), "each": (12, 4), "free": (3, 6)}
    a = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    groups = [Group("head", 4), Group("each", 3, owner="head"), Group("free", 3)]
    axes = {"w": (HEADS, None), "down": (None, HEADS), "each": ("each", None), "free": ("free", None)}
    spec = PermutationSpec.from_axes(axes, groups, model=a)
    planted = lmc.Permutations.random(spec, 2)
    assert lmc.weight_matching(a, planted.apply(a), spec).permutations == planted.inverse()


@pytest.mark.parametrize("is_inside", [False, True], ids=["on the axis", "inside units"])
def test_the_core_takes_runs_on_an_axis_alone(is_inside: bool) -> None:
    axis = (
        (Segment("u", inner=(Segment.fixed(2, runs=(1, 1, 1)), Segment.fixed(1))),)
        if is_inside
        else (Segment("u", inner=3, runs=(6, 3, 6)), Segment.fixed(3))
    )
    a = {"w": torch.randn(12 if is_inside else 15, 5), "u": torch.randn(4, 5)}
    spec = PermutationSpec.from_axes({"w": (axis, None), "u": ("u", None)}, model=a)
    layout = CoordinateDescent(spec, a, a, dict.fromkeys(a, 1.0), lmc.Permutations.identity(spec), (), None)
    assert (small_descent(layout, 1 << 20) is None) == is_inside

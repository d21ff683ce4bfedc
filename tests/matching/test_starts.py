"""Searches from several starts in one call: the best of them, as if each had been made alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lmc_fast as lmc
from lmc_fast import architectures
from lmc_fast.experiments.models import MLP
from lmc_fast.symmetry import Group, Segment, Transforms


def mlp(seed: int, width: int = 24) -> nn.Module:
    torch.manual_seed(seed)
    return MLP(6, [width] * 3, 4)


@pytest.mark.parametrize("search", ["spectral", "coordinate_descent", "leading", "frank_wolfe"])
def test_the_best_of_several_is_the_best_of_each(search: str) -> None:
    a, b = mlp(9), mlp(8)
    spec = architectures.mlp(a)
    starts = ["identity", "anchored", "random", lmc.Permutations.random(spec.bind(a), seed=5)]
    alone = [lmc.weight_matching(a, b, spec, init=start, search=search, seed=2) for start in starts]
    # The objective that is raised by "leading" is another, and decides.
    best = alone if search == "leading" else [max(alone, key=lambda match: match.objective)]
    for order in (starts, starts[::-1]):
        found = lmc.weight_matching(a, b, spec, init=order, search=search, seed=2)
        assert any(found.permutations == one.permutations for one in best)
        assert any(found.objective == pytest.approx(one.objective, rel=1e-12) for one in best)
    assert len({round(match.objective, 9) for match in alone}) > 1


def test_restarts_come_on_top() -> None:
    a, b = mlp(9), mlp(8)
    spec = architectures.mlp(a)
    few = lmc.weight_matching(a, b, spec, init=["identity", "anchored"])
    more = lmc.weight_matching(a, b, spec, init=["identity", "anchored"], restarts=6)
    most = lmc.weight_matching(a, b, spec, init=["identity"], restarts=6)
    assert more.objective >= max(few.objective, most.objective)


def test_each_start_may_be_told_of_by_itself() -> None:
    a, b = mlp(9), mlp(8)
    spec = architectures.mlp(a)
    told: dict[str, list[int]] = {"identity": [], "anchored": []}
    hooks = [lambda what, done, total, name=name: told[name].append(done) for name in told]
    lmc.weight_matching(a, b, spec, init=list(told), progress=hooks)
    assert all(steps and steps == list(range(1, len(steps) + 1)) for steps in told.values())
    with pytest.raises(ValueError, match="progress must be one, or one for each of the 2 starts, got 1"):
        lmc.weight_matching(a, b, spec, init=list(told), progress=hooks[:1])


def test_rotations_have_several_starts_too() -> None:
    spec = lmc.PermutationSpec.from_axes(
        {"0.weight": (Segment("R"), None), "1.weight": (None, Segment("R"))}, [Group("R", kind="orthogonal")]
    )
    torch.manual_seed(0)
    a = nn.Sequential(nn.Linear(3, 5, bias=False), nn.Linear(5, 4, bias=False)).double()
    turned = Transforms.random(spec.bind(a), seed=1).apply(a)
    match = lmc.weight_matching(a, turned, spec, init=["identity", "random"])
    assert match.l2_after < 1e-9 < match.l2_before


@pytest.mark.parametrize("init", [[], {"P": 1}, 3], ids=["none", "a mapping", "a number"])
def test_what_is_no_start_is_named(init: object) -> None:
    a = mlp(9)
    with pytest.raises(TypeError, match="init must be 'anchored', 'identity', 'random', Permutations or Transforms"):
        lmc.weight_matching(a, a, architectures.mlp(a), init=init)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"init must be 'anchored'.* got 'somewhere'"):
        lmc.weight_matching(a, a, architectures.mlp(a), init=["identity", "somewhere"])


def test_a_bound_spec_is_not_bound_again() -> None:
    a = mlp(9)
    open_spec = architectures.mlp(a)
    bound = open_spec.bind(a)
    assert bound.bind(a.state_dict()) is bound and bound.bind(mlp(8)) is bound
    wide = mlp(9, 25)
    with pytest.raises(ValueError, match="has 25 entries"):
        bound.bind(wide)

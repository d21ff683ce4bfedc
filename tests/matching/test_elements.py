"""The best elements of groups and of what they own, of every kind: against every order of the owners, by plain sums."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from lmc_fast import Group, PermutationSpec, Segment, Transforms
from lmc_fast.matching.engine.elements import best_elements, best_elements_together, worth
from lmc_fast.matching.engine.trees import Factor, Factors
from lmc_fast.symmetry.kinds import KINDS

INSIDE = ["permutation", "signed", "orthogonal", "orthogonal_keeping_ones", "phases"]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def heads_spec(kind: str, heads: int = 3, units: int = 3) -> PermutationSpec:
    """Heads that own two groups of a kind, apart from each other, and are told apart by entries of their own."""
    inner = KINDS[kind].entries
    return PermutationSpec.from_axes(
        {
            "own": ("head", None),
            "first": (Segment("head", inner=(Segment("first", inner=inner),)), None),
            "second": (Segment("head", inner=(Segment("second", inner=inner),)), None),
        },
        [
            Group("head", heads),
            Group("first", units, owner="head", kind=kind),
            Group("second", units, owner="head", kind=kind),
        ],
        model={
            "own": torch.zeros(heads, 2),
            "first": torch.zeros(heads * units * inner, 2),
            "second": torch.zeros(heads * units * inner, 2),
        },
    )


def factors_of(spec: PermutationSpec, keys: list[tuple[str, ...]], seed: int = 0) -> Factors:
    """Gains drawn at random."""
    found: Factors = {}
    for k, groups in enumerate(keys):
        shape = [size for name in groups for size in (spec.sizes[name], KINDS[spec.groups[name].kind].entries)]
        gain = torch.randn(1, *shape, *shape, generator=generator(seed + k), dtype=torch.float64)
        found[groups] = Factor(groups, gain)
    return found


def inside(factor: Factor, i: int, j: int) -> Tensor:
    """The gain of what lies in units i of a and j of b of the owner: [units, entries, units, entries]."""
    return factor.gain[0, i, 0, :, :, j, 0]


@pytest.mark.parametrize("kind", INSIDE)
def test_owners_are_assigned_over_what_is_best_inside(kind: str) -> None:
    spec = heads_spec(kind)
    for seed in range(5):
        factors = factors_of(spec, [("head",), ("head", "first"), ("head", "second")], seed)
        current = Transforms.random(spec, seed).elements
        found, gained = best_elements(spec, "head", factors, current)
        Transforms(spec, found)
        best = max(
            sum(
                float(factors["head",].gain[0, i, 0, j, 0])
                + sum(float(KINDS[kind].best(inside(factors["head", name], i, j))[1]) for name in ("first", "second"))
                for i, j in enumerate(order)
            )
            for order in itertools.permutations(range(3))
        )
        assert worth(spec, factors, found) == pytest.approx(best)
        assert gained == pytest.approx(best - worth(spec, factors, current))


def test_worth_is_the_plain_inner_product() -> None:
    """Of a gain that was summed from entries: sum a * (b moved)."""
    spec = heads_spec("orthogonal")
    a, b = (torch.randn(9, 2, generator=generator(s), dtype=torch.float64) for s in (1, 2))
    gain = (a @ b.T).reshape(1, 3, 1, 3, 1, 3, 1, 3, 1)
    for seed in range(3):
        moved = Transforms.random(spec, seed)
        value = worth(spec, {("head", "first"): Factor(("head", "first"), gain)}, moved.elements)
        assert value == pytest.approx(float((a * moved.apply_to("first", b)).sum()))


def test_frozen_groups_keep_what_they_hold() -> None:
    spec = heads_spec("orthogonal")
    factors = factors_of(spec, [("head",), ("head", "first"), ("head", "second")])
    current = Transforms.random(spec, 3).elements
    found, _ = best_elements(spec, "head", factors, current, {"first"})
    # Where a head goes, its rotation goes with it.
    was = {int(unit): current["first"][place] for place, unit in enumerate(current["head"])}
    for place, unit in enumerate(found["head"]):
        assert torch.equal(found["first"][place], was[int(unit)])
    found, _ = best_elements(spec, "head", factors, current, {"head"})
    assert torch.equal(found["head"], current["head"])
    for place, unit in enumerate(found["head"]):
        best = KINDS["orthogonal"].best(inside(factors["head", "second"], place, int(unit)))[0]
        assert torch.allclose(found["second"][place], best)


def test_groups_without_gains_stay() -> None:
    spec = heads_spec("orthogonal")
    current = Transforms.random(spec, 4).elements
    found, gained = best_elements(spec, "head", {}, current)
    assert gained == 0.0 and all(torch.equal(found[name], current[name]) for name in found)
    factors = factors_of(spec, [("head", "first")])
    found, _ = best_elements(spec, "head", factors, current)
    was = {int(unit): current["second"][place] for place, unit in enumerate(current["head"])}
    for place, unit in enumerate(found["head"]):
        assert torch.equal(found["second"][place], was[int(unit)])


def grouped_spec(values: str, planes: str, heads: int = 2, queries: int = 3, dims: int = 4) -> PermutationSpec:
    """Grouped queries: values and planes of a key/value head serve all its query heads."""
    pair = {"outer": 2} if planes == "phases" else {}
    units = dims // 2 if planes == "phases" else dims
    value, plane = Segment("value"), Segment("plane", **pair)
    rows = heads * queries * dims
    return PermutationSpec.from_axes(
        {
            "q": (Segment("kv", inner=(Segment("query", inner=(plane,)),)), None),
            "k": (Segment("kv", inner=(plane,)), None),
            "v": (Segment("kv", inner=(value,)), None),
            "o": (None, Segment("kv", inner=(Segment("query", inner=(value,)),))),
        },
        [
            Group("kv", heads),
            Group("query", queries, owner="kv"),
            Group("value", dims, owner="kv", kind=values),
            Group("plane", units, owner="kv", kind=planes),
        ],
        model={
            "q": torch.zeros(rows, 2),
            "k": torch.zeros(heads * dims, 2),
            "v": torch.zeros(heads * dims, 2),
            "o": torch.zeros(2, rows),
        },
    )


JOINT = [("kv", "value"), ("kv", "plane"), ("kv", "plane", "query"), ("kv", "query", "value")]


@pytest.mark.parametrize("planes", ["phases", "orthogonal"])
@pytest.mark.parametrize("values", ["permutation", "signed", "orthogonal"])
def test_groups_inside_each_other_gain_no_less_than_one_after_another(values: str, planes: str) -> None:
    spec = grouped_spec(values, planes)
    for seed in range(3):
        factors = factors_of(spec, JOINT, 10 * seed)
        current = Transforms.random(spec, seed).elements
        found, gained = best_elements(spec, "kv", factors, current)
        Transforms(spec, found)
        assert gained >= -1e-9
        best = -np.inf
        for order in itertools.permutations(range(2)):
            total = 0.0
            for i, j in enumerate(order):
                total += max(one_after_another(spec, factors, i, j, first) for first in ("query", "others"))
            best = max(best, total)
        assert worth(spec, factors, found) >= best - 1e-9


def one_after_another(spec: PermutationSpec, factors: Factors, i: int, j: int, first: str) -> float:
    """What units i and j of the owner are worth if query heads come before value dimensions and planes, or after.

    Query heads have no gain of their own: they stand as they are until the others are known.
    """
    value, plane, query = (KINDS[spec.groups[name].kind] for name in ("value", "plane", "query"))
    own = {name: inside(factors["kv", name], i, j) for name in ("value", "plane")}
    with_values = factors["kv", "query", "value"].gain[0, i, 0, :, 0, :, :, j, 0, :, 0]  # [q, v, e, q, v, e]
    with_planes = factors["kv", "plane", "query"].gain[0, i, 0, :, :, :, 0, j, 0, :, :, :, 0]  # [p, e, q, p, e, q]
    places = torch.arange(3)
    if first == "others":
        gain = value.value(with_values.permute(0, 3, 1, 2, 4, 5), value.best(own["value"])[0])
        gain = gain + plane.value(with_planes.permute(2, 5, 0, 1, 3, 4), plane.best(own["plane"])[0])
        places = query.best(gain[:, None, :, None])[0]
    rows = torch.arange(3)
    of_values = own["value"] + with_values.permute(0, 3, 1, 2, 4, 5)[rows, places].sum(0)
    of_planes = own["plane"] + with_planes.permute(2, 5, 0, 1, 3, 4)[rows, places].sum(0)
    return float(value.best(of_values)[1] + plane.best(of_planes)[1])


def test_roots_inside_each_other_are_settled_together() -> None:
    """Units of one group inside those of another, no one's owner: one order of each for all units of the other."""
    spec = PermutationSpec.from_axes(
        {"w": (Segment("outer", inner=(Segment("inner"),)), None)},
        [Group("outer", 3), Group("inner", 4, kind="orthogonal")],
        model={"w": torch.zeros(12, 5)},
    )
    a = torch.randn(12, 5, generator=generator(0), dtype=torch.float64)
    truth = Transforms.random(spec, 1)
    b = truth.inverse().apply_to("w", a)
    gain = (a @ b.T).reshape(3, 1, 4, 1, 3, 1, 4, 1).permute(2, 3, 0, 1, 6, 7, 4, 5)[None]
    factors = {("inner", "outer"): Factor(("inner", "outer"), gain)}
    identity = Transforms.identity(spec).elements
    found, gained = best_elements_together(spec, ["inner", "outer"], factors, identity)
    assert gained > 0
    assert torch.equal(found["outer"], truth["outer"])
    assert torch.allclose(Transforms(spec, found).apply_to("w", b), a)

"""Weight matching over groups of every kind: gains by plain sums, ends no lower than it starts, options are kept."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast import Group, PermutationSpec, Segment, Transforms
from lmc_fast.matching.engine.turning import TurningDescent
from lmc_fast.symmetry.views import groups_of

from ..symmetry.test_transforms import WIDTH, attention_spec

Model = dict[str, Tensor]


def another(model: Model, seed: int = 5) -> Model:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(x.shape, generator=generator, dtype=torch.float64) for name, x in model.items()}


def descent_at(spec: PermutationSpec, a: Model, b: Model, start: Transforms, **options: Any) -> TurningDescent:
    weights = options.pop("weights", dict.fromkeys(a, 1.0))
    return TurningDescent(spec, a, b, weights, start, options.pop("frozen", ()), None)


def objective(a: Model, b: Model, choice: Transforms) -> float:
    return sum(float((a[name] * choice.apply_to(name, b[name])).sum()) for name in a)


@pytest.mark.parametrize("root", ["stream", "unit", "kv"])
def test_gains_tell_what_any_element_is_worth(root: str) -> None:
    """With all else held the objective is linear: of what a root moves, it is the gain's inner product."""
    spec, a = attention_spec()
    b = another(a)
    start = Transforms.random(spec, 0)
    descent = descent_at(spec, a, b, start)
    tree = descent.trees[root]
    some = {units: descent.leaves[units] for units in descent.units[root]}
    factors = descent._factors([root], some)
    assert {name for groups in factors for name in groups} == set(tree)
    inside = [name for name in a if any(name in (leaf.parameter for leaf in of) for of in some.values())]
    for seed in (1, 2):
        other = Transforms.random(spec, seed)
        mixed = Transforms(spec, {name: (other if name in tree else start)[name] for name in spec.groups})
        total = sum(
            float(factor.valued(spec, (), {name: mixed[name][None] for name in groups}, 0).gain)
            for groups, factor in factors.items()
        )
        assert total == pytest.approx(sum(float((a[n] * mixed.apply_to(n, b[n])).sum()) for n in inside))


def test_entries_of_a_plane_may_be_given_one_by_one() -> None:
    """A plane's inner entries as one run of two, or as two runs of one: the same gain."""
    parts = (Segment.fixed(1), Segment.fixed(1))
    a, b = ({"w": torch.randn(6, 4, generator=torch.Generator().manual_seed(s)).double()} for s in (0, 1))
    found = []
    for inner in (2, parts):
        axes = {"w": (Segment("plane", inner=inner), None)}
        spec = PermutationSpec.from_axes(axes, [Group("plane", 3, kind="phases")], model=a)
        found.append(lmc.weight_matching(a, b, spec))
    assert found[0].l2_after == pytest.approx(found[1].l2_after)
    z, w = (torch.view_as_complex(x["w"].reshape(3, 2, 4).mT.contiguous()) for x in (a, b))
    assert found[0].objective == pytest.approx(float((z * w.conj()).sum(1).abs().sum()))


@pytest.mark.parametrize("init", ["anchored", "identity", "random"])
def test_sweeps_never_lose_and_end(init: str, draws: Callable[[int, int], range]) -> None:
    spec, a = attention_spec()
    for seed in draws(1, 3):
        b = another(a, 20 + seed)
        match = lmc.weight_matching(a, b, spec, init=init, seed=seed)
        objectives = [sweep.objective for sweep in match.history]
        assert all(later >= earlier - 1e-9 for earlier, later in itertools.pairwise(objectives))
        assert match.converged
        assert match.objective == pytest.approx(objective(a, b, match.choice))
        assert match.objective >= objective(a, b, Transforms.identity(spec)) - 1e-9 or init == "random"
        l2 = sum(float((a[name] - match.apply(b)[name]).square().sum()) for name in a) ** 0.5
        assert match.l2_after == pytest.approx(l2) and match.l2_after < match.l2_before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_planted_choice_is_found_in_other_dtypes(dtype: torch.dtype) -> None:
    spec, model = attention_spec()
    a = {name: tensor.to(dtype) for name, tensor in model.items()}
    b = Transforms.random(spec, 1).inverse().apply(a)
    match = lmc.weight_matching(a, b, spec)
    assert match.l2_after < 30 * torch.finfo(dtype).eps * match.l2_before
    assert match.apply(b)["q"].dtype == dtype


def test_a_start_is_gone_on_from() -> None:
    spec, a = attention_spec()
    truth = Transforms.random(spec, 1)
    b = truth.inverse().apply(a)
    match = lmc.weight_matching(a, b, spec, init=truth)
    assert match.history[0].moved == 0 and match.l2_after == pytest.approx(0.0, abs=1e-6)
    assert torch.allclose(match.choice["stream"], truth["stream"])
    start = lmc.weight_matching(a, another(a), spec, init="random", seed=3, max_sweeps=1)
    on = lmc.weight_matching(a, another(a), spec, init=start.choice)
    assert on.objective >= start.objective


def test_equal_models_stay_exactly() -> None:
    spec, a = attention_spec()
    match = lmc.weight_matching(a, a, spec)
    assert match.choice == Transforms.identity(spec) and match.l2_after == 0.0


def test_a_pass_outwards_that_ends_lower_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, a = attention_spec()

    def astray(self: TurningDescent) -> list[str]:
        self.elements = Transforms.random(spec, 2).elements
        return self.in_order()

    monkeypatch.setattr(TurningDescent, "_anchored", astray)
    b = {name: tensor + 0.01 * another(a)[name] for name, tensor in a.items()}
    match = lmc.weight_matching(a, b, spec)
    assert match.l2_after <= match.l2_before


def test_restarts_keep_the_best_and_are_reproducible() -> None:
    spec, a = attention_spec()
    b = another(a)
    singles = [lmc.weight_matching(a, b, spec)]
    singles += [lmc.weight_matching(a, b, spec, init="random", seed=1)]
    best = lmc.weight_matching(a, b, spec, restarts=2)
    assert best.objective == max(match.objective for match in singles)
    assert best.choice == lmc.weight_matching(a, b, spec, restarts=2).choice


def test_frozen_groups_stay_and_restarts_leave_them() -> None:
    spec, a = attention_spec()
    b = another(a)
    match = lmc.weight_matching(a, b, spec, freeze=["stream", "unit"], restarts=2)
    identity = Transforms.identity(spec)
    for name in ("stream", "unit"):
        assert torch.equal(match.choice[name], identity[name])
    assert not torch.equal(match.choice["value"], identity["value"])


def test_weights_decide_what_counts() -> None:
    spec, a = attention_spec()
    b = another(a)
    only = {name: 1.0 if name == "up" else 0.0 for name in a}
    match = lmc.weight_matching(a, b, spec, weights={**only, "up": 2.0}, init="identity", max_sweeps=200)
    plain = 2 * float((a["up"] * match.choice.apply_to("up", b["up"])).sum())
    assert match.objective == pytest.approx(plain)
    # Nothing is known of heads.
    assert torch.equal(match.choice["value"], Transforms.identity(spec)["value"])


def test_both_axes_in_one_group_never_lose() -> None:
    """A linear map from a stream to itself: gains are a linearisation there."""
    for seed in range(6):
        a, b = (
            {name: torch.randn(6, n, generator=torch.Generator().manual_seed(seed + 10 * k)) for name, n in sizes}
            for k, sizes in enumerate([(("in", 3), ("w", 6))] * 2)
        )
        spec = PermutationSpec.from_axes(
            {"in": ("p", None), "w": ("p", "p")}, [Group("p", 6, kind="orthogonal")], model=a
        )
        match = lmc.weight_matching(a, b, spec, init="random", seed=seed)
        objectives = [sweep.objective for sweep in match.history]
        assert all(y >= x - 1e-5 for x, y in itertools.pairwise(objectives))


def test_groups_inside_each_other_without_owner() -> None:
    spec = PermutationSpec.from_axes(
        {"w": (Segment("outer", inner=(Segment("inner"),)), None), "v": ("inner", None)},
        [Group("outer", 3), Group("inner", 4, kind="orthogonal")],
        model={"w": torch.zeros(12, 5), "v": torch.zeros(4, 2)},
    )
    for names in (("w", "v"), ("w",)):
        generator = torch.Generator().manual_seed(0)
        a = {
            "w": torch.randn(12, 5, generator=generator).double(),
            "v": torch.randn(4, 2, generator=generator).double(),
        }
        b = Transforms.random(spec, 1).inverse().apply(a)
        match = lmc.weight_matching(a, b, spec, weights={name: float(name in names) for name in a})
        assert torch.allclose(match.apply(b)["w"], a["w"], atol=1e-6)


def test_progress_tells_of_sweeps() -> None:
    spec, a = attention_spec()
    told: list[tuple[str, int, int]] = []
    match = lmc.weight_matching(a, another(a), spec, max_sweeps=2, progress=lambda *what: told.append(what))
    assert len(told) == len(match.history) == 2 and not match.converged
    assert "units moved" in told[0][0]
    assert match.history[0].solved == len(spec.roots) and match.history[0].moved > WIDTH


def test_what_takes_permutations_alone_says_so() -> None:
    spec, a = attention_spec()
    b = another(a)
    with pytest.raises(ValueError, match="search='frank_wolfe' takes groups of permutations alone, but 'plane'"):
        lmc.weight_matching(a, b, spec, search="frank_wolfe")
    with pytest.raises(ValueError, match="sinkhorn_matching takes groups of permutations alone"):
        lmc.sinkhorn_matching(a, b, spec, loss="distance")
    with pytest.raises(ValueError, match="method='c2m3' takes groups of permutations alone"):
        lmc.match_many([a, b], spec, method="c2m3")
    with pytest.raises(TypeError, match="init must be 'anchored', 'identity', 'random', Permutations or Transforms"):
        lmc.weight_matching(a, b, spec, init=3)  # type: ignore[arg-type]
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    turns = PermutationSpec.from_axes(
        {"0.weight": ("p", None), "0.bias": ("p",), "1.weight": (None, "p"), "1.bias": (None,)},
        [Group("p", kind="orthogonal")],
        model=module,
    )
    batches = [(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))]
    with pytest.raises(ValueError, match="straight_through_matching takes groups of permutations alone"):
        lmc.straight_through_matching(module, module, batches, turns)
    with pytest.raises(ValueError, match="method='ste_mm' takes groups of permutations alone"):
        lmc.match_many([module, module], turns, method="ste_mm", batches=batches)


def test_groups_are_owned_by_what_changes_places_alone() -> None:
    with pytest.raises(ValueError, match="change places alone, but 'head' is signed"):
        PermutationSpec.from_axes(
            {"w": (Segment("head", inner=(Segment("dim"),)),)},
            [Group("head", 2, kind="signed"), Group("dim", 3, owner="head")],
        )


def test_units_of_joint_gains_come_owners_first() -> None:
    spec, a = attention_spec()
    descent = descent_at(spec, a, another(a), Transforms.identity(spec))
    assert ("kv", "plane", "query") in [groups_of(spec, units) for units in descent.units["kv"]]


def deep_spec(values: str) -> tuple[PermutationSpec, Model]:
    """Heads own query heads, which own parts of their own; values of a head serve all its query heads."""
    heads, queries, parts, dims = 2, 3, 2, 3
    shapes = {"part": (heads * queries * parts, 4), "o": (4, heads * queries * dims), "v": (heads * dims, 4)}
    generator = torch.Generator().manual_seed(3)
    model = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    spec = PermutationSpec.from_axes(
        {
            "part": (Segment("head", inner=(Segment("query", inner=(Segment("part"),)),)), None),
            "o": (None, Segment("head", inner=(Segment("query", inner=(Segment("value"),)),))),
            "v": (Segment("head", inner=(Segment("value"),)), None),
        },
        [
            Group("head", heads),
            Group("query", queries, "head"),
            Group("part", parts, "query", "orthogonal"),
            Group("value", dims, "head", values),
        ],
        model=model,
    )
    return spec, model


@pytest.mark.parametrize("values", ["permutation", "orthogonal"])
def test_owners_of_owners_are_found(values: str) -> None:
    spec, a = deep_spec(values)
    for seed in range(3):
        b = Transforms.random(spec, seed).inverse().apply(a)
        match = lmc.weight_matching(a, b, spec)
        assert match.l2_after < 1e-6 * match.l2_before
        # Of what does not count nothing is known: it goes along with what owns it.
        some = lmc.weight_matching(a, b, spec, weights={"part": 0.0}, init=match.choice)
        rows = {
            int(unit): row for row, unit in zip(match.choice["part"].flatten(0, 1), flat(match.choice), strict=True)
        }
        again = zip(some.choice["part"].flatten(0, 1), flat(some.choice), strict=True)
        assert all(torch.equal(rows[int(unit)], row) for row, unit in again)


def flat(choice: Any) -> Tensor:
    """The query head of b at each place, over all heads."""
    return (choice["head"][:, None] * choice["query"].shape[1] + choice["query"]).flatten()


def test_what_is_frozen_inside_others_stays() -> None:
    spec, a = attention_spec()
    b = another(a)
    match = lmc.weight_matching(a, b, spec, freeze=["value"])
    other = lmc.weight_matching(a, b, spec)
    assert torch.equal(match.choice["value"], Transforms.identity(spec)["value"])
    assert not torch.equal(match.choice["plane"], Transforms.identity(spec)["plane"])
    assert match.objective <= other.objective + 1e-6


@pytest.mark.parametrize("values", ["permutation", "signed", "orthogonal"])
def test_units_are_known_by_what_lies_inside_them(values: str) -> None:
    """Of query heads and of what lies inside them nothing is known but both together."""
    heads, queries, dims = 2, 4, 3
    axes = {"o": (None, Segment("head", inner=(Segment("query", inner=(Segment("value"),)),)))}
    groups = [Group("head", heads), Group("query", queries, "head"), Group("value", dims, "head", values)]
    for seed in range(6):
        a = {"o": torch.randn(5, heads * queries * dims, generator=torch.Generator().manual_seed(seed)).double()}
        spec = PermutationSpec.from_axes(axes, groups, model=a)
        b = Transforms.random(spec, seed).inverse().apply(a)
        match = lmc.weight_matching(a, b, spec)
        assert match.l2_after < 1e-6 * match.l2_before

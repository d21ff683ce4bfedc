"""Groups inside others that do not own them: what may be written, where entries go, and that broken specs fail."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import connected_components

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import Axis, Group, PermutationSpec, Segment
from lmc_fast.analysis.layers import gathers_of
from lmc_fast.symmetry.views import axis_orbits, leaves

HEADS = [Group("head", 2), Group("query", 3, owner="head"), Group("value", 4, owner="head")]
QUERY_VALUE = Segment("query", inner=(Segment("value"),))


def test_one_order_of_values_serves_all_queries_of_a_head() -> None:
    spec = PermutationSpec.from_axes({"out": (QUERY_VALUE,)}, HEADS, model={"out": torch.zeros(24)})
    for seed in range(5):
        chosen = lmc.Permutations.random(spec, seed)
        head, query, value = (chosen[name].numpy() for name in ("head", "query", "value"))
        wanted = [(head[h] * 3 + query[h, q]) * 4 + value[h, v] for h in range(2) for q in range(3) for v in range(4)]
        assert chosen.index("out", 0).tolist() == wanted


def test_a_root_inside_a_root_has_one_order() -> None:
    axis = Segment("outer", outer=2, inner=(Segment("inner", inner=2), Segment.fixed(1)))
    spec = PermutationSpec.from_axes(
        {"w": (axis,)}, [Group("outer", 3), Group("inner", 2)], model={"w": torch.zeros(30)}
    )
    chosen = lmc.Permutations(spec, {"outer": [2, 0, 1], "inner": [1, 0]})
    wanted = [(o * 3 + unit) * 5 + entry for o in range(2) for unit in (2, 0, 1) for entry in (2, 3, 0, 1, 4)]
    assert chosen.index("w", 0).tolist() == wanted
    assert spec.roots_of("w") == (("outer", "inner"),)


def test_owners_are_put_around_short_forms() -> None:
    whole = Segment("head", inner=(QUERY_VALUE,))
    assert PermutationSpec.from_axes({"w": (QUERY_VALUE,)}, HEADS) == PermutationSpec.from_axes({"w": (whole,)}, HEADS)
    # The outer count is the outermost owner's, as of any short form.
    short = Segment("query", outer=5, inner=(Segment("value", inner=2),))
    long = Segment("head", outer=5, inner=(Segment("query", inner=(Segment("value", inner=2),)),))
    assert PermutationSpec.from_axes({"w": (short,)}, HEADS) == PermutationSpec.from_axes({"w": (long,)}, HEADS)


def test_an_owner_between_is_put_where_it_is_missing() -> None:
    groups = [*HEADS, Group("half", 2, owner="value")]
    short = Segment("head", inner=(Segment("query", inner=(Segment("half"),)),))
    long = Segment("head", inner=(Segment("query", inner=(Segment("value", inner=(Segment("half"),)),)),))
    assert PermutationSpec.from_axes({"w": (short,)}, groups) == PermutationSpec.from_axes({"w": (long,)}, groups)


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        (Segment("query", inner=(Segment("head", inner=(Segment("value"),)),)), "'head' stands inside itself"),
        (Segment("value", inner=(Segment("query", inner=(Segment("value"),)),)), "'value' stands inside itself"),
        (Segment("root", inner=(Segment("value"),)), "'value' stands inside 'root', but not inside 'head'"),
        (
            Segment("root", inner=(Segment("head", inner=(Segment("root"),)),)),
            "'root' stands inside itself",
        ),
    ],
    ids=["owner-inside-owned", "itself", "owner-not-around", "root-inside-itself"],
)
def test_what_lies_wrong_is_named(axis: Segment, message: str) -> None:
    with pytest.raises(ValueError, match=f"parameter 'w': group {message}"):
        PermutationSpec.from_axes({"w": (axis,), "v": ("value",)}, [*HEADS, Group("root", 2)])


def test_sizes_are_taken_from_the_model() -> None:
    open_groups = [Group("head", 2), Group("query", owner="head"), Group("value", owner="head")]
    axes = {"out": (QUERY_VALUE,), "v": ("value",)}
    spec = PermutationSpec.from_axes(axes, open_groups, model={"out": torch.zeros(24), "v": torch.zeros(8)})
    assert spec.sizes == {"head": 2, "query": 3, "value": 4}
    with pytest.raises(ValueError, match=r"axis 0 of parameter 'out' has 25 entries, .* of group 'query' at 8 entries"):
        PermutationSpec.from_axes(axes, open_groups, model={"out": torch.zeros(25), "v": torch.zeros(8)})
    with pytest.raises(ValueError, match="nothing in the model settles the size of group"):
        PermutationSpec.from_axes({"out": (QUERY_VALUE,)}, open_groups, model={"out": torch.zeros(24)})


class TestJson:
    def test_what_was_written_before_reads_as_before(self) -> None:
        text = json.dumps(
            {
                "format": "lmc_fast.PermutationSpec",
                "version": 1,
                "groups": {
                    "head": {"size": 3, "owner": None},
                    "value": {"size": 4, "owner": "head"},
                    "half": {"size": 2, "owner": "value"},
                },
                "axes": {
                    "short": ["value", None],
                    "long": [[{"group": "head", "outer": 1, "inner": [{"group": "value", "outer": 1, "inner": 1}]}]],
                    "deep": ["half", [{"fixed": 2}, {"group": "half", "outer": 2, "inner": 3}]],
                },
            }
        )
        spec = PermutationSpec.from_json(text)
        value, half = Segment("head", inner=(Segment("value"),)), Segment("half")
        inside = Segment("head", inner=(Segment("value", inner=(half,)),))
        tail = Segment("head", outer=2, inner=(Segment("value", inner=(Segment("half", inner=3),)),))
        assert spec.axes == {
            "short": (Axis((value,)), Axis()),
            "long": (Axis((value,)),),
            "deep": (Axis((inside,)), Axis((Segment.fixed(2), tail))),
        }

    def test_the_new_ones_there_and_back(self, tmp_path: Path) -> None:
        for spec in (models.GroupedQueryBlock.spec(), models.FreeGroupedNet.spec(), models.SharedInputs.spec()):
            spec.to_json(tmp_path / "spec.json")
            again = PermutationSpec.from_json(tmp_path / "spec.json")
            assert again == spec and again.to_json() == spec.to_json()

    def test_a_short_form_inside_a_segment(self) -> None:
        short = {"w": [[{"group": "query", "inner": ["value"]}]]}
        groups = {group.name: {"size": group.size, "owner": group.owner} for group in HEADS}
        text = json.dumps({"format": "lmc_fast.PermutationSpec", "version": 1, "groups": groups, "axes": short})
        assert PermutationSpec.from_json(text) == PermutationSpec.from_axes({"w": (QUERY_VALUE,)}, HEADS)


def random_spec(rng: np.random.Generator) -> PermutationSpec:
    """Groups with random owners on axes of random nesting."""
    names = [f"g{k}" for k in range(int(rng.integers(2, 6)))]
    groups: dict[str, Group] = {}
    for k, name in enumerate(names):
        owner = str(rng.choice(names[:k])) if k and rng.random() < 0.7 else None
        groups[name] = Group(name, int(rng.integers(1, 4)), owner)

    def inside(around: tuple[str, ...], depth: int) -> tuple[Segment, ...]:
        free = [n for n in names if n not in around and (groups[n].owner is None or groups[n].owner in around)]
        parts: list[Segment] = []
        for _ in range(int(rng.integers(1, 3))):
            if depth and free and rng.random() < 0.8:
                name = str(rng.choice(free))
                parts.append(Segment(name, int(rng.integers(1, 3)), inside((*around, name), depth - 1)))
            else:
                parts.append(Segment.fixed(int(rng.integers(1, 3))))
        return tuple(parts)

    axes: dict[str, tuple[Axis, ...]] = {f"w{k}": (Axis(inside((), 4)), Axis(inside((), 2))) for k in range(2)}
    axes |= {f"own-{name}": (Axis((Segment(name),)),) for name in names}
    return PermutationSpec(groups, axes)


def tensors_for(spec: PermutationSpec) -> dict[str, torch.Tensor]:
    sizes = {
        name: [len(lmc.Permutations.identity(spec).index(name, axis)) for axis in range(len(axes))]
        for name, axes in spec.axes.items()
    }
    return {name: torch.arange(int(np.prod(shape))).double().reshape(shape) for name, shape in sizes.items()}


@pytest.mark.parametrize("seed", range(40))
class TestLaws:
    def test_permutations_are_a_group_that_acts(self, seed: int) -> None:
        spec = random_spec(np.random.default_rng(seed))
        state = tensors_for(spec)
        spec = spec.bind(state)
        first, second = lmc.Permutations.random(spec, seed), lmc.Permutations.random(spec, seed + 100)
        for name, tensor in second.apply(first.apply(state)).items():
            assert torch.equal(second.after(first).apply(state)[name], tensor)
        back = first.inverse().apply(first.apply(state))
        assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
        assert first.after(first.inverse()) == lmc.Permutations.identity(spec)
        assert all(sorted(first.index(name, 0).tolist()) == list(range(len(t))) for name, t in state.items())

    def test_leaves_are_all_entries_of_groups_once_for_each_root(self, seed: int) -> None:
        spec = random_spec(np.random.default_rng(seed))
        state = tensors_for(spec)
        spec = spec.bind(state)
        for root in spec.roots:
            counts = {name: torch.zeros(tensor.shape) for name, tensor in state.items()}
            # Which entries the root's own permutations can move at most, axis by axis.
            for leaf in leaves(spec, root):
                if leaf.axis == 0:
                    leaf.view(counts[leaf.parameter]).add_(1)
            tree = [name for name in spec.groups if spec.root_of(name) == root]
            for name, count in counts.items():
                orbits = axis_orbits(spec, spec.axes[name][0].segments, tree)
                alone = np.bincount(orbits)[orbits] == 1
                assert set(count.unique().tolist()) <= {0.0, 1.0}
                assert (count.reshape(len(orbits), -1)[:, 0].numpy() == 1)[~alone].all()

    def test_orbits_are_where_entries_can_go(self, seed: int) -> None:
        spec = random_spec(np.random.default_rng(seed))
        state = tensors_for(spec)
        spec = spec.bind(state)
        rng = np.random.default_rng(seed)
        some = [name for name in spec.groups if rng.random() < 0.6]
        for name, axes in spec.axes.items():
            size = len(state[name])
            reached = np.eye(size, dtype=bool)
            for k in range(20):
                drawn = lmc.Permutations.random(spec, 1000 * seed + k)
                index = lmc.Permutations(spec, {group: drawn[group] for group in some}).index(name, 0)
                reached[np.arange(size), index] = True
            _, wanted = connected_components(reached)
            labels = axis_orbits(spec, axes[0].segments, some)
            assert len(set(zip(labels.tolist(), wanted.tolist(), strict=True))) == len(set(labels)) == len(set(wanted))

    def test_json(self, seed: int) -> None:
        spec = random_spec(np.random.default_rng(seed))
        assert PermutationSpec.from_json(spec.to_json()) == spec


def gqa_spec(changes: dict[str, object], groups: list[Group]) -> PermutationSpec:
    axes = dict(models.GroupedQueryAttention.spec().axes) | changes
    return PermutationSpec.from_axes(axes, groups)  # type: ignore[arg-type]


class TestVerify:
    @pytest.mark.parametrize("rotary", [False, True], ids=["plain", "rotary"])
    def test_right_specs_pass(self, rotary: bool) -> None:
        model = models.GroupedQueryBlock(rotary=rotary)
        assert lmc.verify_spec(model, models.GroupedQueryBlock.spec(rotary=rotary), torch.randn(2, 5, 5)) < 1e-12
        assert lmc.verify_spec(models.FreeGroupedNet(), models.FreeGroupedNet.spec(), torch.randn(2, 2, 5, 5)) < 1e-12
        assert lmc.verify_spec(models.SharedInputs(), models.SharedInputs.spec(), torch.randn(3, 4)) < 1e-12

    def test_rotary_dimensions_do_not_move(self) -> None:
        model = models.GroupedQueryAttention(rotary=True)
        with pytest.raises(lmc.SymmetryError, match="permuting group 'head'"):
            lmc.verify_spec(model, models.GroupedQueryAttention.spec(), torch.randn(2, 5, 7))

    def test_queries_without_their_owner_fail(self) -> None:
        queries = Segment("query", inner=6)
        out = Segment("query", inner=4)
        spec = gqa_spec(
            {
                "q.weight": (queries, None),
                "q.bias": (queries,),
                "v.weight": (None, None),
                "v.bias": (None,),
                "k.weight": (None, None),
                "k.bias": (None,),
                "out.weight": (None, out),
            },
            [Group("query", 6)],
        )
        with pytest.raises(lmc.SymmetryError, match="permuting group 'query'"):
            lmc.verify_spec(models.GroupedQueryAttention(), spec, torch.randn(2, 5, 7))

    def test_values_and_queries_in_the_wrong_order_fail(self) -> None:
        wrong = Segment("value", inner=(Segment("query"),))
        spec = gqa_spec({"out.weight": (None, wrong)}, list(models.GroupedQueryAttention.spec().groups.values()))
        with pytest.raises(lmc.SymmetryError, match="permuting group 'head'"):
            lmc.verify_spec(models.GroupedQueryAttention(), spec, torch.randn(2, 5, 7))

    def test_outputs_of_a_grouped_convolution_without_their_owner_fail(self) -> None:
        axes = dict(models.FreeGroupedNet.spec().axes)
        axes["expand.weight"] = axes["grouped.weight"] = (Axis(),) * 4
        axes["expand.bias"] = (Axis(),)
        outputs = Axis((Segment("output"),))
        axes |= {
            "grouped.weight": (outputs, Axis(), Axis(), Axis()),
            "grouped.bias": (outputs,),
            "project.weight": (Axis(), outputs, Axis(), Axis()),
        }
        spec = PermutationSpec.from_axes(axes, [Group("output", 15)])
        with pytest.raises(lmc.SymmetryError, match="permuting group 'output'"):
            lmc.verify_spec(models.FreeGroupedNet(), spec, torch.randn(2, 2, 5, 5))


def test_interpolation_and_analysis_gather_alike() -> None:
    a, b = (models.randomise(models.GroupedQueryBlock(), seed) for seed in (1, 2))
    spec = models.GroupedQueryBlock.spec().bind(a)
    match = lmc.Permutations.random(spec, 3)
    moved, half = match.apply(b), lmc.interpolate(a, b, 0.25, match)
    for name, tensor in half.state_dict().items():
        torch.testing.assert_close(tensor, a.state_dict()[name].lerp(moved.state_dict()[name], 0.25))
    weight = b.state_dict()["attention.out.weight"]
    rows, columns = gathers_of(match, "attention.out.weight", tuple(weight.shape))  # type: ignore[arg-type]
    assert rows is not None and columns is not None
    assert torch.equal(weight[rows][:, columns], moved.state_dict()["attention.out.weight"])


def test_it_prints_its_groups() -> None:
    text = str(models.GroupedQueryAttention.spec())
    assert "value: 4 units in each unit of head, on 3 axes" in text

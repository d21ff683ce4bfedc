"""Choices of elements of every kind, and how they move parameters: against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lmc_fast import Group, PermutationSpec, Segment, Transforms
from lmc_fast.symmetry import Permutations
from lmc_fast.symmetry.kinds import KINDS

HEADS, QUERIES, DIMS, WIDTH = 2, 3, 4, 5


def attention_spec() -> tuple[PermutationSpec, dict[str, Tensor]]:
    """Grouped queries: planes and value dimensions in key/value heads, a stream that turns, units with signs."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "q": (HEADS * QUERIES * DIMS, WIDTH),
        "k": (HEADS * DIMS, WIDTH),
        "v": (HEADS * DIMS, WIDTH),
        "o": (WIDTH, HEADS * QUERIES * DIMS),
        "up": (7, WIDTH),
        "down": (WIDTH, 7),
        "bias": (7,),
    }
    model = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    planes = Segment("plane", outer=2)
    spec = PermutationSpec.from_axes(
        {
            "q": (Segment("kv", inner=(Segment("query", inner=(planes,)),)), "stream"),
            "k": (Segment("kv", inner=(planes,)), "stream"),
            "v": (Segment("kv", inner=(Segment("value"),)), "stream"),
            "o": ("stream", Segment("kv", inner=(Segment("query", inner=(Segment("value"),)),))),
            "up": ("unit", "stream"),
            "down": ("stream", "unit"),
            "bias": ("unit",),
        },
        [
            Group("kv", HEADS),
            Group("query", QUERIES, owner="kv"),
            Group("plane", DIMS // 2, owner="kv", kind="phases"),
            Group("value", DIMS, owner="kv", kind="orthogonal"),
            Group("stream", WIDTH, kind="orthogonal_keeping_ones"),
            Group("unit", 7, kind="signed"),
        ],
        model=model,
    )
    return spec, model


def test_axes_move_as_plain_loops_say() -> None:
    spec, model = attention_spec()
    t = Transforms.random(spec, seed=3)
    turn = t["stream"]
    o = model["o"].reshape(WIDTH, HEADS, QUERIES, DIMS)
    expected = torch.empty_like(o)
    for head in range(HEADS):
        for query in range(QUERIES):
            from_head = int(t["kv"][head])
            from_query = int(t["query"][head, query])
            expected[:, head, query] = turn @ o[:, from_head, from_query] @ t["value"][head].T
    assert torch.allclose(t.apply_to("o", model["o"]), expected.reshape(WIDTH, -1))
    k = model["k"].reshape(HEADS, 2, DIMS // 2, WIDTH) @ turn.T
    moved = t.apply_to("k", model["k"]).reshape(HEADS, 2, DIMS // 2, WIDTH)
    for head in range(HEADS):
        for plane in range(DIMS // 2):
            cos, sin = t["plane"][head, plane]
            x, y = k[int(t["kv"][head]), :, plane]
            assert torch.allclose(moved[head, 0, plane], cos * x - sin * y)
            assert torch.allclose(moved[head, 1, plane], sin * x + cos * y)
    places = t["unit"]
    signs = torch.where(places < 0, -1.0, 1.0).double()
    at = torch.where(places < 0, -1 - places, places)
    assert torch.equal(t.apply_to("bias", model["bias"]), signs * model["bias"][at])


def test_what_attention_computes_is_kept() -> None:
    spec, model = attention_spec()
    moved = Transforms.random(spec, seed=1).apply(model)

    def products(m: dict[str, Tensor]) -> Tensor:
        q = m["q"].reshape(HEADS, QUERIES, DIMS, WIDTH)
        k, v = (m[name].reshape(HEADS, DIMS, WIDTH) for name in "kv")
        o = m["o"].reshape(WIDTH, HEADS, QUERIES, DIMS)
        # One frequency: the scores of positions that are turned alike; and what values become.
        x = torch.arange(1.0, WIDTH + 1, dtype=torch.float64)
        turn = stream if m is moved_model else torch.eye(WIDTH, dtype=torch.float64)
        x = turn @ x
        scores = torch.einsum("gqdw,w,gdu,u->gq", q, x, k, x)
        written = torch.einsum("wgqd,gdu,u->w", o, v, x)
        return torch.cat([scores.sum(1).sort()[0], turn.T @ written])

    moved_model = moved
    stream = Transforms.random(spec, seed=1)["stream"]
    assert torch.allclose(products(model), products(moved))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_choices_compose_and_are_undone(seed: int) -> None:
    spec, model = attention_spec()
    first, second = Transforms.random(spec, seed), Transforms.random(spec, seed + 10)
    both = second.after(first).apply(model)
    for name, tensor in second.apply(first.apply(model)).items():
        assert torch.allclose(both[name], tensor), name
    back = first.inverse().apply(first.apply(model))
    for name, tensor in model.items():
        assert torch.allclose(back[name], tensor), name


def test_permutations_are_the_same_in_both_forms() -> None:
    spec, model = attention_spec()
    plain = PermutationSpec(
        {name: Group(name, group.size, group.owner) for name, group in spec.groups.items() if name != "plane"},
        {name: axes for name, axes in spec.axes.items() if name not in "qk"},
    )
    rest = {name: tensor for name, tensor in model.items() if name not in "qk"}
    permutations = Permutations.random(plain, seed=4)
    as_transforms = Transforms(plain, permutations)
    for name, tensor in permutations.apply(rest).items():
        assert torch.equal(as_transforms.apply(rest)[name], tensor)
    other = Permutations.random(plain, seed=5)
    assert dict(as_transforms.after(other).elements).keys() == dict(permutations).keys()
    for name, places in permutations.after(other).items():
        assert torch.equal(as_transforms.after(other)[name], places)
    for name, places in permutations.inverse().items():
        assert torch.equal(as_transforms.inverse()[name], places)


def test_specs_of_other_kinds_are_no_permutations() -> None:
    spec, _ = attention_spec()
    with pytest.raises(ValueError, match="'plane' is of kind 'phases'"):
        Permutations(spec)
    assert not spec.only_permutes


def test_kinds_are_written_and_read() -> None:
    spec, _ = attention_spec()
    assert PermutationSpec.from_json(spec.to_json()) == spec
    assert '"kind": "phases"' in spec.to_json()
    with pytest.raises(ValueError, match="kind of group 'x'"):
        Group("x", kind="affine")


@pytest.mark.parametrize(
    ("groups", "axis", "says"),
    [
        ([Group("turn", 4, kind="orthogonal"), Group("unit", 2, owner="turn")], ("unit",), "stay apart"),
        (
            [Group("turn", 4, kind="phases"), Group("unit", 2)],
            (Segment("turn", inner=(Segment("unit"),)),),
            "no other group inside",
        ),
        ([Group("plane", 4, kind="phases")], ("plane",), "2 entries a unit"),
    ],
)
def test_views_that_do_not_fit_their_kind_are_refused(groups: list[Group], axis: tuple[object, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        PermutationSpec.from_axes({"w": axis}, groups)  # type: ignore[dict-item]


def test_wrong_elements_name_their_group() -> None:
    spec, _ = attention_spec()
    with pytest.raises(ValueError, match="elements names group 'nobody'"):
        Transforms(spec, {"nobody": np.eye(2)})
    with pytest.raises(ValueError, match=r"elements\['stream'\]"):
        Transforms(spec, {"stream": -np.eye(WIDTH)})
    with pytest.raises(ValueError, match="another one"):
        Transforms(spec).after(Transforms(PermutationSpec.from_axes({"w": ("u",)}, [Group("u", 3)])))


def test_elements_handed_out_are_copies() -> None:
    spec, _ = attention_spec()
    t = Transforms.identity(spec)
    t["stream"].zero_()
    t.elements["unit"].zero_()
    assert t == Transforms.identity(spec)
    assert t != Transforms.random(spec)
    assert "6 groups" in repr(t)
    assert t.moved == 0 and Transforms.random(spec).moved <= t.total == 2 + 6 + 4 + 8 + WIDTH + 7
    assert all(tensor.is_contiguous() for tensor in Transforms.random(spec).apply(attention_spec()[1]).values())
    assert set(KINDS) >= {group.kind for group in t.spec.groups.values()}

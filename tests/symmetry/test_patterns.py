"""Specs by hand made light: patterns for layers that repeat, and a rest that stays."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import Group, PermutationSpec, Segment

from .comparing import up_to_names


def test_a_bert_by_hand_is_a_dozen_lines_and_what_is_derived() -> None:
    transformers = pytest.importorskip("transformers")
    bert = transformers.BertModel(
        transformers.BertConfig(
            hidden_size=36, num_hidden_layers=3, num_attention_heads=12, intermediate_size=40, vocab_size=50
        )
    )
    layer = "encoder.layer.{i}."
    spec = PermutationSpec.from_axes(
        {
            layer + "attention.self.{x:query|key}.weight": ("query_key{i}", None),
            layer + "attention.self.{x:query|key}.bias": ("query_key{i}",),
            layer + "attention.self.value.weight": ("value{i}", None),
            layer + "attention.self.value.bias": ("value{i}",),
            layer + "attention.output.dense.weight": (None, "value{i}"),
            layer + "intermediate.dense.weight": ("unit{i}", None),
            layer + "intermediate.dense.bias": ("unit{i}",),
            layer + "output.dense.weight": (None, "unit{i}"),
        },
        [
            Group("head{i}", 12),
            Group("query_key{i}", owner="head{i}"),
            Group("value{i}", owner="head{i}"),
        ],
        model=bert,
        rest="fixed",
    )
    inputs = {"input_ids": torch.arange(14).reshape(2, 7)}
    assert up_to_names(spec) == up_to_names(lmc.derive_spec(bert, inputs))
    assert lmc.verify_spec(bert, spec, inputs) < 1e-10


class Encoder(nn.Module):
    """What a BERT is, in small: heads in blocks that repeat, and a stream that is given out."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList(models.Attention() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layer:
            x = x + layer(x)
        return x


def test_blocks_that_repeat_by_hand_are_what_is_derived() -> None:
    model, heads = Encoder(), models.Attention.spec()
    # The stream is 6 wide, and three heads have 4 query and key dimensions, and 4 of values.
    thirds = (Segment("query_key{i}"), Segment("query_key{i}"), Segment("value{i}"))
    spec = PermutationSpec.from_axes(
        {
            "layer.{i}.qkv.weight": (thirds, None),
            "layer.{i}.qkv.bias": (thirds,),
            "layer.{i}.out.weight": (None, "value{i}"),
        },
        [Group("head{i}", 3), Group("query_key{i}", owner="head{i}"), Group("value{i}", owner="head{i}")],
        model=model,
        rest="fixed",
    )
    assert up_to_names(spec) == up_to_names(lmc.derive_spec(model, torch.randn(2, 5, 6)))
    assert len(spec.groups) == 9 and len(heads.groups) == 3


class Norms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 4)
        self.idle_norm, self.last = nn.BatchNorm1d(4), nn.Linear(4, 6, bias=False)
        self.again = nn.Linear(4, 6, bias=False)
        self.again.weight = self.last.weight


def test_the_rest_is_fixed_but_for_statistics_and_other_names() -> None:
    axes = {"up.weight": ("h", None), "{x:up|norm}.bias": ("h",), "norm.weight": ("h",), "down.weight": (None, "h")}
    model = Norms()
    spec = PermutationSpec.from_axes({**axes, "last.weight": ("k", None)}, model=model, rest="fixed")
    assert [axis.groups for axis in spec.axes["norm.running_mean"]] == [("h",)]
    assert all(axis.is_fixed for name in ("idle_norm.weight", "down.bias") for axis in spec.axes[name])
    assert spec.axes["idle_norm.running_var"][0].is_fixed
    assert spec.axes["again.weight"] == spec.axes["last.weight"] and spec.sizes == {"h": 6, "k": 6}
    # By the names of wrappers too.
    wrapped = PermutationSpec.from_axes(axes, model=nn.DataParallel(model), rest="fixed")
    assert wrapped.sizes == {"h": 6}


STACK = {f"blocks.{n}.{kind}.weight": torch.zeros(3, 4) for n in range(12) for kind in ("q", "k", "v")}


@pytest.mark.parametrize(
    ("axes", "groups", "count"),
    [
        ({"blocks.{n}.*.weight": ("u{n}", None)}, 12, 36),
        ({"blocks.{n}.{kind:q|k}.weight": ("u{n}{kind}", None)}, 24, 24),
        ({"*.*.*.weight": ("all", None)}, 1, 36),
        ({"blocks.{n}.*.weight": ("u{n}", None), "blocks.3.q.weight": (None, None)}, 12, 35),
        ({"blocks.{n}.q.weight": ("first", None), "blocks.*.*.weight": ("u", None)}, 2, 36),
        ({"blocks.1{n}.q.weight": ("ten{n}", None)}, 2, 2),
    ],
    ids=["numbers", "words", "stars", "a name goes before", "the first fits", "a part of a number"],
)
def test_patterns_stand_for_what_they_fit(axes: Any, groups: int, count: int) -> None:
    spec = PermutationSpec.from_axes(axes, model=STACK, rest="fixed")
    assert len(spec.groups) == groups
    assert sum(not entries[0].is_fixed for entries in spec.axes.values()) == count


def test_the_same_part_twice_is_the_same_text() -> None:
    names = {"a.1.b.1.w": torch.zeros(3), "a.1.b.2.w": torch.zeros(3)}
    spec = PermutationSpec.from_axes({"a.{i}.b.{i}.w": ("g",)}, model=names, rest="fixed")
    assert not spec.axes["a.1.b.1.w"][0].is_fixed and spec.axes["a.1.b.2.w"][0].is_fixed


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a pattern without a model": ({"axes": {"a.{i}": ("g",)}}, r"model must be given with the pattern 'a\.\{i\}'"),
    "a rest without a model": ({"axes": {}, "rest": "fixed"}, "model must be given with rest='fixed'"),
    "another rest": ({"axes": {}, "rest": "free", "model": STACK}, "rest must be 'fixed' or None, got 'free'"),
    "what fits nothing": ({"axes": {"x.{i}.w": ("g",)}, "model": STACK}, r"the pattern 'x\.\{i\}\.w', which fits no"),
    "what nothing says": (
        {"axes": {"blocks.{i}.q.weight": ("g{j}", None)}, "model": STACK},
        r"has 'g\{j\}', and nothing there says what \{j\} is",
    ),
    "an owner that nothing says": (
        {
            "axes": {"blocks.{i}.q.weight": ("g{i}", None)},
            "groups": [Group("g{i}", owner="h{j}")],
            "model": STACK,
        },
        r"the owner of group 'g\{i\}' has 'h\{j\}'",
    ),
    "a rest that has to be named": (
        {"axes": {"blocks.{i}.q.weight": ("g{i}", None)}, "model": STACK},
        "which the spec leaves out",
    ),
    "no mapping": ({"axes": [("a", None)]}, "axes must be a mapping from parameter names to axes"),
}


@pytest.mark.parametrize(("given", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_does_not_fit_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        PermutationSpec.from_axes(**given)


def test_groups_that_do_not_repeat_stand_beside_those_that_do() -> None:
    model = {"l.0.q": torch.zeros(12, 4), "l.1.q": torch.zeros(12, 4), "out": torch.zeros(4)}
    spec = PermutationSpec.from_axes(
        {"l.{i}.q": (Segment("head{i}", inner=(Segment("dim{i}"), Segment.fixed(2))), "width"), "out": ("width",)},
        [Group("width", 4), Group("head{i}", 3), Group("dim{i}", owner="head{i}"), Group("unused{k}")],
        model=model,
    )
    assert spec.sizes == {"width": 4, "head0": 3, "head1": 3, "dim0": 2, "dim1": 2}
    assert spec.groups["dim1"].owner == "head1"


@cache
def derived() -> PermutationSpec:
    return lmc.derive_spec(models.small_mlp(), torch.randn(2, 4))


class TestEdit:
    def spec(self) -> PermutationSpec:
        # Editing makes another one.
        return derived()

    def test_a_group_is_pinned(self) -> None:
        spec = self.spec()
        first, second = spec.groups
        less = spec.edit(pin=[first])
        assert less.sizes == {second: spec.sizes[second]} and less.is_bound and less.verified is None
        assert spec.groups.keys() == {first, second}
        lmc.verify_spec(models.small_mlp(), less, torch.randn(2, 4))
        assert "edited by hand since it was derived" in less.explain().notes

    def test_groups_are_pinned_with_what_they_own_and_without_their_owners(self) -> None:
        model = models.Attention()
        spec = lmc.derive_spec(model, torch.randn(2, 5, 6))
        assert not spec.edit(pin=["qkv"]).groups
        less = spec.edit(pin=["qkv:2"])
        assert set(less.groups) == {"qkv", "qkv:3"}
        lmc.verify_spec(model, less, torch.randn(2, 5, 6))
        assert not spec.edit(pin=["qkv", "qkv:2"]).groups

    def test_axes_are_freed(self) -> None:
        model = models.small_mlp()
        spec = self.spec()
        back = spec.edit(pin=list(spec.groups)).edit(dict(spec.axes))
        assert back == spec
        lmc.verify_spec(model, back, torch.randn(2, 4))

    def test_patterns_and_owners_are_taken(self) -> None:
        spec = lmc.derive_spec(Encoder(), torch.randn(2, 5, 6))
        none = spec.edit(pin=spec.roots)
        assert not none.groups
        thirds = (Segment("qk{i}"), Segment("qk{i}"), Segment("v{i}"))
        again = none.edit(
            {
                "layer.{i}.qkv.weight": (thirds, None),
                "layer.{i}.qkv.bias": (thirds,),
                "layer.{i}.out.weight": (None, "v{i}"),
            },
            [Group("h{i}", 3), Group("qk{i}", owner="h{i}"), Group("v{i}", owner="h{i}")],
        )
        assert up_to_names(again) == up_to_names(spec)

    def test_groups_are_renamed(self) -> None:
        spec = lmc.derive_spec(models.Attention(), torch.randn(2, 5, 6))
        named = spec.edit(rename={"qkv": "head", "qkv:2": "query_key", "qkv:3": "value"})
        assert set(named.groups) == {"head", "query_key", "value"}
        assert named.groups["value"].owner == "head"
        assert up_to_names(named) == up_to_names(spec)

    def test_a_spec_of_open_sizes_stays_open(self) -> None:
        spec = PermutationSpec.from_axes({"a": ("g", None), "b": (None, "g")})
        other = spec.edit({"b": (None, None)})
        assert not other.is_bound and other.axes["b"][1].is_fixed
        with pytest.raises(ValueError, match="open sizes"):
            _ = spec.edit(pin=["g"]).sizes or other.sizes

    def test_axes_of_several_dimensions_are_bound_later(self) -> None:
        model = models.Experts()
        spec = lmc.derive_spec(model, torch.randn(2, 5))
        root = spec.roots[0]
        assert not spec.edit(pin=[root]).bind(model).groups

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"pin": ["nothing"]}, "pin must name groups of the spec, got 'nothing'"),
            ({"pin": "0"}, "pin must be a list of groups' names"),
            ({"rename": {"nothing": "x"}}, "rename must name groups of the spec, got 'nothing'"),
            ({"rename": {"0": "1"}}, "rename must leave each group a name of its own, got '1' for two"),
            ({"rename": {"0": 3}}, r"rename\['0'\] must be a name, got 3"),
            ({"rename": [1]}, "rename must be a mapping"),
            ({"axes": {"other.weight": ("x",)}}, "axes must name parameters of the spec, got 'other.weight'"),
            ({"axes": {"1.weight": ("x", "x")}}, "the spec makes it"),
        ],
    )
    def test_what_does_not_fit_is_named(self, given: dict[str, Any], message: str) -> None:
        spec = self.spec().edit(rename=dict(zip(self.spec().groups, ("0", "1"), strict=True)))
        with pytest.raises((ValueError, TypeError), match=message):
            spec.edit(**given)

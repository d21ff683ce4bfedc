"""Traps that other packages fall into, each as a test: the first six break the function that a model computes.

Of those the derived spec keeps the function, and the peer's own spec is refused by `verify_spec`. Offsets past 2^31 are
tried where the memory for them is had, in `test_large_offsets.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import Group, PermutationSpec, Segment
from lmc_fast.compat.git_re_basin import mlp_permutation_spec
from lmc_fast.compat.git_re_basin import weight_matching as their_weight_matching
from lmc_fast.experiments.models import MLP, ResNet


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.norm(self.up(x)).relu())


class Flattened(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 5, 3), nn.Linear(5 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).relu().flatten(1))


class Spread(nn.Module):
    """A convolution in groups between two plain ones; in as many groups as channels it is depthwise."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.into, self.middle = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 6, 3, groups=groups, padding=1)
        self.out = nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.middle(self.into(x).relu()).relu()).mean((2, 3))


class GroupNormed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.norm, self.out = nn.Conv2d(2, 6, 1), nn.GroupNorm(3, 6), nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.into(x)).relu())


def dense(model: nn.Module, **axes: Any) -> PermutationSpec:
    """What takes every layer for a plain one, with these axes."""
    return PermutationSpec.from_axes(
        {name.replace("__", "."): entry for name, entry in axes.items()}, model=model, rest="fixed"
    )


def across_heads(model: nn.Module) -> PermutationSpec:
    """Query, key and value in one matrix, each with all of its rows in any order."""
    thirds = (Segment("qk"), Segment("qk"), Segment("v"))
    return dense(model, qkv__weight=(thirds, None), qkv__bias=(thirds,), out__weight=(None, "v"))


IMAGES = torch.randn(3, 2, 5, 5)
PAIR = {"into__weight": ("a", None, None, None), "into__bias": ("a",), "out__weight": (None, "b", None, None)}
MIDDLE = {"middle__weight": ("b", "a", None, None), "middle__bias": ("b",)}
BREAKING: dict[str, tuple[nn.Module, Tensor, Callable[[nn.Module], PermutationSpec]]] = {
    "BatchNorm's running statistics stay where they are": (
        Normed(),
        torch.randn(3, 4),
        lambda model: dense(
            model,
            up__weight=("h", None),
            up__bias=("h",),
            norm__weight=("h",),
            norm__bias=("h",),
            norm__running_mean=(None,),
            norm__running_var=(None,),
            down__weight=(None, "h"),
        ),
    ),
    "flatten and then Linear, by channel only": (
        Flattened(),
        torch.randn(3, 1, 4, 4),
        lambda model: dense(
            model,
            conv__weight=("c", None, None, None),
            conv__bias=("c",),
            fc__weight=(None, [Segment("c", outer=4)]),
        ),
    ),
    "a depthwise convolution taken for a dense one": (
        Spread(6),
        IMAGES,
        lambda model: dense(model, **PAIR, middle__weight=("b", None, None, None), middle__bias=("b",)),
    ),
    "a grouped convolution taken for a dense one": (
        Spread(3),
        IMAGES,
        lambda model: dense(model, **PAIR, middle__weight=("b", None, None, None), middle__bias=("b",)),
    ),
    "GroupNorm's groups broken up": (
        GroupNormed(),
        IMAGES,
        lambda model: dense(
            model,
            **{**PAIR, "out__weight": (None, "a", None, None)},
            norm__weight=("a",),
            norm__bias=("a",),
        ),
    ),
    "query, key and value permuted across heads": (models.Attention(), torch.randn(3, 5, 6), across_heads),
    "the classifier's outputs given a permutation": (
        MLP(4, (9, 7), 3),
        torch.randn(3, 4),
        lambda model: dense(model, **{"5__weight": ("classes", None), "5__bias": ("classes",)}),
    ),
}


@pytest.mark.parametrize("trap", BREAKING)
def test_the_derived_spec_keeps_the_function(trap: str) -> None:
    model, inputs, _ = BREAKING[trap]
    model = models.randomise(model, 1).eval()
    spec = lmc.derive_spec(model, inputs)
    assert spec.explain().log10_permutations > 0
    for seed in range(3):
        moved = lmc.Permutations.random(spec, seed).apply(model)
        assert any(not torch.equal(a, b) for a, b in zip(moved.parameters(), model.parameters(), strict=True))
        torch.testing.assert_close(moved(inputs), model(inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("trap", BREAKING)
def test_the_peers_spec_is_refused(trap: str) -> None:
    model, inputs, wrong = BREAKING[trap]
    spec = wrong(model)
    with pytest.raises(lmc.SymmetryError):
        lmc.verify_spec(model, spec, inputs)
    model = models.randomise(model, 1).eval()
    moved = [lmc.Permutations.random(spec.bind(model), seed).apply(model)(inputs) for seed in range(5)]
    assert max(float((outputs - model(inputs)).abs().max()) for outputs in moved) > 1e-2


# Traps that leave the function alone, and find the wrong permutation, or none.


def two_layers(width: int = 8) -> tuple[nn.Module, PermutationSpec]:
    model = MLP(4, (width,), 3)
    return model, lmc.architectures.mlp(model)


def order(match: Any) -> list[int]:
    (choice,) = match.permutations.choices.values()
    return [int(each) for each in choice]


def test_biases_and_norms_count_unit_by_unit() -> None:
    """Reduced to a scalar they say nothing; here nothing else tells the units apart."""
    model, spec = two_layers()
    a = {name: torch.ones_like(tensor) for name, tensor in model.state_dict().items()}
    a["1.bias"] = torch.arange(8.0)
    b = {**a, "1.bias": a["1.bias"].flip(0)}
    assert order(lmc.weight_matching(a, b, spec)) == list(range(7, -1, -1))


def test_running_statistics_do_not_count() -> None:
    model = Normed()
    spec = lmc.derive_spec(model, torch.randn(3, 4))
    a = model.state_dict()
    b = {**a, "norm.running_mean": 1e3 * torch.randn(6), "norm.running_var": 1e3 * torch.rand(6)}
    assert order(lmc.weight_matching(a, b, spec)) == list(range(6))


def test_a_start_is_not_written_to() -> None:
    a, b = ({f"Dense_{n}/{kind}": np.random.default_rng(s).standard_normal(shape, np.float32) for n, kind, shape in (
        (0, "kernel", (4, 6)), (0, "bias", (6,)), (1, "kernel", (6, 3)), (1, "bias", (3,)),
    )} for s in (1, 2))  # fmt: skip
    ps = mlp_permutation_spec(1)
    start = {"P_0": np.arange(6)[::-1].copy()}
    their_weight_matching(0, ps, a, b, init_perm=start, silent=True)
    assert start["P_0"].tolist() == [5, 4, 3, 2, 1, 0]
    model, spec = two_layers()
    permutations = lmc.Permutations.random(spec, 3)
    before = {name: rows.copy() for name, rows in permutations.choices.items()}
    lmc.weight_matching(model, MLP(4, (8,), 3), spec, init=permutations)
    assert all(np.array_equal(permutations.choices[name], rows) for name, rows in before.items())


@pytest.mark.slow
def test_permutations_are_integers() -> None:
    """As float32 they are wrong above 2^24."""
    model, spec = two_layers()
    match = lmc.weight_matching(model, MLP(4, (8,), 3), spec)
    assert all(rows.dtype == np.int64 for rows in match.permutations.choices.values())
    wide = PermutationSpec.from_axes({"w": ("g",)}, [Group("g", (1 << 24) + 2)])
    choice = np.arange((1 << 24) + 2)
    choice[-2:] = choice[:-3:-1]
    index = lmc.Permutations(wide.bind({"w": torch.empty((1 << 24) + 2, device="meta")}), {"g": choice}).index("w", 0)
    assert index[-2:].tolist() == [(1 << 24) + 1, 1 << 24]


@pytest.mark.parametrize("layout", ["C", "F"])
def test_assignments_do_not_depend_on_the_layout(layout: Any) -> None:
    """A column-major cost solved transposed; outputs that stay zero; numbers that are none, taken."""
    cost = np.random.default_rng(0).standard_normal((7, 7))
    rows, columns = lmc.linear_sum_assignment(np.array(cost, order=layout))
    expected = lmc.linear_sum_assignment(cost.tolist())[1]
    assert rows.tolist() == list(range(7)) and columns.tolist() == list(expected)
    assert sorted(columns.tolist()) == list(range(7)) and columns.dtype == np.int64
    cost[3, 2] = np.nan
    with pytest.raises(ValueError, match=r"cost\S* must"):
        lmc.linear_sum_assignment(np.array(cost, order=layout))


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_progress_is_relative_to_the_weights(scale: float) -> None:
    """An absolute 1e-12 ends the search at once, or never."""
    model, spec = two_layers(32)
    a = {name: scale * tensor for name, tensor in models.randomise(model, 0).state_dict().items()}
    planted = lmc.Permutations.random(spec, 5)
    b = {name: tensor + 0.01 * scale * torch.randn(tensor.shape) for name, tensor in planted.inverse().apply(a).items()}
    match = lmc.weight_matching(a, b, spec)
    assert order(match) == planted.choices["1"].tolist() and match.converged


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gains_of_half_precision_are_summed_in_single(dtype: torch.dtype) -> None:
    """A sum of 4,096 products in float16 drowns the term that tells the units apart."""
    a = {"w": torch.ones(3, 4096, dtype=dtype), "v": torch.eye(3, dtype=dtype)}
    spec = PermutationSpec.from_axes({"w": ("u", None), "v": ("u", None)})
    b = {"w": a["w"], "v": a["v"][[2, 0, 1]]}
    assert order(lmc.weight_matching(a, b, spec)) == [1, 2, 0]


def test_the_package_installs_names_of_its_own() -> None:
    """Two packages of this kind install one top-level name."""
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^name = "lmc_fast"$', text, re.MULTILINE)
    assert 'packages.find = { include = ["lmc_fast*"] }' in text


def test_a_planted_permutation_of_a_residual_net_is_found() -> None:
    """From the identity it was, 10 times in 100."""
    for seed in range(10):
        model = models.randomise(ResNet(3, 8, (2, 2, 2), 10), seed)
        spec = lmc.architectures.resnet(model)
        planted = lmc.Permutations.random(spec, seed)
        match = lmc.weight_matching(model, planted.inverse().apply(model), spec)
        assert all(np.array_equal(match.permutations.choices[g], planted.choices[g]) for g in spec.groups), seed

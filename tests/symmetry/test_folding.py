"""Layers that repeat, told as one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast.symmetry.folding import apart, folded, folded_names


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["a.0.b", "a.1.b", "a.2.b"], "a.{0..2}.b"),
        (["a.3.b", "a.1.b", "a.2.b"], "a.{1..3}.b"),
        (["a.0.b", "a.2.b", "a.4.b"], "a.{0,2,4}.b"),
        ([f"a.{2 * n}.b" for n in range(5)], "a.*.b"),
        (["0.w:2", "1.w:2", "2.w:2"], "{0..2}.w:2"),
        (["x.0.1", "x.1.1", "x.0.2", "x.1.2"], "x.{0..1}.{1..2}"),
        (["conv1.w"], "conv1.w"),
    ],
)
def test_numbers_that_differ_are_told_as_one(names: list[str], told: str) -> None:
    assert folded(names) == told


def test_a_few_at_least_are_folded_and_the_rest_stays_as_it_is() -> None:
    assert folded_names(["l.0.a", "l.0.b", "l.1.a", "l.2.a", "l.1.b"]) == ["l.{0..2}.a", "l.0.b", "l.1.b"]


@pytest.mark.parametrize(
    ("names", "place", "left"),
    [
        (["a.b.c.w", "a.b.d.w"], "a.b", ["c.w", "d.w"]),
        (["a.{0..3}.c.w", "a.{0..3}.c.b"], "a.{0..3}.c", ["w", "b"]),
        (["a.b.w", "a.c.w"], "", ["a.b.w", "a.c.w"]),
        (["a.b.c"], "", ["a.b.c"]),
        (["a.b", "a.b.c"], "", ["a.b", "a.b.c"]),
    ],
)
def test_what_names_share_is_told_once(names: list[str], place: str, left: list[str]) -> None:
    assert apart(names) == (place, left)


class Blocks(nn.Module):
    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, n), nn.ReLU(), nn.Linear(n, 4)) for n in widths)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


def test_an_explanation_tells_layers_that_repeat_once() -> None:
    text = str(lmc.derive_spec(Blocks([5] * 4), torch.randn(2, 4)).explain())
    assert "└─ blocks.{0..3}.0: 5, 4 times, on blocks.{0..3}: 0.weight, 0.bias, 2.weight" in text
    assert "blocks.{0..3}.2.weight[0]" in text
    other = str(lmc.derive_spec(Blocks([5, 6, 7, 5]), torch.randn(2, 4)).explain())
    assert "blocks.0.0: 5, on" in other and "times" not in other

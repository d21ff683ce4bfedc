"""Tied weights: under several names, as views of one tensor, and in one of two models alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc

TOKENS = torch.arange(12) % 10
BATCHES = [(TOKENS, (3 * TOKENS + 1) % 10)]
SPEC = lmc.PermutationSpec.from_axes(
    {
        "embed.weight": (None, "P"),
        "hidden.weight": ("P", "P"),
        "hidden.bias": ("P",),
        "out.weight": (None, "P"),
        "again.weight": (None, "P"),
    }
)


class Net(nn.Module):
    def __init__(self, seed: int, tie: str) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.hidden = nn.Embedding(10, 6), nn.Linear(6, 6)
        self.out, self.again = nn.Linear(6, 10, bias=False), nn.Linear(6, 10, bias=False)
        for layer in (self.out, self.again):
            if tie == "one":
                layer.weight = self.embed.weight
            elif tie == "views":
                layer.weight = nn.Parameter(self.embed.weight.data.view(10, 6))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.hidden(self.embed(x)))
        out: Tensor = self.out(hidden) + self.again(hidden)
        return out


def loss_of(model: nn.Module) -> float:
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(TOKENS), BATCHES[0][1]))


@pytest.mark.parametrize("tie_a", ["one", "views", "none"])
@pytest.mark.parametrize("tie_b", ["one", "views", "none"])
def test_ends_are_the_models_or_the_tie_is_named(tie_a: str, tie_b: str) -> None:
    a, b = Net(0, tie_a), Net(1, tie_b)
    match = lmc.weight_matching(a, b, SPEC)
    if tie_a == "one" and tie_b == "none":
        for call in (
            lambda: lmc.interpolate(a, b, 1.0, match),
            lambda: lmc.loss_barrier(a, b, BATCHES, match, lambdas=3),
            lambda: lmc.taylor_barrier(a, b, BATCHES, match, lambdas=3),
        ):
            with pytest.raises(ValueError, match=r"tied tensor as 'embed\.weight' and 'out\.weight'"):
                call()
        return
    ends = [loss_of(a), loss_of(b)]
    assert [loss_of(lmc.interpolate(a, b, lam, match)) for lam in (0.0, 1.0)] == pytest.approx(ends, rel=1e-5)
    curve = lmc.loss_barrier(a, b, BATCHES, match, lambdas=3)
    assert [curve.loss[0], curve.loss[-1]] == pytest.approx(ends, rel=1e-5)
    taylor = lmc.taylor_barrier(a, b, BATCHES, match, lambdas=3)
    assert [taylor.a.loss, taylor.b.loss] == pytest.approx(ends, rel=1e-5)

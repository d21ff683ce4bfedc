"""Experts in stacked weights: units on one axis with a residual stream between them and their experts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from benchmarks import models
from benchmarks.planted import with_noise


class Experts(nn.Module):
    """A mixture over experts that read a stream and write to it, in the layout of transformers."""

    def __init__(self, experts: int = 3, width: int = 7, hidden: int = 5) -> None:
        super().__init__()
        self.into, self.router = nn.Linear(4, width), nn.Linear(width, experts)
        self.up = nn.Parameter(torch.zeros(experts, hidden, width))
        self.down = nn.Parameter(torch.zeros(experts, width, hidden))
        self.out = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:  # [batch, 4]
        x = self.into(x)
        share = torch.softmax(self.router(x), dim=-1)
        hidden = torch.relu(torch.einsum("bw,ehw->ebh", x, self.up))
        return self.out(x + torch.einsum("ebh,ewh,be->bw", hidden, self.down, share))

    def spec(self) -> lmc.PermutationSpec:
        experts, width, hidden = self.down.shape
        inside = lmc.Segment("stream", inner=(lmc.Segment("unit"),))
        return lmc.PermutationSpec.from_axes(
            {
                "into.weight": ("stream", None),
                "into.bias": ("stream",),
                "router.weight": ("expert", "stream"),
                "router.bias": ("expert",),
                "up": (lmc.Axis((lmc.Segment("unit"),), dims=2), "stream"),
                "down": (lmc.Axis((lmc.Segment("expert", inner=(inside,)),), dims=3),),
                "out.weight": (None, "stream"),
                "out.bias": (None,),
            },
            [lmc.Group("stream", width), lmc.Group("expert", experts), lmc.Group("unit", hidden, owner="expert")],
        ).bind(self)


@pytest.mark.parametrize("search", ["spectral", "coordinate_descent"])
@pytest.mark.parametrize("noise", [0.0, 0.1], ids=["exact", "noisy"])
def test_planted_permutations_are_found(noise: float, search: str) -> None:
    for seed in range(10):
        model = models.randomise(Experts(), seed)
        truth = lmc.Permutations.random(model.spec(), seed)
        other = with_noise(truth.inverse().apply(model.state_dict()), noise, seed)
        assert lmc.weight_matching(model, other, model.spec(), search=search).permutations == truth


def test_the_spec_keeps_the_function() -> None:
    model = Experts()
    assert lmc.verify_spec(model, model.spec(), torch.randn(6, 4)) < 1e-10


def test_a_wide_stream_is_settled_before_the_experts() -> None:
    # Gains of all three at once would be a matrix of a million rows.
    model = models.randomise(Experts(4, 1024, 256), 0)
    truth = lmc.Permutations.random(model.spec(), 1)
    other = with_noise(truth.inverse().apply(model.state_dict()), 0.1, 1)
    assert lmc.weight_matching(model, other, model.spec()).permutations == truth


@pytest.mark.parametrize("watch", ["inputs", "outputs"])
def test_activations(watch: str) -> None:
    model = models.randomise(Experts(), 0)
    truth = lmc.Permutations.random(model.spec(), 1)
    other = truth.inverse().apply(model)
    match = lmc.activation_matching(model, other, [torch.randn(200, 4)], model.spec(), watch=watch)
    assert match.permutations == truth

"""Units with an order of their own at each of a few others, where those stand in parts laid end to end."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import lmc_fast as lmc


class Halves(nn.Module):
    """Halves change places between grouped convolutions, and a norm of three groups holds the outer ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 12, 3, padding=1, groups=2)
        self.second = nn.Conv2d(12, 18, 3, padding=1, groups=6)
        self.norm, self.last = nn.GroupNorm(3, 18), nn.Linear(18, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = torch.cat([y[:, 6:], torch.tanh(y[:, :6])], 1)
        out: Tensor = self.last(self.norm(self.second(y)).relu().mean((2, 3)))
        return out


def test_orders_at_each_index_are_the_same_on_both_sides_of_what_is_laid_end_to_end() -> None:
    model, x = Halves(), torch.randn(2, 4, 5, 7)
    spec = lmc.derive_spec(model, x, verify=False)
    assert lmc.verify_spec(model, spec, x) < 1e-10
    outputs = set(spec.axes["first.weight"][0].groups)
    assert len(outputs) == 3
    assert outputs <= set(spec.axes["second.weight"][0].groups)

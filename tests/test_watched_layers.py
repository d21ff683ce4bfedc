"""What is seen of a model by its modules alone, and what is not: REPAIR, and inputs of layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lmc_fast as lmc
from lmc_fast.repairing import repair


class ByFunction(nn.Module):
    """Three layers of hidden units: a module, a bare parameter, and a module's weight in a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bare = nn.Linear(4, 6), nn.Parameter(torch.randn(7, 6))
        self.third, self.head = nn.Linear(7, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(F.linear(torch.relu(self.first(x)), self.bare))
        return self.head(torch.relu(F.linear(x, self.third.weight)))


class Attending(nn.Module):
    """[batch, tokens, 6] -> [batch, tokens, 6] with torch's own attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.up, self.down = nn.MultiheadAttention(6, 2, batch_first=True), *_mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return x + self.down(torch.relu(self.up(x)))


def _mlp() -> tuple[nn.Linear, nn.Linear]:
    return nn.Linear(6, 9), nn.Linear(9, 6)


def changed(model: nn.Module, inputs: Tensor) -> set[str]:
    """Parameters that REPAIR has changed or added in the mean of a model and another one."""
    other = type(model)()
    merged = lmc.interpolate(model, other, 0.5)
    repaired = repair(merged, [model, other], [inputs], spec=lmc.derive_spec(model, inputs))
    before = merged.state_dict()
    return {
        name for name, tensor in repaired.state_dict().items() if name not in before or not tensor.equal(before[name])
    }


def test_repair_puts_right_what_runs_as_a_module_and_leaves_the_rest() -> None:
    assert changed(ByFunction(), torch.randn(40, 4)) == {"first.weight", "first.bias"}


def test_repair_leaves_the_projections_of_an_attention() -> None:
    assert changed(Attending(), torch.randn(20, 5, 6)) == {"up.weight", "up.bias"}


@pytest.mark.parametrize(
    ("make", "shape", "seen"),
    [
        pytest.param(ByFunction, (40, 4), ["first.weight", "head.weight"], id="functions"),
        pytest.param(Attending, (20, 5, 6), ["up.weight", "down.weight"], id="attention"),
    ],
)
def test_inputs_are_seen_of_layers_that_run_as_modules(
    make: type[nn.Module], shape: tuple[int, ...], seen: list[str]
) -> None:
    found = lmc.input_alignment(make(), [torch.randn(shape)])
    assert [layer.name for layer in found.layers] == seen

"""Forward passes that toss coins: two runs may give the same, and a wrong spec is found even so."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc

X = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
COINS = {
    "python": lambda: random.random() < 0.5,
    "numpy": lambda: np.random.rand() < 0.5,  # noqa: NPY002
    "torch": lambda: bool(torch.rand(()) < 0.5),
    "rarely": lambda: random.random() < 1e-3,
    "torch, in whole numbers": lambda: bool(torch.randint(2, ())),
}


class Tosses(nn.Module):
    """Skips a branch at random, as stochastic depth does that is left on."""

    def __init__(self, coin: str) -> None:
        super().__init__()
        self.fc1, self.fc2, self.coin = nn.Linear(5, 8), nn.Linear(8, 3), coin

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.fc1(x))
        out: Tensor = self.fc2(hidden * 2 if COINS[self.coin]() else hidden)
        return out


def spec_of(bias: str | None) -> lmc.PermutationSpec:
    return lmc.PermutationSpec.from_axes(
        {"fc1.weight": ("P", None), "fc1.bias": (bias,), "fc2.weight": (None, "P"), "fc2.bias": (None,)}
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("coin", COINS)
def test_a_wrong_spec_is_found_and_a_right_one_passes(coin: str, seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    model = Tosses(coin)
    right = spec_of("P")
    assert lmc.verify_spec(model, right, X) < 1e-10
    assert "random" in right.verified.note
    with pytest.raises((lmc.SymmetryError, ValueError), match="random"):
        lmc.verify_spec(model, spec_of(None), X)

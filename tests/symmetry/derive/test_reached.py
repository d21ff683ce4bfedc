"""Entries of parameters that the example inputs do not reach stay: other inputs may tell them apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc

WIDTH, PLACES = 6, 11


class Positions(nn.Module):
    """Embeddings and positions into a hidden layer; `way` is how positions of a shorter text are taken."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.embedding = nn.Embedding(13, WIDTH)
        self.first = nn.Parameter(torch.randn(PLACES, WIDTH))
        self.second = nn.Parameter(torch.randn(PLACES, WIDTH))
        self.up, self.down = nn.Linear(WIDTH, 5), nn.Linear(5, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        count = tokens.shape[1]
        if self.way == "slice":
            places = self.first[:count] + self.second[:count]
        elif self.way == "after a sum":
            places = (self.first + self.second)[:count]
        elif self.way == "cast":
            places = (self.first + self.second).to(torch.float64).to(torch.float32).narrow(0, 0, count)
        else:
            places = torch.split(self.first + self.second, [count, PLACES - count])[0]
        out: Tensor = self.down(self.up(self.embedding(tokens) + places).relu())
        return out


def tokens(count: int) -> Tensor:
    return torch.arange(2 * count).reshape(2, count) % 13


@pytest.mark.parametrize("way", ["slice", "after a sum", "cast", "split"])
def test_places_behind_the_end_stay(way: str) -> None:
    model = Positions(way)
    spec = lmc.derive_spec(model, tokens(7))
    assert sorted(group.size for group in spec.groups.values()) == [5, WIDTH]
    # On a text of another length it computes the same, too.
    moved = lmc.Permutations.random(spec, seed=1).apply(model)
    if way != "split":
        assert torch.allclose(moved(tokens(9)), model(tokens(9)), atol=1e-5)
    assert "do not reach these entries" in str(spec.explain())


def test_a_longer_example_has_nothing_out_of_reach() -> None:
    spec = lmc.derive_spec(Positions("slice"), tokens(PLACES))
    assert "do not reach" not in str(spec.explain())


class Factors(nn.Module):
    """A weight of two factors, and a bias that is a sum over rows: what is summed over is free."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.randn(7, 4)), nn.Parameter(torch.randn(4, 6))
        self.rows = nn.Parameter(torch.randn(9, 7))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.left @ self.right, self.rows.sum(0))


def test_what_weights_sum_over_among_themselves_is_free() -> None:
    spec = lmc.derive_spec(Factors(), torch.randn(5, 6))
    assert sorted(group.size for group in spec.groups.values()) == [4, 9]

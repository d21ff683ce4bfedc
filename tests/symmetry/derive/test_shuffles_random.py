"""No false symmetry where values are laid together, shuffled and cut at random."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc

from .random_modules import Draws

# So many are traced together.
EACH = 6


class Shuffled(nn.Module):
    """[batch, 4, places] -> [batch, 3]: branches laid end to end, taken as rows, turned about, cut and used again."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draws, self.plan = Draws(seed), list[tuple[str, int]]()
        self.layers = nn.ModuleList([nn.Conv1d(4, 12, 1)])
        width = 12
        for _ in range(5):
            kind = str(
                draws.of("layer", "branches", "branches", "shuffle", "shuffle", "halves", "rows", "norm", "swap")
            )
            number = draws.number(2, 3)
            if kind == "layer":
                leaving = draws.number(6, 12, 18)
                self.layers.append(nn.Conv1d(width, leaving, 1))
                width = leaving
            elif kind == "branches":
                more = draws.number(6, 12)
                self.layers.append(nn.Conv1d(width, more, 1))
                width += more
            elif kind == "halves":
                self.layers.append(nn.Conv1d(width - width // 2, width // 2, 1))
                width = 2 * (width // 2)
            elif kind == "rows" and width % number == 0:
                self.layers.append(nn.Conv1d(width // number, 6, 1))
                width = 6 * number
            elif kind == "norm":
                self.layers.append(nn.BatchNorm1d(width))
            elif width % number:
                continue
            self.plan.append((kind, number))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        layers = iter(self.layers)
        x = torch.tanh(next(layers)(x))
        for kind, number in self.plan:
            rows = x.view(len(x), number, -1, x.shape[-1]) if kind in ("shuffle", "swap") else None
            if kind in ("layer", "norm"):
                x = torch.sigmoid(next(layers)(x))
            elif kind == "branches":
                x = torch.cat([x, torch.tanh(next(layers)(x))], 1)
            elif kind == "halves":
                kept, taken = x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]
                x = torch.cat([kept, torch.relu(next(layers)(taken))], 1)
            elif kind == "rows":
                # One layer for all rows: they move together.
                layer = next(layers)
                x = torch.cat([torch.tanh(layer(row)) for row in x.chunk(number, 1)], 1)
            elif kind == "shuffle":
                x = rows.transpose(1, 2).reshape(x.shape)
            else:
                x = torch.cat([rows[:, 1:] * 2, rows[:, :1]], 1).flatten(1, 2)
        return self.head(x.mean(-1))


class Several(nn.Module):
    """Modules of these seeds, side by side."""

    def __init__(self, start: int, count: int) -> None:
        super().__init__()
        self.each = nn.ModuleList(Shuffled(seed) for seed in range(start, start + count))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [module(x) for module in self.each]


@pytest.mark.parametrize("start", [0, *(pytest.param(k * EACH, marks=pytest.mark.slow) for k in range(1, 40))])
def test_nothing_false_is_let_free(start: int) -> None:
    torch.manual_seed(start)
    model, x = Several(start, EACH).eval(), torch.randn(2, 4, 5)
    spec = lmc.derive_spec(model, x, verify=False)
    assert not spec.explain().notes
    assert lmc.verify_spec(model, spec, x) < 1e-10
    steps = [each.step for axes in spec.axes.values() for axis in axes for each in axis.segments]
    # Of the first ones this is known: some units come in turn, and the test is of something.
    assert start or max(steps) > 1

"""Models whose units lie around those of others, or in turn with them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lmc_fast import PermutationSpec, Segment

__all__ = ["Around", "InTurn"]


class Around(nn.Module):
    """[batch, 7] -> a stream of 15 units, 6 of which come by a shortcut -> 5 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.old, self.new = nn.Linear(7, 6), nn.Linear(7, 15)
        self.between, self.down = nn.Linear(15, 8), nn.Linear(8, 5)
        self.twice = nn.Linear(30, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.new(x) + nn.functional.pad(self.old(x).relu(), (5, 4)))
        pairs = torch.stack([y, y.square()], -1).flatten(1)
        return self.down(self.between(y).relu()) + self.twice(pairs)

    @staticmethod
    def spec() -> PermutationSpec:
        stream = (Segment("outside", runs=(5, 6, 4)), Segment("inside"))
        pairs = (Segment("outside", inner=2, runs=(10, 12, 8)), Segment("inside", inner=2))
        return PermutationSpec.from_axes(
            {
                "old.weight": ("inside", None),
                "old.bias": ("inside",),
                "new.weight": (stream, None),
                "new.bias": (stream,),
                "between.weight": ("hidden", stream),
                "between.bias": ("hidden",),
                "down.weight": (None, "hidden"),
                "down.bias": (None,),
                "twice.weight": (None, pairs),
            }
        )


class InTurn(nn.Module):
    """[batch, 7] -> two branches of 6 units each, in turn -> 5 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.down = nn.Linear(7, 6), nn.Linear(7, 6), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.stack([self.left(x).relu(), self.right(x).tanh()], -1).flatten(1))

    @staticmethod
    def spec() -> PermutationSpec:
        axes = {f"{side}.{kind}": (side, None)[: 2 - (kind == "bias")] for side in ("left", "right") for kind in KINDS}
        both = (Segment("left", step=2), Segment("right", step=2))
        return PermutationSpec.from_axes({**axes, "down.weight": (None, both), "down.bias": (None,)})


KINDS = ("weight", "bias")

"""Analysis of models whose state dict calls tensors by other names than the model does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import lmc_fast as lmc


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(2, 5, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:  # [batch, 2, 6, 6]
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


class Renamed(Net):
    def __init__(self) -> None:
        super().__init__()
        self._register_state_dict_hook(self._renamed)

    @staticmethod
    def _renamed(module: nn.Module, state: dict[str, Tensor], prefix: str, local: Any) -> None:
        for name in list(state):
            state[f"saved_{name}"] = state.pop(name)


def test_inputs_are_told_by_the_saved_names() -> None:
    torch.manual_seed(0)
    plain, batches = Net(), [torch.randn(4, 2, 6, 6) for _ in range(2)]
    renamed = Renamed()
    with torch.no_grad():
        for own, other in zip(renamed.parameters(), plain.parameters(), strict=True):
            own.copy_(other)
    found, wanted = lmc.input_alignment(renamed, batches), lmc.input_alignment(plain, batches)
    assert [layer.name for layer in found.layers] == ["saved_conv.weight", "saved_fc.weight"]
    for one, other in zip(found.layers, wanted.layers, strict=True):
        assert one.cosines.tolist() == other.cosines.tolist()
    only = lmc.input_alignment(renamed, batches, parameters=["saved_fc.weight"])
    assert [layer.name for layer in only.layers] == ["saved_fc.weight"]

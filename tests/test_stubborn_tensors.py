"""Tensors of classes that refuse every operation, and models of whole numbers alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc


class Refuses(Tensor):
    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError("not with me")


def states() -> list[dict[str, Tensor]]:
    torch.manual_seed(0)
    models = (nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)) for _ in range(2))
    return [model.state_dict() for model in models]


SPEC = lmc.PermutationSpec.from_axes(
    {"0.weight": ("P", None), "0.bias": ("P",), "2.weight": (None, "P"), "2.bias": (None,)}
)


def test_numbers_are_read_past_the_class() -> None:
    a, b = states()
    c, d = ({name: tensor.clone().as_subclass(Refuses) for name, tensor in state.items()} for state in (a, b))
    expected, found = lmc.weight_matching(a, b, SPEC), lmc.weight_matching(c, d, SPEC)
    assert found.permutations == expected.permutations
    merged, plain = lmc.merge([c, d], [None, found]), lmc.merge([a, b], [None, expected])
    assert all(type(merged[name]) is Tensor and torch.equal(merged[name], plain[name]) for name in plain)


def test_a_search_by_gradients_needs_floating_point_weights() -> None:
    a, b = ({name: tensor.to(torch.int8) for name, tensor in state.items()} for state in states())
    with pytest.raises(ValueError, match="model_a must have floating point weights"):
        lmc.sinkhorn_matching(a, b, SPEC, steps=2)

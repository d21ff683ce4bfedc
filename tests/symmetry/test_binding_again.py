"""A spec that is bound already, bound to models like the one it was bound to, and to others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import lmc_fast as lmc


def state(units: int = 3, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {"a": torch.randn(units, 2, dtype=dtype), "b": torch.randn(units, dtype=dtype)}


AXES = {"a": ("p", None), "b": ("p",)}


def test_the_like_changes_nothing() -> None:
    spec = lmc.PermutationSpec.from_axes(AXES).bind(state())
    assert spec.bind(state()) is spec and spec.is_bound


@pytest.mark.parametrize(
    ("other", "named"),
    [(state(4), "axis 0 of parameter 'a'"), ({**state(), "c": torch.zeros(2)}, "'c'"), ({"a": state()["a"]}, "'b'")],
    ids=["sizes", "one-more", "one-less"],
)
def test_others_are_looked_at(other: dict[str, Tensor], named: str) -> None:
    spec = lmc.PermutationSpec.from_axes(AXES).bind(state())
    with pytest.raises(ValueError, match=named):
        spec.bind(other)


def test_other_dtypes_are_looked_at() -> None:
    spec = lmc.PermutationSpec.from_axes(AXES).bind(state())
    wide = spec.bind(state(dtype=torch.float64))
    assert wide == spec and spec.bind(state()) == spec


def test_ties_are_looked_at() -> None:
    """The like by shapes, but of tensors that are one."""
    tied = torch.randn(3, 3)
    spec = lmc.PermutationSpec.from_axes({"a": ("p", None), "b": (None, "p")})
    spec = spec.bind({"a": torch.randn(3, 3), "b": torch.randn(3, 3)})
    with pytest.raises(ValueError, match="'a' and 'b' are one tied tensor"):
        spec.bind({"a": tied, "b": tied})


def test_unsaved_buffers_are_looked_at_again() -> None:
    model = torch.nn.Linear(2, 3)
    spec = lmc.PermutationSpec.from_axes({"weight": ("p", None), "bias": ("p",)}).bind(model)
    assert spec.bind(model) is spec
    open_ones = lmc.PermutationSpec.from_axes({"weight": ("p", None), "bias": ("p",), "scale": ("p",)})
    model.register_buffer("scale", torch.ones(3), persistent=False)
    named = open_ones.bind(model)
    assert "scale" in named.unsaved and named.bind(model) == named
    model.scale = torch.ones(4)
    with pytest.raises(ValueError, match="scale"):
        named.bind(model)

"""The same structure with other things in it; the caller's stays as it was."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import lmc_fast as lmc
from lmc_fast._nested import leaves, mapped


class Held(MutableMapping[str, Any]):
    """A class of a user's that keeps its entries in an attribute."""

    def __init__(self, entries: dict[str, Any]) -> None:
        self.entries = entries

    def __getitem__(self, name: str) -> Any:
        return self.entries[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.entries[name] = value

    def __delitem__(self, name: str) -> None:
        del self.entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


@dataclass(frozen=True)
class Frozen:
    x: int
    rest: tuple[int, ...] = ()


Named = namedtuple("Named", "x")


@pytest.mark.parametrize(
    "given, expected",
    [
        pytest.param({"x": 1}, {"x": 2}, id="dict"),
        pytest.param(OrderedDict(x=1), OrderedDict(x=2), id="ordered"),
        pytest.param(UserDict(x=1), UserDict(x=2), id="user dict"),
        pytest.param(Held({"x": 1}), Held({"x": 2}), id="a user's own mapping"),
        pytest.param([1, (2, 3)], [2, (3, 4)], id="list"),
        pytest.param(Named(1), Named(2), id="named tuple"),
        pytest.param(Frozen(1, (2,)), Frozen(2, (3,)), id="dataclass"),
        pytest.param(1, 2, id="no container"),
    ],
)
def test_every_leaf_is_changed_and_nothing_of_the_caller_s(given: Any, expected: Any) -> None:
    before = list(leaves(given))
    made = mapped(given, lambda leaf: leaf + 1)
    assert type(made) is type(given)
    assert list(leaves(made)) == list(leaves(expected))
    assert list(leaves(given)) == before


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, packed: Any) -> torch.Tensor:
        return self.out(torch.tanh(self.hidden(packed.data)))


def test_packed_sequences_are_inputs_as_others_are() -> None:
    torch.manual_seed(0)
    packed = pack_sequence([torch.randn(4, 3), torch.randn(2, 3)])
    spec = lmc.PermutationSpec.from_axes(
        {"hidden.weight": ("h", None), "hidden.bias": ("h",), "out.weight": (None, "h"), "out.bias": (None,)}
    )
    assert lmc.verify_spec(Packed(), spec, packed) < 1e-10
    wrong = lmc.PermutationSpec.from_axes(
        {"hidden.weight": ("h", None), "hidden.bias": (None,), "out.weight": (None, "h"), "out.bias": (None,)}
    )
    with pytest.raises(lmc.SymmetryError, match="'h'"):
        lmc.verify_spec(Packed(), wrong, packed)

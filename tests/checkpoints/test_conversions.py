"""How stored tensors become a module's: by their names, those of older versions, and what is missing or too much."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lmc_fast.checkpoints.conversions import conversions_of
from lmc_fast.checkpoints.headers import StoredTensor


class Base(nn.Module):
    """A model with a body below a prefix, as transformers has them."""

    base_model_prefix = "body"

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"up": nn.Linear(4, 6), "LayerNorm": nn.LayerNorm(6)})
        self.head = nn.Linear(6, 3, bias=False)
        self.again = nn.Linear(6, 3, bias=False)
        self.again.weight = self.head.weight
        self.register_buffer("position_ids", torch.arange(5), persistent=False)
        self.register_buffer("count", torch.zeros(1, dtype=torch.long))


class Body(nn.Module):
    base_model_prefix = "body"

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(4, 6)


class Renames(nn.Module):
    """A model of diffusers with a name from before."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q = nn.Linear(4, 6)

    def _fix_state_dict_keys_on_load(self, state: dict[str, Any]) -> None:
        for kind in ("weight", "bias"):
            if f"query.{kind}" in state:
                state[f"to_q.{kind}"] = state.pop(f"query.{kind}")


def stored(tensors: dict[str, Tensor]) -> dict[str, StoredTensor]:
    return {
        name: StoredTensor(Path("m.safetensors"), tensor.dtype, tuple(tensor.shape), 0, tensor.nbytes)
        for name, tensor in tensors.items()
    }


def names_of(kind: type[nn.Module], tensors: dict[str, Tensor]) -> dict[str, str]:
    with torch.device("meta"):
        module = kind()
    found = conversions_of(module, stored(tensors), "directory 'm'")
    assert all(each.is_plain for each in found)
    for each in found:
        given = {name: tensors[name] for name in each.sources}
        made = each.load(given)
        assert each.store(made) == given
    return {each.sources[0]: each.targets[0] for each in found}


@pytest.fixture(autouse=True)
def before_version_5(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers.core_model_loading", None)


def state_of(module: nn.Module, *, without: str = "none", prefix: str = "") -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in module.state_dict().items() if not name.startswith(without)}


def test_names_stay_and_tied_ones_may_be_left_out() -> None:
    tensors = state_of(Base(), without="again")
    assert names_of(Base, tensors) == {name: name for name in tensors}
    # Counters begin anew.
    del tensors["count"]
    assert names_of(Base, tensors) == {name: name for name in tensors}


def test_the_bodys_prefix_is_put_in_front_or_taken_away() -> None:
    body = {"up.weight": torch.zeros(6, 4), "up.bias": torch.zeros(6)}
    assert names_of(Body, {f"body.{name}": tensor for name, tensor in body.items()}) == {
        "body.up.weight": "up.weight",
        "body.up.bias": "up.bias",
    }
    tensors = {name.removeprefix("body."): tensor for name, tensor in state_of(Base(), without="again").items()}
    assert names_of(Base, tensors)["up.weight"] == "body.up.weight"


def test_names_of_older_versions_are_known() -> None:
    tensors = state_of(Base(), without="again")
    tensors["body.LayerNorm.gamma"] = tensors.pop("body.LayerNorm.weight")
    tensors["body.LayerNorm.beta"] = tensors.pop("body.LayerNorm.bias")
    assert names_of(Base, tensors)["body.LayerNorm.gamma"] == "body.LayerNorm.weight"
    old = {"query.weight": torch.zeros(6, 4), "query.bias": torch.zeros(6)}
    assert names_of(Renames, old) == {"query.weight": "to_q.weight", "query.bias": "to_q.bias"}


def test_what_was_once_saved_is_passed_over() -> None:
    tensors = {**state_of(Base(), without="again"), "position_ids": torch.arange(5)}
    assert "position_ids" not in names_of(Base, tensors)

    class Ignores(Base):
        _keys_to_ignore_on_load_unexpected = (r"pooler\.",)
        _keys_to_ignore_on_load_missing = (r"^head\.",)

    tensors = {**state_of(Base(), without="again"), "pooler.weight": torch.zeros(2)}
    del tensors["head.weight"]
    assert "pooler.weight" not in names_of(Ignores, {**tensors, "again.weight": torch.zeros(3, 6)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"other.weight": torch.zeros(2)}, "directory 'm' holds 'other.weight', which Base has no place for"),
        ({"head.weight": torch.zeros(6, 3)}, r"holds 'head.weight' of shape \(6, 3\), and the configuration makes"),
        ({"body.up.bias": None}, r"directory 'm' lacks 'body.up.bias', which Base has \(architecture= names another\)"),
    ],
    ids=["too much", "another shape", "missing"],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    tensors = {**state_of(Base(), without="again"), **change}
    with pytest.raises(ValueError, match=message):
        names_of(Base, {name: tensor for name, tensor in tensors.items() if tensor is not None})

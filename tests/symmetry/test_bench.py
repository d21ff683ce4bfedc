"""The copy that verify_spec runs: only what changed is loaded, and what a forward pass writes to is loaded again."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast.symmetry.bench import Bench
from lmc_fast.symmetry.calls import Call


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).relu())


class Writes(Net):
    """Its weights are other ones after each call."""

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        with torch.no_grad():
            self.up.weight.mul_(0.5)
        return out


class WritesUnseen(Net):
    """Likewise, past the counter that torch keeps of changes."""

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        self.up.weight.data.mul_(0.5)
        return out


class Hooked(Net):
    """Doubles what it loads."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)


class LoadsWhole(Net):
    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return super().load_state_dict(*args, **kwargs)


class Tied(Net):
    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Linear(4, 6)
        self.again.weight = self.up.weight


X = torch.randn(2, 4)


def bench_of(model: nn.Module) -> Bench:
    return Bench(model, Call.of((X,), {}), torch.float64, ())


def test_only_what_changed_is_loaded() -> None:
    bench = bench_of(Net())
    weights = bench.draw(np.random.default_rng(0))
    first = bench.run(weights)
    own = dict(bench.used.named_parameters())
    before = {name: tensor._version for name, tensor in own.items()}
    changed = {**weights, "up.bias": weights["up.bias"].flip(0)}
    second = bench.run(changed)
    assert {name for name, tensor in own.items() if tensor._version != before[name]} == {"up.bias"}
    third = bench.run(weights)
    assert torch.equal(first[0], third[0]) and not torch.equal(first[0], second[0])


@pytest.mark.parametrize("kind", [Net, Writes, Hooked, LoadsWhole, Tied])
def test_the_same_weights_give_the_same_outputs(kind: type[nn.Module]) -> None:
    bench = bench_of(kind())
    one, two = (bench.draw(np.random.default_rng(seed)) for seed in (1, 2))
    expected = []
    for weights in (one, two):
        fresh = kind().double().eval()
        fresh.load_state_dict(weights)
        expected.append(fresh(X.double()).detach())
    for weights, outputs in ((one, expected[0]), (two, expected[1]), (one, expected[0]), (one, expected[0])):
        assert torch.equal(bench.run(weights)[0], outputs)


def test_tied_names_are_drawn_as_one() -> None:
    weights = bench_of(Tied()).draw(np.random.default_rng(0))
    assert torch.equal(weights["up.weight"], weights["again.weight"])


def test_a_model_with_a_loading_hook_is_loaded_as_a_whole() -> None:
    model = Net()

    def hook(module: nn.Module, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        state["up.bias"] = state["up.bias"] + 1

    model.register_load_state_dict_pre_hook(hook)
    bench = bench_of(model)
    weights = bench.draw(np.random.default_rng(0))
    plain = Net().double()
    plain.load_state_dict({**weights, "up.bias": weights["up.bias"] + 1})
    assert torch.equal(bench.run(weights)[0], plain(X.double()).detach())


@pytest.mark.parametrize("kind", [Writes, WritesUnseen])
def test_models_that_write_to_their_weights_are_verified(kind: type[nn.Module]) -> None:
    axes = {"up.weight": ("h", None), "up.bias": ("h",), "down.weight": (None, "h"), "down.bias": (None,)}
    lmc.verify_spec(kind(), lmc.PermutationSpec.from_axes(axes), X)
    with pytest.raises(lmc.SymmetryError):
        lmc.verify_spec(kind(), lmc.PermutationSpec.from_axes({**axes, "up.bias": (None,)}), X)


@pytest.mark.parametrize("width", [2, 3, 40])
def test_two_groups_that_are_one_are_told_apart(width: int) -> None:
    """Where they are small, by permuting one without the other; where they are large, two are never permuted alike."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(4, width), nn.Linear(4, width), nn.Linear(width, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.a(x) * self.b(x))

    wrong = lmc.PermutationSpec.from_axes(
        {
            "a.weight": ("one", None),
            "a.bias": ("one",),
            "b.weight": ("two", None),
            "b.bias": ("two",),
            "out.weight": (None, "one"),
            "out.bias": (None,),
        }
    )
    with pytest.raises(lmc.SymmetryError):
        lmc.verify_spec(Residual(), wrong, X)
    lmc.verify_spec(Residual(), lmc.derive_spec(Residual(), X), X)


@pytest.mark.parametrize("is_locked", [False, True], ids=["copied", "with what cannot be copied"])
def test_what_an_earlier_call_computed_is_emptied(is_locked: bool) -> None:
    class Remembers(Net):
        def __init__(self) -> None:
            super().__init__()
            self.first: Tensor | None = None
            if is_locked:
                self.lock = threading.Lock()

        def forward(self, x: Tensor) -> Tensor:
            if self.first is None:
                self.first = self.up(x).detach()
            return self.down(self.first.relu())

    model = Remembers()
    model(X)
    axes = {"up.weight": ("h", None), "up.bias": ("h",), "down.weight": (None, "h"), "down.bias": (None,)}
    spec = lmc.PermutationSpec.from_axes(axes)
    lmc.verify_spec(model, spec, X)
    assert spec.verified is not None and "kept from earlier calls, and emptied: first" in spec.verified.note
    assert model.first is not None

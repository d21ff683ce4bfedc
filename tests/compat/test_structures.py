"""Derived specs are kept by what modules are made of, and tried on each of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from lmc_fast import symmetry
from lmc_fast.compat import structures
from lmc_fast.compat.ste_mm import generate_permutation_spec


class Net(nn.Module):
    def __init__(self, width: int = 5, *, joined: bool | list[bool] = False) -> None:
        super().__init__()
        self.joined = joined
        self.a, self.b, self.c = nn.Linear(3, width), nn.Linear(3, width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x).relu(), self.b(x).relu()
        return self.c(a + b) if self.joined else self.c(a) + self.c(b)


class Turned(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.a(x)) + self.b(x).relu()[:, :2]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The models whose specs were derived, from nothing that was kept."""
    models: list[nn.Module] = []
    plain = symmetry.derive_spec

    def derive(model: nn.Module, inputs: object) -> symmetry.PermutationSpec:
        models.append(model)
        return plain(model, inputs)

    monkeypatch.setattr(symmetry, "derive_spec", derive)
    structures._kept.clear()
    return models


def test_a_model_that_is_alike_has_the_spec_of_the_first(found: list[nn.Module]) -> None:
    first, second = Net(), Net()
    spec, again = (generate_permutation_spec(net, [1, 3]) for net in (first, second))
    assert found == [first] and again.whole is spec.whole and again == spec
    # A script that writes into its spec does not write into the next one's.
    again.perm_to_axes.clear()
    assert generate_permutation_spec(first, [1, 3]) == spec and found == [first]
    generate_permutation_spec(first, [2, 3])
    assert found == [first, first]


def tied() -> nn.Module:
    net = Net()
    net.b.weight = net.a.weight
    return net


@pytest.mark.parametrize("other", [partial(Net, 6), partial(Net, joined=True), Turned, tied, lambda: Net().double()])
def test_others_are_told_apart(other: Callable[[], nn.Module]) -> None:
    assert structures.structure_of(Net()) == structures.structure_of(Net())
    assert structures.structure_of(other()) not in (None, structures.structure_of(Net()))
    # Equal numbers, which a forward pass may tell apart.
    assert structures.structure_of(Net(joined=True)) != structures.structure_of(Net(joined=1))


def hooked() -> nn.Module:
    net = Net()
    net.c.register_forward_hook(lambda part, inputs, outputs: outputs * 2)
    return net


def masked() -> nn.Module:
    net = Net()
    net.register_buffer("mask", torch.ones(5))
    return net


def replaced() -> nn.Module:
    net = Net()
    net.forward = lambda x: net.c(net.a(x))  # type: ignore[method-assign]
    return net


@pytest.mark.parametrize("other", [hooked, masked, replaced, partial(Net, joined=[True])])
def test_what_may_do_anything_is_derived_each_time(other: Callable[[], nn.Module], found: list[nn.Module]) -> None:
    net = other()
    assert structures.structure_of(net) is None
    for _ in range(2):
        generate_permutation_spec(net, [1, 3])
    assert found == [net, net]


def test_a_spec_that_does_not_hold_is_not_taken(found: list[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    # As if a module's code went by something that can't be seen in it.
    monkeypatch.setattr(structures, "structure_of", lambda model: "all the same")
    free, bound = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), nn.Sequential(nn.Linear(3, 5))
    assert list(generate_permutation_spec(free, [1, 3]).whole.groups)
    assert not generate_permutation_spec(bound, [1, 3]).whole.groups
    assert found == [free, bound]


def test_norms_are_alike_whatever_they_have_seen() -> None:
    first, second = (nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5, affine=k)) for k in (True, True))
    second(torch.randn(4, 3))
    assert structures.structure_of(first) == structures.structure_of(second) is not None
    without = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5, affine=False))
    assert structures.structure_of(without) not in (None, structures.structure_of(first))


def test_only_so_many_are_kept(found: list[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structures, "_MOST_KEPT", 1)
    nets = [Net(), Net(6), Net()]
    for net in nets:
        generate_permutation_spec(net, [1, 3])
    assert found == nets and len(structures._kept) == 1

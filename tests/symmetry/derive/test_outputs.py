"""What a model gives is told by its name there; what it hands on to its own next call does not hold a stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import lmc_fast as lmc

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Reads(nn.Module):
    """A normalised stream of 6 that one map writes and another reads, and `gives` returns with what was read."""

    def __init__(self, gives: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.write, self.norm, self.read = nn.Linear(4, 6), nn.RMSNorm(6), nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.gives = gives

    def forward(self, x: Tensor) -> Any:
        self.calls.add_(1)
        h = self.norm(self.write(x))
        return self.gives(self.read(h), h)


class Odd:
    """A class of outputs that wants values of its own."""

    def __init__(self, y: Tensor) -> None:
        if not y.numel():
            raise RuntimeError("no values")
        self.y = y


class Kept:
    """A cache of a class of its own."""

    def __init__(self, h: Tensor) -> None:
        self.h = h


@dataclass
class Given:
    last: Tensor
    cache: Tensor


pytree.register_pytree_node(Given, lambda given: ([given.last, given.cache], None), lambda leaves, _: Given(*leaves))
pytree.register_pytree_node(Kept, lambda kept: ([kept.h], None), lambda leaves, _: Kept(*leaves))
pytree.register_pytree_node(Odd, lambda odd: ([odd.y], None), lambda leaves, _: Odd(*leaves))


def derived(gives: Callable[[Tensor, Tensor], Any], **options: Any) -> lmc.PermutationSpec:
    return lmc.derive_spec(Reads(gives), X, rotations=True, **options)


@pytest.mark.parametrize("name", ["encoder_last_hidden_state", "past_key_values", "cache"])
def test_what_is_handed_on_to_the_next_call_turns(name: str) -> None:
    spec = derived(lambda y, h: {name: (h, Kept(h * 2)), "logits": y})
    assert [(group.size, group.kind) for group in spec.groups.values()] == [(6, "orthogonal")]
    assert spec.verified
    assert [fold.weight for fold in spec.folds] == ["norm.weight"]
    assert "output: is what the model gives as logits: read.weight[0]" in str(spec.explain())


GIVES: dict[str, tuple[Callable[[Tensor, Tensor], Any], str]] = {
    "by another name": (lambda y, h: {"logits": y, "hidden": h}, " as hidden"),
    "inside another": (lambda y, h: {"logits": y, "text": {"states": (h,)}}, " as text.states"),
    "twice": (lambda y, h: {"cache": h, "logits": y, "last": h}, " as last"),
    "of a dataclass": (lambda y, h: Given(h, h), " as last"),
    "alone": (lambda y, h: {"cache": h}, ""),
    "without a name": (lambda y, h: (y, h), ""),
    "of a class that wants values": (lambda y, h: Odd(h), ""),
}


@pytest.mark.parametrize("name", GIVES)
def test_what_a_model_gives_stays_and_is_named(name: str) -> None:
    gives, told = GIVES[name]
    spec = derived(gives, verify=False)
    assert not spec.groups
    assert f"output: is what the model gives{told}: write.weight[0]" in str(spec.explain())


def test_what_a_part_hands_on_stays() -> None:
    """The rest of the model reads it, where the whole cannot be traced."""

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = Reads(lambda y, h: {"cache": h, "logits": y}), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.outer(torch.from_numpy(self.inner(x)["cache"].detach().numpy()))

    assert not lmc.derive_spec(Around(), X, rotations=True, verify=False, strict=False).groups


def test_of_a_mapping_that_fails_it_is_told_how_it_fails_by_names() -> None:
    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read = nn.Linear(5, 2)

        def forward(self, x: Tensor | None = None) -> Tensor:
            return self.read(x).sum()

    with pytest.raises(ValueError, match=r"example_inputs \[3, 4\], but .* mat1 and mat2 shapes"):
        lmc.derive_spec(Narrow(), {"x": X})

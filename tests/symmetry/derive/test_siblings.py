"""Units on both sides of others: one group where everything treats both sides alike, two where anything does not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

import lmc_fast as lmc
from benchmarks.networks import PaddedResNet
from lmc_fast import Segment
from lmc_fast.symmetry.derive import build
from lmc_fast.symmetry.derive.look import Numbers
from lmc_fast.symmetry.derive.siblings import Step, siblings
from lmc_fast.symmetry.derive.terms import Pin, Term, Terms

from .side_by_side import Case, Derived, derived

WHY = Pin("test", "", "for a test")


class Stream(nn.Module):
    """[batch, 4] -> 12 units, to which 4 others come by a shortcut -> what a function makes of them -> 3 numbers."""

    def __init__(self, short: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor] = torch.sin) -> None:
        super().__init__()
        self.old, self.new, self.short, self.after = nn.Linear(4, 4), nn.Linear(4, 12), short, after
        self.down = nn.Linear(int(after(torch.ones(5, 12)).flatten(1).shape[1]), 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.after(self.new(x) + self.short(self.old(x).relu())).flatten(1))


def pad(*amounts: int, value: float = 0.0) -> Callable[[Tensor], Tensor]:
    return lambda x: F.pad(x, amounts, value=value)


def joined(first: Callable[[Tensor], Tensor], last: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Old units between what two functions make of zeros."""
    return lambda x: torch.cat([first(x.new_zeros(x.shape[0], 4)), x, last(x.new_zeros(x.shape[0], 4))], 1)


def same(x: Tensor) -> Tensor:
    return x


def in_halves(x: Tensor) -> Tensor:
    """Each half of the units divided by its length."""
    rows = x.view(-1, 2, 6)
    return (rows / rows.norm(dim=2, keepdim=True)).flatten(1)


def once_over(x: Tensor) -> Tensor:
    """The same zeros, and what is made of them, on both sides."""
    both = x.new_zeros(x.shape[0], 4).cos()
    return torch.cat([both, x, both], 1)


class Along(nn.Module):
    """A convolution over places, of which there is one."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(12, 12, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x[..., None]).flatten(1)


X = torch.zeros(5, 4)
BOTH, APART = (4, 8), (4, 4, 4)
SIDES = pad(4, 4)
CASES: dict[str, Case] = {
    "zeros on both sides": Case(Stream(SIDES), X, BOTH),
    "a number on both sides": Case(Stream(pad(4, 4, value=1.0)), X, BOTH),
    "sides of other sizes": Case(Stream(pad(2, 6)), X, BOTH),
    "one side": Case(Stream(pad(0, 8)), X, BOTH),
    "another number on each side": Case(Stream(lambda x: pad(0, 4, value=1.0)(pad(4, 0)(x))), X, APART),
    # What has inner sides alone is a value too.
    "two in a row": Case(Stream(lambda x: pad(2, 2)(pad(2, 2)(x))), X, (4, 4, 4)),
    "zeros laid beside": Case(Stream(joined(same, same)), X, BOTH),
    "the same of zeros laid beside": Case(Stream(once_over), X, BOTH),
    "other numbers laid beside": Case(Stream(joined(same, torch.ones_like)), X, APART),
    "something done to one side": Case(Stream(joined(same, torch.cos)), X, APART),
    "the number of one side is weights": Case(Stream(joined(same, lambda z: z + 0.5)), X, APART),
    "another constant for one side": Case(
        Stream(SIDES, lambda y: y + torch.cat([y.new_zeros(4), y.new_ones(8)])), X, APART
    ),
    "another constant laid beside": Case(
        Stream(joined(same, same), lambda y: y * torch.cat([y.new_zeros(8), y.new_ones(4)])), X, APART
    ),
    "a constant for all": Case(Stream(SIDES, lambda y: y * y.new_full((12,), 2.0)), X, BOTH),
    "halves by other functions": Case(
        Stream(SIDES, lambda y: torch.cat([y[:, :6].relu(), y[:, 6:].tanh()], 1)), X, (2, 2, 4, 4)
    ),
    "halves swapped": Case(Stream(SIDES, lambda y: torch.cat([y[:, 6:], y[:, :6]], 1)), X, (2, 2, 4, 4)),
    "halves normalised by hand": Case(Stream(SIDES, in_halves), X, (2, 2, 4, 4)),
    "halves normalised": Case(Stream(SIDES, partial(F.group_norm, num_groups=2)), X, (2, 2, 4, 4)),
    "normalised as one group": Case(Stream(SIDES, partial(F.group_norm, num_groups=1)), X, BOTH),
    "normalised": Case(Stream(SIDES, partial(F.layer_norm, normalized_shape=(12,))), X, BOTH),
    "compared with each other": Case(Stream(SIDES, lambda y: y.softmax(1) * y.amax(1, keepdim=True)), X, BOTH),
    "channels by themselves": Case(Stream(SIDES, Along(12)), X, BOTH),
    "channels in halves": Case(Stream(SIDES, Along(2)), X, (2, 2, 4, 4, 6, 6)),
    "with places behind": Case(Stream(SIDES, lambda y: (y[..., None] * torch.arange(1.0, 4)).sin()), X, BOTH),
    "an operation that goes by order": Case(Stream(SIDES, lambda y: y.cumsum(1)), X, ()),
}


@pytest.fixture(scope="module")
def found() -> Derived:
    torch.manual_seed(0)
    return derived(CASES)


@pytest.mark.parametrize("name", CASES)
def test_what_is_known_by_hand_is_found(name: str, found: Derived) -> None:
    case = CASES[name]
    roots, owned = found.sizes(name)
    assert (sorted(roots), sorted(owned)) == (sorted(case.roots), sorted(case.owned)), found.reasons(name)

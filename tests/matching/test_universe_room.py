"""C2M3 where relaxed models are made as they are asked for: the same search, with the memory of a few parameters."""

from __future__ import annotations

import weakref
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

import lmc_fast as lmc
from lmc_fast.matching.engine import universe
from lmc_fast.matching.engine.merge_many import ManyDescent
from lmc_fast.matching.engine.universe import frank_wolfe_many
from lmc_fast.ops.permuted_dot import overlap

SPEC = lmc.PermutationSpec.from_axes(
    {
        "in": ("H", None),
        "mid": ("G", "H"),
        "conv": ("G", "H", None),
        "b": ("G",),
        "out": (None, "G"),
        "one": (None, None),
    }
)
SHAPES = {"in": (9, 4), "mid": (8, 9), "conv": (8, 9, 3), "b": (8,), "out": (3, 8), "one": (2, 2)}


def descent_of(count: int, room: int | None) -> ManyDescent:
    generator = torch.Generator().manual_seed(0)
    states = [{name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()} for _ in range(count)]
    names = list(SHAPES)
    overlaps = {
        (k, m): {name: overlap(states[k][name], states[m][name]) for name in names}
        for k, m in combinations(range(count), 2)
    }
    return ManyDescent(SPEC.bind(states[0]), states, names, overlaps, torch.device("cpu"), room=room)


@pytest.mark.parametrize("count", [2, 4])
def test_it_is_the_same_search(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for kept in (1 << 30, 0):
        monkeypatch.setattr(universe, "KEPT_BYTES", kept)
        descent = descent_of(count, room=0)
        frank_wolfe_many(descent, 0, 5, False)
        found.append(descent.choices)
    for plain, made in zip(*found, strict=True):
        assert all(np.array_equal(plain[name], made[name]) for name in plain)
    assert any(not np.array_equal(choice, np.arange(choice.size)) for of in found[0] for choice in of.values())


@pytest.mark.parametrize(("room", "kept", "keeps"), [(None, 0, True), (0, 0, False), (0, 1 << 30, True)], ids=str)
def test_relaxed_models_are_kept_where_there_is_room(
    room: int | None, kept: int, keeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(universe, "KEPT_BYTES", kept)
    made: list[bool] = []
    plain = universe._Relaxed.__init__

    def noting(self: universe._Relaxed, descent: ManyDescent, m: int, keeps: bool) -> None:
        made.append(keeps)
        plain(self, descent, m, keeps)

    monkeypatch.setattr(universe._Relaxed, "__init__", noting)
    frank_wolfe_many(descent_of(2, room), 0, 1, False)
    assert made == [keeps, keeps]


def test_what_is_held_at_once_is_of_one_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(universe, "KEPT_BYTES", 0)
    made: list[weakref.ref[Tensor]] = []
    alive: list[int] = []
    plain = universe._Relaxed._mixed_on

    def noting(self: universe._Relaxed, name: str, axes: tuple[int, ...]) -> Tensor:
        found = plain(self, name, axes)
        alive.append(sum(one() is not None for one in made))
        # Mixed on none it is the model's own.
        if axes:
            made.append(weakref.ref(found))
        return found

    monkeypatch.setattr(universe._Relaxed, "_mixed_on", noting)
    frank_wolfe_many(descent_of(3, room=0), 0, 2, False)
    assert len(alive) > 100
    # Of each model a parameter on every set of its axes, at most; all of them would be several times as many.
    assert max(alive) <= 3 * 4 + 2


def test_bytes_are_counted_on_every_set_of_axes() -> None:
    descent = descent_of(2, room=0)
    wanted = 0
    for name, shape in SHAPES.items():
        moving = sum(axis.groups != () for axis in SPEC.axes[name])
        wanted += 4 * int(np.prod(shape)) * 2**moving
    assert universe._mixed_bytes(descent) == 2 * wanted

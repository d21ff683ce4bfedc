"""Segments that lie alternately on an axis: where they lie, what moves there, and what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lmc_fast as lmc
from lmc_fast import Group, PermutationSpec, Segment
from lmc_fast.symmetry.kinds import KINDS
from lmc_fast.symmetry.placing import laid, placed
from lmc_fast.symmetry.transforms import Transforms

from .laws import Laws, spec_on, whole, without_places

SIZES = {"a": 3, "b": 3, "c": 6, "pair": 2, "each": 4}
# Which entries each of the segments has, in its own order.
AXES: dict[str, tuple[tuple[Segment, ...], list[list[int]]]] = {
    "two in turn": ((Segment("a", step=2), Segment("b", step=2)), [[0, 2, 4], [1, 3, 5]]),
    "two in turn, one of them in turn itself": (
        (Segment("a", step=4), Segment("c", step=2), Segment("b", step=4)),
        [[0, 4, 8], [1, 3, 5, 7, 9, 11], [2, 6, 10]],
    ),
    "with others end to end": (
        (Segment.fixed(2), Segment("a", step=2), Segment("b", step=2), Segment("c")),
        [[0, 1], [2, 4, 6], [3, 5, 7], [8, 9, 10, 11, 12, 13]],
    ),
    "with what stays": ((Segment("c", step=2), Segment.fixed(6, 2)), [[0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11]]),
    "with entries of each": (
        (Segment("a", inner=2, step=2), Segment("b", outer=2, step=2)),
        [[0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11]],
    ),
    "owned units": ((Segment("each", step=2), Segment.fixed(8, 2)), [list(range(0, 16, 2)), list(range(1, 16, 2))]),
    "one entry with a step": ((Segment.fixed(1, 7), Segment("a")), [[0], [1, 2, 3]]),
}
INSIDE = (Segment("c", inner=(Segment("a", step=2), Segment("b", step=2), Segment.fixed(1))),)


def _spec(axis: tuple[Segment, ...]) -> PermutationSpec:
    return spec_on(axis, SIZES)


def _wanted(spec: PermutationSpec, chosen: lmc.Permutations, entries: list[list[int]]) -> list[int]:
    """Where entries come from: every segment by itself, at the entries that it has."""
    index = np.arange(sum(map(len, entries)))
    for segment, at in zip(spec.axes["w"][0].segments, entries, strict=True):
        alone = _spec((without_places(segment),))
        own = lmc.Permutations(alone, {name: chosen[name] for name in spec.groups}).index("w", 0).numpy()
        index[at] = np.array(at)[own]
    return index.tolist()


class TestPlaces:
    @pytest.mark.parametrize("name", AXES)
    def test_each_takes_the_first_free_entry_and_every_step_from_there(self, name: str) -> None:
        axis, entries = AXES[name]
        found = placed(whole(axis), SIZES)
        assert [place.run.entries.tolist() for place in found] == entries

    @pytest.mark.parametrize("name", AXES)
    def test_entries_move_within_their_segment(self, name: str) -> None:
        spec = _spec(AXES[name][0])
        for seed in range(3):
            chosen = lmc.Permutations.random(spec, seed)
            assert chosen.index("w", 0).tolist() == _wanted(spec, chosen, AXES[name][1])

    def test_inside_a_unit(self) -> None:
        spec = _spec(INSIDE)
        chosen = lmc.Permutations.random(spec, 3)
        a, b, c = (chosen[name].tolist() for name in "abc")
        inside = [2 * a[0], 2 * b[0] + 1, 2 * a[1], 2 * b[1] + 1, 2 * a[2], 2 * b[2] + 1, 6]
        assert chosen.index("w", 0).tolist() == [7 * unit + entry for unit in c for entry in inside]

    def test_what_is_laid_together_was_there(self) -> None:
        whole = torch.arange(24.0).reshape(2, 12)
        places = placed(AXES["two in turn, one of them in turn itself"][0], SIZES)
        assert torch.equal(laid([place.of(whole, 1) for place in places], places, 1), whole)
        assert places[0].of(whole, -1).data_ptr() == whole.data_ptr()


SPECS = {name: _spec(axis) for name, axis in {**{k: v[0] for k, v in AXES.items()}, "inside units": INSIDE}.items()}


@pytest.mark.parametrize("name", SPECS)
class TestLaws(Laws):
    SPECS = SPECS


class TestEdited:
    SPEC = _spec(AXES["two in turn, one of them in turn itself"][0])

    def test_what_is_pinned_stays_where_it_lies(self) -> None:
        pinned = self.SPEC.edit(pin=["c"])
        assert [(each.group, each.step) for each in pinned.axes["w"][0].segments] == [("a", 4), (None, 2), ("b", 4)]
        index = lmc.Permutations.random(pinned, 1).index("w", 0).numpy()
        assert (index[1::2] == np.arange(12)[1::2]).all()
        assert (index[0::2] != np.arange(12)[0::2]).any()

    def test_owned_units_that_are_pinned_stay_where_they_lie(self) -> None:
        axis = (Segment("pair", inner=(Segment("each", step=2), Segment.fixed(4, 2))),)
        pinned = _spec(axis).edit(pin=["each"])
        (segment,) = pinned.axes["w"][0].segments
        assert segment == Segment("pair", inner=8)

    def test_others_names(self) -> None:
        renamed = self.SPEC.edit(rename={"a": "left"})
        assert renamed.axes["w"][0].segments[0] == Segment("left", step=4)

    def test_it_is_told(self) -> None:
        assert "c: 6, on w, c" in str(self.SPEC.explain())


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ((Segment("a", step=2), Segment("c")), r"axis 0 of parameter 'w': 6 entries in steps of 1 do not fit"),
        ((Segment("a", step=3), Segment("b", step=2)), r"3 entries in steps of 3 do not fit"),
        ((Segment("c", inner=(Segment("a", step=2),)),), r"axis 0 of parameter 'w': 3 entries in steps of 2"),
    ],
    ids=["end to end between", "too far apart", "inside a unit"],
)
def test_what_does_not_fill_an_axis_is_named(axis: tuple[Segment, ...], message: str) -> None:
    sizes = {name: size for name, size in SIZES.items() if name in "abc"}
    entries = sum(sizes[str(each.group)] * (3 if isinstance(each.inner, tuple) else 1) for each in axis)
    state = {"w": torch.zeros(entries)} | {name: torch.zeros(size) for name, size in sizes.items()}
    with pytest.raises(ValueError, match=message):
        PermutationSpec.from_axes({"w": (axis,)} | {name: (name,) for name in sizes}, model=state)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Segment("a", step=0), ValueError),
        (lambda: Segment("a", step=1.5), TypeError),  # type: ignore[arg-type]
        (lambda: Segment.fixed(None, 2), ValueError),
    ],
    ids=["zero", "a fraction", "a whole axis"],
)
def test_steps_that_are_none(make: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="step"):
        make()  # type: ignore[operator]


def test_text_of_before_has_no_steps() -> None:
    """What has none is written as it was, and read as lying end to end."""
    spec = _spec((Segment("a"), Segment("b", inner=2)))
    assert "step" not in spec.to_json()
    assert PermutationSpec.from_json(spec.to_json()).axes["w"][0].segments[1].step == 1


def test_turned_units_in_turn() -> None:
    """Of any kind: what turns lies as what permutes does."""
    spec = PermutationSpec.from_axes(
        {"w": ((Segment("a", step=2), Segment("b", step=2)),), "a": ("a",), "b": ("b",)},
        [Group("a", 3, kind="orthogonal"), Group("b", 3)],
        model={"w": torch.zeros(6), "a": torch.zeros(3), "b": torch.zeros(3)},
    )
    element = KINDS["orthogonal"].random((3,), np.random.default_rng(0))
    chosen = Transforms(spec, {"a": element, "b": torch.tensor([2, 0, 1])})
    w = torch.arange(6.0, dtype=torch.float64)
    moved = chosen.apply_to("w", w)
    a = Transforms(spec, {"a": element, "b": torch.arange(3)}).apply_to("a", w[0::2])
    assert torch.allclose(moved[0::2], a)
    assert moved[1::2].tolist() == [5.0, 1.0, 3.0]

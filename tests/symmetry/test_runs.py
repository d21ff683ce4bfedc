"""Units of one group in several runs of an axis: where they lie, what moves there, and what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lmc_fast as lmc
from lmc_fast import Axis, Group, PermutationSpec, Segment
from lmc_fast.symmetry.kinds import KINDS
from lmc_fast.symmetry.placing import Run, laid, placed
from lmc_fast.symmetry.transforms import Transforms

from .laws import Laws, spec_on, whole, without_places

SIZES = {"a": 5, "b": 3, "c": 4, "pair": 2, "each": 3}
# Which entries each of the segments has, in its own order.
AXES: dict[str, tuple[tuple[Segment, ...], list[list[int]]]] = {
    "around another": ((Segment("a", runs=(2, 3, 3)), Segment("b")), [[0, 1, 5, 6, 7], [2, 3, 4]]),
    "around one that is around another": (
        (Segment("a", runs=(2, 7, 3)), Segment("c", runs=(2, 3, 2)), Segment("b")),
        [[0, 1, 9, 10, 11], [2, 3, 7, 8], [4, 5, 6]],
    ),
    "across another": ((Segment("a", runs=(2, 2, 3)), Segment("c", runs=(2, 3, 2))), [[0, 1, 4, 5, 6], [2, 3, 7, 8]]),
    "in three runs": (
        (Segment.fixed(1), Segment("a", runs=(1, 2, 2, 2, 2)), Segment("c", runs=(2, 2, 2)), Segment("b")),
        [[0], [1, 4, 5, 8, 9], [2, 3, 6, 7], [10, 11, 12]],
    ),
    "with entries of each": (
        (Segment("a", outer=2, inner=2, runs=(7, 3, 13)), Segment("b")),
        [[*range(7), *range(10, 23)], [7, 8, 9]],
    ),
    "around what stays": ((Segment("a", runs=(4, 2, 1)), Segment.fixed(2)), [[0, 1, 2, 3, 6], [4, 5]]),
    "what stays around": ((Segment.fixed(3, runs=(1, 5, 2)), Segment("a")), [[0, 6, 7], [1, 2, 3, 4, 5]]),
    "beside some in turn": (
        (Segment("a", runs=(3, 8, 2)), Segment("c", step=2), Segment.fixed(4, 2)),
        [[0, 1, 2, 11, 12], [3, 5, 7, 9], [4, 6, 8, 10]],
    ),
    "owned units": (
        (Segment("each", runs=(2, 5, 4)), Segment("a")),
        [[0, 1, 7, 8, 9, 10], [2, 3, 4, 5, 6]],
    ),
}
INSIDE = (Segment("c", inner=(Segment("a", runs=(2, 3, 3)), Segment("b"))),)


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
    def test_each_takes_the_first_free_entry_and_leaves_its_gaps(self, name: str) -> None:
        axis, entries = AXES[name]
        assert [place.run.entries.tolist() for place in placed(whole(axis), SIZES)] == entries

    @pytest.mark.parametrize("name", AXES)
    def test_entries_move_within_their_segment(self, name: str) -> None:
        spec = _spec(AXES[name][0])
        for seed in range(3):
            chosen = lmc.Permutations.random(spec, seed)
            assert chosen.index("w", 0).tolist() == _wanted(spec, chosen, AXES[name][1])

    def test_units_of_both_runs_change_places(self) -> None:
        spec = _spec(AXES["around another"][0])
        chosen = lmc.Permutations(spec, {"a": [4, 1, 2, 3, 0]})
        assert chosen.apply_to("w", torch.arange(16.0).reshape(8, 2))[:, 0].tolist() == [14, 2, 4, 6, 8, 10, 12, 0]
        assert chosen.inverse().apply_to("w", chosen.apply_to("w", torch.ones(8, 2))).eq(1).all()

    @pytest.mark.parametrize("kind", ["tensor", "array"])
    def test_what_is_taken_and_put(self, kind: str) -> None:
        run, whole = Run(1, 3, runs=(1, 2, 2)), np.arange(14).reshape(2, 7)
        x = torch.from_numpy(whole.copy()) if kind == "tensor" else whole.copy()
        assert run.of(x, -1).tolist() == [[1, 4, 5], [8, 11, 12]]
        run.put(x, -1, -run.of(x, 1))
        assert x.tolist() == [[0, -1, 2, 3, -4, -5, 6], [7, -8, 9, 10, -11, -12, 13]]

    def test_what_is_laid_together_was_there(self) -> None:
        whole = torch.arange(24.0).reshape(2, 12)
        places = placed(AXES["around one that is around another"][0], SIZES)
        assert torch.equal(laid([place.of(whole, 1) for place in places], places, 1), whole)


SPECS = {name: _spec(axis) for name, axis in {**{k: v[0] for k, v in AXES.items()}, "inside units": INSIDE}.items()}


@pytest.mark.parametrize("name", SPECS)
class TestLaws(Laws):
    SPECS = SPECS

    def test_runs_are_written_where_there_are_some(self, name: str) -> None:
        assert '"runs"' in self.SPECS[name].to_json()


class TestEdited:
    SPEC = _spec(AXES["around one that is around another"][0])

    @pytest.mark.parametrize("group", ["a", "b", "c"])
    def test_what_is_pinned_stays_where_it_lies(self, group: str) -> None:
        pinned = self.SPEC.edit(pin=[group])
        entries = AXES["around one that is around another"][1]["acb".index(group)]
        index = lmc.Permutations.random(pinned, 1).index("w", 0).numpy()
        rest = np.setdiff1d(np.arange(12), entries)
        assert (index[entries] == entries).all()
        assert (index[rest] != rest).any()

    def test_owned_units_that_are_pinned_stay_where_they_lie(self) -> None:
        axis = (Segment("pair", inner=(Segment("each", runs=(1, 2, 2)), Segment.fixed(2))),)
        (segment,) = _spec(axis).edit(pin=["each"]).axes["w"][0].segments
        assert segment == Segment("pair", inner=5)

    def test_others_names(self) -> None:
        renamed = self.SPEC.edit(rename={"a": "outside"})
        assert renamed.axes["w"][0].segments[0] == Segment("outside", runs=(2, 7, 3))

    def test_it_is_told(self) -> None:
        assert "a: 5, on w, a" in str(self.SPEC.explain())


def _bound(*axes: tuple[str, tuple[Segment, ...], int]) -> PermutationSpec:
    state = {name: torch.zeros(entries) for name, _, entries in axes}
    return PermutationSpec.from_axes({name: (axis,) for name, axis, _ in axes}, model=state)


class TestSizes:
    def test_open_sizes_are_those_of_all_runs(self) -> None:
        spec = _bound(("w", (Segment("a", runs=(2, 3, 3)), Segment("b")), 8), ("b", (Segment("b"),), 3))
        assert spec.sizes == {"a": 5, "b": 3}

    @pytest.mark.parametrize(
        ("axis", "entries", "message"),
        [
            ((Segment("a", runs=(2, 3, 2)), Segment("b")), 8, r"runs \(2, 3, 2\) hold 4 entries of a Segment that has"),
            ((Segment("a", runs=(2, 4, 3)), Segment("b")), 8, r"5 entries in runs \(2, 4, 3\) do not fit beside the"),
            ((Segment("a", runs=(2, 2, 3)), Segment("b")), 8, r"3 entries in steps of 1 do not fit beside the other"),
            ((Segment("b", inner=(Segment("a", runs=(2, 3, 3)),)),), 15, r"5 entries in runs \(2, 3, 3\) do not fit"),
        ],
        ids=["fewer than units", "beyond the end", "a gap that is too short", "inside a unit"],
    )
    def test_what_does_not_fill_an_axis_is_named(self, axis: tuple[Segment, ...], entries: int, message: str) -> None:
        with pytest.raises(ValueError, match=rf"axis 0 of parameter 'w': {message}"):
            _bound(("w", axis, entries), ("a", (Segment("a"),), 5), ("b", (Segment("b"),), 3))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Segment("a", runs=(4, 8)), ValueError, r"runs with a gap between each two, as \(4, 8, 4\) is, got"),
        (lambda: Segment("a", runs=(4,)), ValueError, "runs with a gap between each two"),
        (lambda: Segment("a", runs=(4, 0, 4)), ValueError, "a number of Segment.runs must be"),
        (lambda: Segment("a", runs=(4, 1.5, 4)), TypeError, "a number of Segment.runs must be"),  # type: ignore[arg-type]
        (lambda: Segment("a", runs=4), TypeError, "Segment.runs must be a tuple of integers"),  # type: ignore[arg-type]
        (lambda: Segment("a", step=2, runs=(4, 8, 4)), ValueError, "takes runs or a step, got runs"),
        (lambda: Segment.fixed(None, runs=(4, 8, 4)), ValueError, "with a step or runs needs its length"),
    ],
    ids=["a gap at the end", "one run", "an empty gap", "a fraction", "a number", "with a step", "a whole axis"],
)
def test_runs_that_are_none(make: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()  # type: ignore[operator]


def test_runs_in_text_that_are_none() -> None:
    text = '{"w": [[{"group": "a", "runs": [1, 2]}, {"fixed": 2}]]}'
    with pytest.raises(ValueError, match=r"parameter 'w': Segment.runs must be runs with a gap"):
        PermutationSpec.from_json(text)


def test_text_of_before_has_no_runs() -> None:
    spec = _spec((Segment("a"), Segment("b", inner=2)))
    assert "runs" not in spec.to_json()
    assert all(not each.runs for each in PermutationSpec.from_json(spec.to_json()).axes["w"][0].segments)


@pytest.mark.parametrize("kind", ["orthogonal", "orthogonal_keeping_ones", "signed"])
def test_units_of_any_kind(kind: str) -> None:
    """What turns lies as what permutes does."""
    axis, entries = AXES["around another"]
    axes: dict[str, tuple[Axis | str, ...]] = {"w": (Axis(axis),), "a": ("a",), "b": ("b",)}
    state = {"w": torch.zeros(8), "a": torch.zeros(5), "b": torch.zeros(3)}
    spec = PermutationSpec.from_axes(axes, [Group("a", 5, kind=kind), Group("b", 3)], model=state)
    element = KINDS[kind].random((5,), np.random.default_rng(0))
    chosen = Transforms(spec, {"a": element, "b": torch.tensor([2, 0, 1])})
    w = torch.arange(8.0, dtype=torch.float64)
    moved = chosen.apply_to("w", w)
    assert torch.allclose(moved[entries[0]], chosen.apply_to("a", w[entries[0]]))
    assert moved[entries[1]].tolist() == [4.0, 2.0, 3.0]

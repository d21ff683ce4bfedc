"""The words in which a symmetry is said: groups of exchangeable units, and the axes that they show up on.

A group is a set of hidden units that can be exchanged without changing the network's function. A parameter's
axis is made of segments, end to end, alternately, or around each other; a segment is fixed, or is a view of a group:
its index splits as (outer, unit, inner), where `outer` repeats before the unit and `inner` entries belong to each unit.
A group may own groups (a head owns its value dimensions): exchanging two units of the owner carries what they own.

Segments lie inside one another. A group's owners always lie around it. What else lies around it does not own it: one
order of its units serves all units there. So it is with two groups of one owner (the value dimensions of a key/value
head are in one order for all its query heads), and with groups that have no owner.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from .._checks import check_int, check_type, fail_type
from .kinds import KINDS

__all__ = ["Axis", "AxisLike", "Group", "Segment", "as_axis", "axis_size", "walk"]


@dataclass(frozen=True)
class Group:
    """A set of exchangeable units.

    Attributes:
        name: what segments call it by.
        size: how many units; of an owned group, how many in each unit of its owner. None: taken from the model
            that the spec is bound to.
        owner: name of the group whose units own these, or None.
        kind: what its units may do: "permutation" (change places), "signed" (change places and signs), "orthogonal"
            (turn, by any orthogonal map of the axis), "orthogonal_keeping_ones" (by one that keeps the vector of ones,
            as a LayerNorm asks for), or "phases" (its units are planes of two entries each, the view's outer or inner
            ones, that turn by an angle each: what rotary embedding leaves). See `symmetry.kinds`.
    """

    name: str
    size: int | None = None
    owner: str | None = None
    kind: str = "permutation"

    def __post_init__(self) -> None:
        check_type("Group.name", self.name, str, "a string")
        if self.size is not None:
            check_int(f"size of group {self.name!r}", self.size, 1)
        if self.owner is not None:
            check_type(f"owner of group {self.name!r}", self.owner, str, "a group's name or None")
        check_type(f"kind of group {self.name!r}", self.kind, str, "a string")
        if self.kind not in KINDS:
            names = ", ".join(map(repr, KINDS))
            raise ValueError(f"kind of group {self.name!r} must be one of {names}, got {self.kind!r}")


@dataclass(frozen=True)
class Segment:
    """A run of entries of an axis: fixed, or a view of a group.

    Attributes:
        group: the group's name; None for a run of fixed entries.
        outer: how often the units repeat before each other (a view's index is (outer, unit, inner)).
        inner: what each unit holds: a number of entries, or segments. All owners of a group lie around it (those that
            are left out are put there, right around it); what lies around it besides shares one order of its units.
        length: of a fixed run, its number of entries; None: the whole axis, whatever its size.
        step: how far apart its entries lie. Segments are laid down in order: each takes the first entry that none
            before it has, and every step-th from there. With steps of 1 they lie end to end.
        runs: where its entries do not lie in one run: how many lie together, how many entries of the axis follow that
            are not its own, how many of its own come then, and so on; from the first free entry, as with steps. What
            comes after it in order is laid into the gaps.

    Examples:
        ``Segment("channels", inner=49)``: the input axis of a Linear behind the flatten of 7 x 7 maps.
        ``Segment("head", inner=(Segment("query_key"), Segment("query_key"), Segment("value")))``: the output axis
        of a fused projection that keeps query, key and value of a head side by side.
        ``Segment("query", inner=(Segment("value"),))``, both groups owned by a key/value head: the input axis of the
        output projection of grouped-query attention, where all query heads of a group read the same value dimensions.
        ``Segment("a", step=2), Segment("b", step=2)``: units of two branches laid alternately, as a channel shuffle
        leaves them.
        ``Segment("new", runs=(4, 8, 4)), Segment("old")``: 16 channels behind a shortcut that was padded with zeros on
        both sides: the 8 new ones lie half ahead of the 8 old ones and half behind them.
    """

    group: str | None = None
    outer: int = 1
    inner: int | tuple[Segment, ...] = 1
    length: int | None = None
    step: int = 1
    runs: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_int("Segment.step", self.step, 1)
        self._read_runs()
        if self.group is None:
            if (self.step != 1 or self.runs) and self.length is None:
                raise ValueError("a fixed Segment with a step or runs needs its length")
            if self.outer != 1 or self.inner != 1:
                raise ValueError("a Segment without a group takes a length only, got outer or inner as well")
            if self.length is not None:
                check_int("Segment.length", self.length, 0)
            return
        check_type("Segment.group", self.group, str, "a group's name or None")
        if self.length is not None:
            raise ValueError(f"the Segment of group {self.group!r} takes outer and inner, got a length as well")
        check_int(f"outer of the Segment of group {self.group!r}", self.outer, 1)
        if isinstance(self.inner, (tuple, list)):
            object.__setattr__(self, "inner", tuple(self.inner))
            for part in self.parts:
                check_type(f"inner of the Segment of group {self.group!r}", part, Segment, "an int or Segments")
                if part.group is None and part.length is None:
                    raise ValueError(f"a fixed Segment inside group {self.group!r} needs its length")
            if not self.parts:
                raise ValueError(f"inner of the Segment of group {self.group!r} must not be empty")
        else:
            check_int(f"inner of the Segment of group {self.group!r}", self.inner, 1)

    def _read_runs(self) -> None:
        if not isinstance(self.runs, (tuple, list)):
            fail_type("Segment.runs", "a tuple of integers", self.runs)
        for number in self.runs:
            check_int("a number of Segment.runs", number, 1)
        object.__setattr__(self, "runs", tuple(self.runs))
        if self.runs and (len(self.runs) < 3 or len(self.runs) % 2 == 0):
            raise ValueError(f"Segment.runs must be runs with a gap between each two, as (4, 8, 4) is, got {self.runs}")
        if self.runs and self.step != 1:
            raise ValueError(f"a Segment takes runs or a step, got runs {self.runs} and step {self.step}")

    @classmethod
    def fixed(cls, length: int | None = None, step: int = 1, runs: tuple[int, ...] = ()) -> Segment:
        """A run of `length` entries that never move; without a length, a whole axis of any size."""
        return cls(length=length, step=step, runs=runs)

    @property
    def is_in_one(self) -> bool:
        """Whether its entries lie together."""
        return self.step == 1 and not self.runs

    @cached_property
    def parts(self) -> tuple[Segment, ...]:
        """What each unit holds, as segments: `inner` itself, or one fixed run of `inner` entries."""
        return self.inner if isinstance(self.inner, tuple) else (Segment.fixed(self.inner),)


@dataclass(frozen=True)
class Axis:
    """One axis of a parameter: segments laid end to end, alternately where they have steps, or in gaps of others.

    Attributes:
        segments: the segments, in order.
        dims: how many consecutive tensor dimensions the axis spans, taken as one. More than one is for stacked
            weights, as [experts, hidden, width], where what dimension 1 means depends on the place in dimension 0.
    """

    segments: tuple[Segment, ...] = (Segment(),)
    dims: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.segments, (tuple, list)):
            fail_type("Axis.segments", "a tuple of Segments", self.segments)
        object.__setattr__(self, "segments", tuple(self.segments))
        for segment in self.segments:
            check_type("Axis.segments", segment, Segment, "a tuple of Segments")
        check_int("Axis.dims", self.dims, 1)
        if not self.segments:
            raise ValueError("Axis.segments must hold one Segment at least, got none")
        if len(self.segments) > 1 and any(s.group is None and s.length is None for s in self.segments):
            raise ValueError("a fixed Segment beside others on an Axis needs its length")

    @cached_property
    def is_fixed(self) -> bool:
        """Whether no entry of the axis ever moves."""
        return all(segment.group is None for segment in self.segments)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Names of all groups on the axis, owned ones included, each once."""
        return tuple(dict.fromkeys(s.group for s in walk(self.segments) if s.group is not None))


AxisLike = Axis | Segment | str | None | tuple[Segment, ...] | list[Segment]


def as_axis(argument: str, value: AxisLike) -> Axis:
    """Read an axis from its short forms: None (fixed), a group's name, a Segment, a sequence of Segments."""
    if isinstance(value, Axis):
        return value
    if value is None:
        return Axis()
    if isinstance(value, str):
        return Axis((Segment(value),))
    if isinstance(value, Segment):
        return Axis((value,))
    if not isinstance(value, (tuple, list)):
        fail_type(argument, "None, a group's name, a Segment, a sequence of Segments, or an Axis", value)
    return Axis(tuple(value))


def walk(segments: tuple[Segment, ...]) -> Iterator[Segment]:
    """All segments, those inside others included, outer ones first."""
    for segment in segments:
        yield segment
        if isinstance(segment.inner, tuple):
            yield from walk(segment.inner)


def axis_size(segments: tuple[Segment, ...], sizes: Mapping[str, int]) -> int:
    """Number of entries of segments laid end to end, with `sizes` units a group (within one unit of its owner)."""
    total = 0
    for segment in segments:
        if segment.group is None:
            total += segment.length or 0
        else:
            total += segment.outer * sizes[segment.group] * axis_size(segment.parts, sizes)
    return total

"""Where a group's units lie in a parameter: strided views, so that nobody else has to know about segments."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .groups import Segment, axis_size, walk
from .placing import Run, placed
from .spec import PermutationSpec

__all__ = ["Leaf", "Units", "axis_orbits", "check_owners_around", "groups_of", "leaves", "taken_together"]

# The units that a gain is of: those of a group, in all units of its owners; or, by all groups that lie around some
# entries, owners first, those of groups inside each other of which the outer one does not own the inner.
Units = str | tuple[str, ...]
_Level = tuple[Run, int, int, int]


@dataclass(frozen=True)
class Leaf:
    """Entries of one axis that belong to the same groups, as some root groups and what they own move them.

    Attributes:
        parameter, axis: which axis (of the spec's).
        roots: the root groups that move these units; one, unless several that lie inside each other are taken as one.
        group: whose units.
        around: the groups around the entries, from the outermost in.
        levels: for each of these (run, outer, units, inner): which entries of the axis, or of one unit of the level
            above, its view covers.
        tail: which entries of one unit of the innermost group.
        turning: the levels that run over the units of `group`, its owners' first.
        beside: the other root groups that move levels.
    """

    parameter: str
    axis: int
    roots: tuple[str, ...]
    group: Units
    around: tuple[str, ...]
    levels: tuple[_Level, ...]
    tail: Run
    turning: tuple[int, ...]
    beside: tuple[str, ...] = ()

    @property
    def unit_dims(self) -> tuple[int, ...]:
        """Dimensions of `view` that run over the units, the root's first."""
        return tuple(self.axis + 1 + 2 * level for level in self.turning)

    @property
    def unit_count(self) -> int:
        """How many units a gain over the leaf has."""
        return math.prod(self.levels[level][2] for level in self.turning)

    @property
    def added_dims(self) -> int:
        """How many dimensions `view` has more than the parameter has axes; they follow dimension `axis`."""
        return 2 * len(self.levels)

    def view(self, tensor: Tensor) -> Tensor:
        """The leaf's part of a parameter (one dimension for each axis), the axis split at every level.

        It shares the parameter's memory, unless entries lie in several runs.
        """
        dim = self.axis
        for run, *sizes in self.levels:
            tensor = torch.unflatten(run.of(tensor, dim), dim, sizes)
            dim += 2
        part: Tensor = self.tail.of(tensor, dim)
        return part


def leaves(spec: PermutationSpec, root: str) -> Sequence[Leaf]:
    """All leaves of a root group and of what it owns, over all parameters of a bound spec."""
    known: dict[str, tuple[Leaf, ...]] = spec.worked_out.setdefault("leaves", {})
    if root not in known:
        known[root] = tuple(_leaves(spec, root))
    return known[root]


def _leaves(spec: PermutationSpec, root: str) -> Iterator[Leaf]:
    for parameter, axes in spec.axes.items():
        for position, axis in enumerate(axes):
            if root in axis.groups:
                for around, levels, tail in _split(axis.segments, (), (), spec):
                    if any(spec.root_of(name) == root for name in around):
                        yield _leaf(spec, parameter, position, around, levels, tail, (root,))


def taken_together(spec: PermutationSpec, leaf: Leaf, roots: Collection[str]) -> Leaf:
    """A leaf's entries, as all these root groups move them together."""
    those = tuple(root for root in (*leaf.roots, *leaf.beside) if root in roots)
    return _leaf(spec, leaf.parameter, leaf.axis, leaf.around, leaf.levels, leaf.tail, tuple(sorted(those)))


def _leaf(
    spec: PermutationSpec,
    parameter: str,
    axis: int,
    around: tuple[str, ...],
    levels: tuple[_Level, ...],
    tail: Run,
    roots: tuple[str, ...],
) -> Leaf:
    of = [spec.root_of(name) for name in around]
    turning = [level for level, root in enumerate(of) if root in roots]
    # Owners before what they own, whatever lies around what.
    turning.sort(key=lambda level: (len(spec.chain(around[level])), around[level]))
    names = tuple(around[level] for level in turning)
    group: Units = names[-1] if spec.chain(names[-1]) == names else names
    beside = tuple(dict.fromkeys(root for root in of if root not in roots))
    return Leaf(parameter, axis, roots, group, around, levels, tail, tuple(turning), beside)


def groups_of(spec: PermutationSpec, units: Units) -> tuple[str, ...]:
    """The groups whose units these are, owners first."""
    return spec.chain(units) if isinstance(units, str) else units


def check_owners_around(spec: PermutationSpec, what: str) -> None:
    """Raise ValueError, naming a parameter, where a group lies inside one that does not own it.

    Args:
        what: the option that does not take this.
    """
    for name, outer, inner in _not_owning(spec):
        raise ValueError(
            f"{what} takes groups inside their owners alone, and on {name!r} group {inner!r} lies inside {outer!r}, "
            "which does not own it"
        )


def _not_owning(spec: PermutationSpec) -> Iterator[tuple[str, str, str]]:
    """(parameter, outer, inner) for groups that lie right inside one that does not own them."""
    for parameter, axes in spec.axes.items():
        for axis in axes:
            for segment in walk(axis.segments):
                if segment.group is not None:
                    for part in segment.parts:
                        if part.group is not None and spec.groups[part.group].owner != segment.group:
                            yield parameter, segment.group, part.group


def axis_orbits(spec: PermutationSpec, segments: tuple[Segment, ...], groups: Collection[str]) -> NDArray[np.int64]:
    """For each entry of an axis a label from 0 up, one label for the entries that these groups exchange."""
    found, offset = np.zeros(axis_size(segments, spec.sizes), dtype=np.int64), 0
    for place in placed(segments, spec.sizes):
        segment = place.segment
        if segment.group is None:
            labels = np.arange(segment.length or 0, dtype=np.int64)
        else:
            inside = axis_orbits(spec, segment.parts, groups)
            units = spec.sizes[segment.group]
            # [outer, units]: an exchanged unit's entries are labelled as those of any other.
            runs = np.arange(segment.outer * units, dtype=np.int64).reshape(segment.outer, units)
            if segment.group in groups:
                runs = np.broadcast_to(np.arange(segment.outer, dtype=np.int64)[:, None], runs.shape)
            labels = (runs[..., None] * (inside.max(initial=-1) + 1) + inside).reshape(-1)
        place.run.put(found, 0, labels + offset)
        offset += int(labels.max(initial=-1)) + 1
    return found


def _split(
    segments: tuple[Segment, ...], around: tuple[str, ...], levels: tuple[_Level, ...], spec: PermutationSpec
) -> Iterator[tuple[tuple[str, ...], tuple[_Level, ...], Run]]:
    """Runs of entries inside groups: the groups around them from the outermost in, their levels, the run."""
    for place in placed(segments, spec.sizes):
        segment = place.segment
        if segment.group is None:
            if around and place.length:
                yield around, levels, place.run
        else:
            inner = axis_size(segment.parts, spec.sizes)
            level = (place.run, segment.outer, spec.sizes[segment.group], inner)
            yield from _split(segment.parts, (*around, segment.group), (*levels, level), spec)

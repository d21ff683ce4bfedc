"""Axes as they are given to a spec: short forms read, owned groups put inside their owners, and what may not be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from .._checks import check_int, check_type, fail_type
from .folds import Centre, Fold, names_of
from .groups import Axis, Group, Segment, as_axis

__all__ = ["check_folds", "check_owners", "read_axes", "read_groups", "read_places", "with_owners"]


def read_axes(argument: str, given: object) -> dict[str, tuple[Axis, ...]]:
    """Axes by name, from their short forms."""
    if not isinstance(given, Mapping):
        fail_type(argument, "a mapping from parameter names to axes", given)
    axes: dict[str, tuple[Axis, ...]] = {}
    for name, entries in given.items():
        check_type(f"a parameter name of {argument}", name, str, "a string")
        if isinstance(entries, str) or not isinstance(entries, Sequence):
            fail_type(f"{argument}[{name!r}]", "a tuple with one entry for each dimension", entries)
        axes[name] = tuple(as_axis(f"{argument}[{name!r}][{i}]", entry) for i, entry in enumerate(entries))
    return axes


def read_groups(given: object, entries: Iterable[tuple[Axis, ...]]) -> dict[str, Group]:
    """The groups that are given, by name, and then those that axes name beside them."""
    check_type("groups", given, Mapping, "a mapping from names to Groups")
    assert isinstance(given, Mapping)
    groups: dict[str, Group] = {}
    for name, group in given.items():
        check_type(f"groups[{name!r}]", group, Group, "a Group")
        if group.name != name:
            raise ValueError(f"groups[{name!r}] must be the group of that name, got {group.name!r}")
        groups[name] = group
    for axes in entries:
        for axis in axes:
            for name in axis.groups:
                groups.setdefault(name, Group(name))
    return groups


def read_places(
    perm_to_axes: Mapping[str, Sequence[tuple[str, int]]], tensors: Mapping[str, Tensor]
) -> dict[str, list[str | None]]:
    """Axes by name, from the axes that each group is on."""
    check_type("perm_to_axes", perm_to_axes, Mapping, "a mapping from groups to (parameter, axis) pairs")
    axes: dict[str, list[str | None]] = {
        name: [None] * tensor.ndim for name, tensor in tensors.items() if tensor.is_floating_point()
    }
    for group, places in perm_to_axes.items():
        for place in places:
            if not isinstance(place, Sequence) or isinstance(place, str) or len(place) != 2:
                fail_type(f"perm_to_axes[{group!r}]", "(parameter, axis) pairs", place)
            name, axis = place[0], check_int(f"the axis in perm_to_axes[{group!r}]", place[1], 0)
            if name not in axes:
                raise ValueError(f"perm_to_axes[{group!r}] names parameter {name!r}, which the model lacks")
            if axis >= len(axes[name]):
                raise ValueError(f"perm_to_axes[{group!r}] names axis {axis} of {name!r}, which has {len(axes[name])}")
            if axes[name][axis] is not None:
                raise ValueError(
                    f"axis {axis} of parameter {name!r} is named twice: by {axes[name][axis]!r} and {group!r}"
                )
            axes[name][axis] = group
    return axes


def check_folds(folds: Iterable[Fold | Centre], axes: Mapping[str, tuple[Axis, ...]]) -> None:
    for fold in folds:
        unknown = next((name for name in names_of(fold, axes) if name not in axes), None)
        if unknown is not None:
            raise ValueError(f"folds must name parameters of the spec, got {unknown!r}")
        if isinstance(fold, Fold) and not all(axis.is_fixed for axis in axes[fold.weight]):
            raise ValueError(f"axis 0 of {fold.weight!r} must be fixed, since folds leave it the same everywhere")


def check_owners(groups: Mapping[str, Group]) -> None:
    for name, group in groups.items():
        chain = [name]
        while group.owner is not None:
            if group.owner not in groups:
                raise ValueError(f"group {group.name!r} is owned by {group.owner!r}, which is no group of the spec")
            if group.owner in chain:
                raise ValueError(f"groups own each other in a circle: {' -> '.join([*chain, group.owner])}")
            chain.append(group.owner)
            group = groups[group.owner]


def with_owners(axis: Axis, groups: Mapping[str, Group], parameter: str) -> Axis:
    """An axis with every owned group inside its owner; itself where nothing on it is owned, as most are, with what it
    knows of itself."""
    segments = _nested(axis.segments, (), groups, parameter)
    return axis if segments == axis.segments else replace(axis, segments=segments)


def _nested(
    segments: tuple[Segment, ...], around: tuple[str, ...], groups: Mapping[str, Group], parameter: str
) -> tuple[Segment, ...]:
    """`segments` with every owned group inside its owner, so that the flat short form needs no code of its own.

    Args:
        around: the groups that these segments lie inside, outermost first.
    """
    found = []
    for segment in segments:
        if segment.group is not None:
            segment = _inside_owners(segment, around, groups, parameter)
            here = str(segment.group)
            if here in around:
                raise ValueError(f"parameter {parameter!r}: group {here!r} stands inside itself")
            if isinstance(segment.inner, tuple):
                segment = replace(segment, inner=_nested(segment.inner, (*around, here), groups, parameter))
        found.append(segment)
    return tuple(found)


def _inside_owners(segment: Segment, around: tuple[str, ...], groups: Mapping[str, Group], parameter: str) -> Segment:
    """A segment inside those of its group's owners that are not around it yet."""
    name = str(segment.group)
    owner = groups[name].owner
    while owner is not None and owner not in around:
        inside = replace(segment, outer=1, step=1, runs=())
        segment = Segment(owner, segment.outer, (inside,), step=segment.step, runs=segment.runs)
        owner = groups[owner].owner
    if owner is None and around and segment.group != name:
        raise ValueError(
            f"parameter {parameter!r}: group {name!r} stands inside {around[-1]!r}, but not inside "
            f"{groups[name].owner!r}, which owns it"
        )
    return segment

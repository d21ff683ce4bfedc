"""A spec with what its owner knows better."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from .._checks import check_type, fail_type
from .explain import Origin, without
from .groups import Axis, AxisLike, Group, Segment, as_axis, axis_size
from .patterns import expanded

if TYPE_CHECKING:
    from .spec import PermutationSpec

__all__ = ["edited", "pinned"]


def edited(
    spec: PermutationSpec,
    axes: Mapping[str, Sequence[AxisLike]],
    groups: Iterable[Group],
    pin: Iterable[str],
    rename: Mapping[str, str],
) -> PermutationSpec:
    """The spec with some groups pinned, others renamed, and axes that replace its own; in this order."""
    kind = type(spec)
    shapes = _shapes(spec)
    found = _renamed(pinned(spec, pin), rename)
    known = {**found.axes, **found.unsaved}
    new, added = expanded(axes, groups, known)
    unknown = next((name for name in new if name not in known), None)
    if unknown is not None:
        raise ValueError(f"axes must name parameters of the spec, got {unknown!r}")
    read = {
        name: tuple(as_axis(f"axes[{name!r}][{i}]", entry) for i, entry in enumerate(new.get(name, entries)))
        for name, entries in known.items()
    }
    every = {**found.groups, **added}
    used = {group for entries in read.values() for axis in entries for group in axis.groups}
    used |= {owner for name in every if name in used for owner in _owners(every, name)}
    made = kind(
        {name: group for name, group in every.items() if name in used or name in added},
        {name: read[name] for name in found.axes},
        {name: read[name] for name in found.unsaved},
        spec.folds,
    )
    if shapes is not None:
        made = made.bind({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    origin = spec.origin
    if origin is not None:
        told = {name: reasons for name, reasons in origin.pinned.items() if name not in new}
        notes = (*origin.notes, "edited by hand since it was derived")
        stiff = {rename.get(name, name): why for name, why in origin.stiff.items()}
        origin = Origin(told, notes, stiff)
    return made.with_origin(origin)


def _owners(groups: Mapping[str, Group], name: str) -> list[str]:
    """Names of a group's owners, as far as they are groups; a circle is told by the class."""
    found: list[str] = []
    owner = groups[name].owner
    while owner is not None and owner in groups and owner not in found:
        found.append(owner)
        owner = groups[owner].owner
    return found


def _shapes(spec: PermutationSpec) -> dict[str, list[int]] | None:
    """Shapes of all parameters, where the spec tells them."""
    if not spec.is_bound or spec.unsaved or any(axis.dims > 1 for entries in spec.axes.values() for axis in entries):
        return None
    return {name: [axis_size(axis.segments, spec.sizes) for axis in entries] for name, entries in spec.axes.items()}


def pinned(spec: PermutationSpec, pin: Iterable[str]) -> PermutationSpec:
    """The spec with the units of some groups left where they are, and all that these own."""
    if isinstance(pin, str):
        fail_type("pin", "a list of groups' names", pin)
    known = spec.groups
    for group in pin:
        _check_group("pin", group, known)
        if group not in spec.groups:
            # What it was owned by is pinned already.
            continue
        axes = _fixed(spec, group)
        gone = {name for name in spec.groups if group in spec.chain(name)}
        kept = {name: each for name, each in spec.groups.items() if name not in gone}
        spec = type(spec)(kept, axes, spec.unsaved, spec.folds)
    return spec


def _fixed(spec: PermutationSpec, dropped: str) -> dict[str, tuple[Axis, ...]]:
    """The axes with fixed entries in the place of a group and all that it owns; its owners stay."""
    if spec.groups[dropped].owner is None and spec.is_bound:
        return without(spec, dropped)

    def fixed(segment: Segment) -> list[Segment]:
        if segment.group is None:
            return [segment]
        if segment.group == dropped:
            return [Segment.fixed(axis_size((segment,), spec.sizes), segment.step, segment.runs)]
        if isinstance(segment.inner, int):
            return [segment]
        inner = tuple(part for each in segment.inner for part in fixed(each))
        moves = any(part.group is not None for part in inner)
        return [replace(segment, inner=inner if moves else axis_size(inner, spec.sizes))]

    return {
        name: tuple(
            replace(axis, segments=tuple(part for each in axis.segments for part in fixed(each))) for axis in of
        )
        for name, of in spec.axes.items()
    }


def _renamed(spec: PermutationSpec, rename: Mapping[str, str]) -> PermutationSpec:
    check_type("rename", rename, Mapping, "a mapping from groups' names to new ones")
    for old, new in rename.items():
        _check_group("rename", old, spec.groups)
        check_type(f"rename[{old!r}]", new, str, "a name")
    names = {name: rename.get(name, name) for name in spec.groups}
    twice = next((name for name in names.values() if list(names.values()).count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"rename must leave each group a name of its own, got {twice!r} for two")

    def other(segment: Segment) -> Segment:
        if segment.group is None:
            return segment
        inner = segment.inner if isinstance(segment.inner, int) else tuple(other(part) for part in segment.inner)
        return replace(segment, group=names[segment.group], inner=inner)

    def axes_of(some: Mapping[str, tuple[Axis, ...]]) -> dict[str, tuple[Axis, ...]]:
        return {
            name: tuple(replace(axis, segments=tuple(other(each) for each in axis.segments)) for axis in entries)
            for name, entries in some.items()
        }

    groups = {
        names[name]: replace(group, name=names[name], owner=None if group.owner is None else names[group.owner])
        for name, group in spec.groups.items()
    }
    return type(spec)(groups, axes_of(spec.axes), axes_of(spec.unsaved), spec.folds)


def _check_group(argument: str, group: object, groups: Collection[str]) -> None:
    if group not in groups:
        raise ValueError(f"{argument} must name groups of the spec, got {group!r}")

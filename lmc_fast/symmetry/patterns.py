"""Axes of layers that repeat, by one pattern: "layer.{i}.up.weight" stands for as many as the model has.

``{i}`` is a number, ``{x:query|key}`` one of these words, and ``*`` anything without a dot. What ``{i}`` was stands for
it in the names of groups as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from .groups import Axis, AxisLike, Group, Segment, as_axis

__all__ = ["expanded", "is_pattern"]

_PART = re.compile(r"\{(?P<name>[A-Za-z_]\w*)(?::(?P<words>[^{}]+))?\}|(?P<any>\*)")
_IN_GROUP = re.compile(r"\{([A-Za-z_]\w*)\}")

Values = Mapping[str, str]


def is_pattern(name: str) -> bool:
    """Whether it stands for several names."""
    return _PART.search(name) is not None


@dataclass(frozen=True)
class _Pattern:
    """One pattern with what it says.

    Attributes:
        text: as it was written.
        form: what names are matched by.
        axes: of the parameters that do.
    """

    text: str
    form: re.Pattern[str]
    axes: tuple[Axis, ...]

    @classmethod
    def of(cls, text: str, axes: Sequence[AxisLike]) -> _Pattern:
        form, end, seen = "", 0, set()
        for part in _PART.finditer(text):
            form += re.escape(text[end : part.start()])
            end, name, words = part.end(), part["name"], part["words"]
            if part["any"]:
                form += r"[^.]+"
            elif name in seen:
                form += f"(?P={name})"
            else:
                seen.add(name)
                form += f"(?P<{name}>{'|'.join(map(re.escape, words.split('|'))) if words else '[0-9]+'})"
        form += re.escape(text[end:])
        read = tuple(as_axis(f"axes[{text!r}][{i}]", entry) for i, entry in enumerate(axes))
        for group in dict.fromkeys(group for axis in read for group in axis.groups):
            _check_known(f"axes[{text!r}]", group, seen)
        return cls(text, re.compile(form), read)


def expanded(
    axes: Mapping[str, Sequence[AxisLike]], groups: Iterable[Group], names: Iterable[str]
) -> tuple[dict[str, Sequence[AxisLike]], dict[str, Group]]:
    """Axes and groups with every pattern replaced by what it stands for.

    A name that stands by itself goes before patterns, and of these the first that fits counts.

    Args:
        axes: by name or by pattern.
        groups: their names, and those of their owners, may hold what patterns hold.
        names: of the model's tensors.

    Raises:
        ValueError: a pattern that fits no name, or a group's name with a part that its pattern has not.
    """
    patterns = [_Pattern.of(text, entries) for text, entries in axes.items() if is_pattern(text)]
    found: dict[str, Sequence[AxisLike]] = {text: entries for text, entries in axes.items() if not is_pattern(text)}
    met: dict[str, list[Values]] = {pattern.text: [] for pattern in patterns}
    for name in names:
        if name in axes:
            continue
        for pattern in patterns:
            match = pattern.form.fullmatch(name)
            if match:
                values = match.groupdict()
                met[pattern.text].append(values)
                found[name] = tuple(_filled_axis(axis, values) for axis in pattern.axes)
                break
    idle = next((text for text, values in met.items() if not values), None)
    if idle is not None:
        raise ValueError(f"axes has the pattern {idle!r}, which fits no parameter of the model (or none that is left)")
    several = [values for of_pattern in met.values() for values in of_pattern]
    return found, {each.name: each for group in groups for each in _filled_groups(group, several)}


def _filled_groups(group: Group, several: Sequence[Values]) -> list[Group]:
    """A group for every set of values that fills its name."""
    parts = set(_IN_GROUP.findall(group.name))
    if group.owner is not None:
        _check_known(f"the owner of group {group.name!r}", group.owner, parts)
    if not parts:
        return [group]
    names = {}
    for values in several:
        if parts <= values.keys():
            owner = None if group.owner is None else _filled(group.owner, values)
            names[_filled(group.name, values)] = owner
    return [replace(group, name=name, owner=owner) for name, owner in names.items()]


def _check_known(where: str, group: str, parts: Iterable[str]) -> None:
    unknown = next((part for part in _IN_GROUP.findall(group) if part not in parts), None)
    if unknown is not None:
        raise ValueError(f"{where} has {group!r}, and nothing there says what {{{unknown}}} is")


def _filled(name: str, values: Values) -> str:
    return _IN_GROUP.sub(lambda part: values[part[1]], name)


def _filled_axis(axis: Axis, values: Values) -> Axis:
    return replace(axis, segments=tuple(_filled_segment(segment, values) for segment in axis.segments))


def _filled_segment(segment: Segment, values: Values) -> Segment:
    if segment.group is None:
        return segment
    inner = segment.inner
    if isinstance(inner, tuple):
        inner = tuple(_filled_segment(part, values) for part in inner)
    return replace(segment, group=_filled(segment.group, values), inner=inner)

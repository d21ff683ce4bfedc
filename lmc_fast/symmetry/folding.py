"""Names of layers that repeat, told as one: "layer.{0..11}.up" in the place of twelve lines."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["FEW", "alike", "apart", "folded", "folded_names"]

# So many at least are told as one.
FEW = 3
# Levels that names share which are told once.
_DEEP = 2
_NUMBER = re.compile(r"(?<![A-Za-z])\d+(?![A-Za-z])")


def alike(name: str) -> str:
    """What is the same for names that differ in numbers alone."""
    return _NUMBER.sub("#", name)


def folded(names: Sequence[str]) -> str:
    """One name for several that are `alike`: numbers that are not the same in all as a range, or as a star."""
    columns = list(zip(*(_NUMBER.findall(name) for name in names), strict=True))
    parts = _NUMBER.split(names[0])
    text = parts[0]
    for column, part in zip(columns, parts[1:], strict=True):
        text += _of(column) + part
    return text


def folded_names(names: Sequence[str]) -> list[str]:
    """Names with those told as one that differ in numbers alone, where there are a few of them at least."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(alike(name), []).append(name)
    return [told for group in groups.values() for told in ([folded(group)] if len(group) >= FEW else group)]


def apart(names: Sequence[str]) -> tuple[str, list[str]]:
    """What names have in common in front, where that is some levels deep, and what is left of each."""
    split = [re.split(r"\.(?![^{]*\})", name) for name in names]
    count = 0
    while len(names) > 1 and all(len(parts) > count + 1 and parts[count] == split[0][count] for parts in split):
        count += 1
    if count < _DEEP:
        return "", list(names)
    return ".".join(split[0][:count]), [".".join(parts[count:]) for parts in split]


def _of(column: Sequence[str]) -> str:
    numbers = list(dict.fromkeys(int(each) for each in column))
    if len(numbers) == 1:
        return column[0]
    ordered = sorted(numbers)
    if ordered == list(range(ordered[0], ordered[0] + len(ordered))):
        return f"{{{ordered[0]}..{ordered[-1]}}}"
    return f"{{{','.join(map(str, ordered))}}}" if len(ordered) <= FEW + 1 else "*"

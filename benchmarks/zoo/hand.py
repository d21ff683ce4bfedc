"""How many groups there are in an architecture, counted by hand: a small language for what a paper says of it.

`free(24)` is a set of 24 units that change places; `owning(4, 6, 6)` are 4 that do, each with two sets of 6 of its own;
what stands side by side is added, what comes several times is multiplied::

    stream + 2 * (owning(heads, width, width) + free(hidden))
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Hand", "free", "owning", "total"]


@dataclass(frozen=True)
class Hand:
    """Groups of units.

    Attributes:
        groups: how many, owned ones counted once for all of their owners.
        owned: how many of these belong to units of another one.
        units: of all of them, those of all owners together.
        log10: of how many permutations there are.
        text: as it was written down.
    """

    groups: int = 0
    owned: int = 0
    units: int = 0
    log10: float = 0.0
    text: str = ""

    def __add__(self, other: Hand) -> Hand:
        return Hand(
            self.groups + other.groups,
            self.owned + other.owned,
            self.units + other.units,
            self.log10 + other.log10,
            " + ".join(each.text for each in (self, other) if each.text),
        )

    def __rmul__(self, times: int) -> Hand:
        text = f"({self.text})" if " + " in self.text else self.text
        times_text = f"{times} * {text}" if times > 1 and text else self.text * times
        return Hand(times * self.groups, times * self.owned, times * self.units, times * self.log10, times_text)


# A group of so many units, or several.
Part = int | Hand


def _orders(units: int) -> float:
    """log10 of how many orders there are."""
    return math.lgamma(units + 1) / math.log(10)


def free(*sizes: int) -> Hand:
    """A group of units for each size, none of which belongs to another; one unit by itself is no group."""
    groups = [size for size in sizes if size > 1]
    text = " + ".join(map(str, groups))
    return Hand(len(groups), 0, sum(groups), sum(map(_orders, groups)), text)


def owning(count: int, *inside: Part) -> Hand:
    """Units that change places, each of which owns groups; one by itself owns nothing that is not free."""
    parts = [free(part) if isinstance(part, int) else part for part in inside]
    own = total(parts)
    if count == 1:
        return own
    text = f"{count}[{', '.join(part.text for part in parts if part.text)}]"
    return Hand(1 + own.groups, own.groups, count + count * own.units, _orders(count) + count * own.log10, text)


def total(parts: Iterable[Hand]) -> Hand:
    """All of them, side by side."""
    return sum(parts, Hand())

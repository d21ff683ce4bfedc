"""Steps of a search that several processes share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..symmetry.views import Leaf, Units
from .journal import Place

__all__ = ["Spot", "Visit"]


@dataclass(frozen=True, eq=False)
class Visit:
    """A group that is to be visited: where that stands in the journal, what gains are asked for, and how it is done."""

    root: str
    at: Place
    asked: Callable[[], dict[Units, list[Leaf]]]
    do: Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Spot:
    """Who does a step: the ranks that have tensors of its gains, and the one that solves it."""

    asked: Mapping[Units, Sequence[Leaf]]
    ranks: Sequence[int]
    home: int

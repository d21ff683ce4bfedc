"""Steps of a search that several processes share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..symmetry.views import Leaf, Units
from .journal import Place

__all__ = ["Spot", "Visit", "work_of"]


@dataclass(frozen=True, eq=False)
class Visit:
    """A group that is to be visited.

    Attributes:
        root: the group.
        at: where that stands in the journal.
        asked: gives the gains that are asked for, each by its leaves.
        do: does it; what came of it, as the journal has it.
        then: leaves of the gains that the next visit will ask for, as far as is known.
    """

    root: str
    at: Place
    asked: Callable[[], dict[Units, list[Leaf]]]
    do: Callable[[], dict[str, Any]]
    then: Sequence[Sequence[Leaf]] = ()


@dataclass(frozen=True)
class Spot:
    """Who does a step: the ranks that have tensors of its gains, and the one that solves it."""

    asked: Mapping[Units, Sequence[Leaf]]
    ranks: Sequence[int]
    home: int


def work_of(tensors: Mapping[str, Tensor], found: Mapping[Units, Sequence[Leaf]]) -> float:
    """Operations of the products that the gains of these leaves take."""
    return float(
        sum(
            2 * tensors[leaf.parameter].numel() * tensors[leaf.parameter].shape[leaf.axis]
            for of in found.values()
            for leaf in of
        )
    )

"""What a search tells of its sweeps and of its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Settled", "Step"]


@dataclass
class Step:
    """What one pass over the groups did: the sum of what it gained, units moved, groups solved, seconds."""

    gained: float = 0.0
    moved: int = 0
    solved: int = 0
    seconds: float = 0.0


class Settled(NamedTuple):
    """The sweeps of a search, whether no group could gain alone at its end, and the objective there."""

    steps: list[Step]
    converged: bool
    objective: float

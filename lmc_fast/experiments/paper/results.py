"""All that a run measured, with the trials side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...report.tables import Stat
from .settings import Settings

__all__ = ["Results", "Trials"]

Numbers = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Trials:
    """The trials of one network.

    Attributes:
        name: the network's.
        trials: what `measure_trial` gave, one for each.
        methods: ways of matching, "none" first.
    """

    name: str
    trials: Sequence[Numbers]
    methods: tuple[str, ...]

    def each(self, of: Callable[[Numbers], float]) -> list[float]:
        """One number of every trial."""
        return [of(trial) for trial in self.trials]

    def stat(self, of: Callable[[Numbers], float]) -> Stat:
        """Its mean and spread."""
        return Stat.of(self.each(of))

    def method(self, method: str, of: Callable[[Numbers], float]) -> Stat:
        """Mean and spread of a number of one way of matching."""
        return self.stat(lambda trial: of(trial["methods"][method]))


@dataclass(frozen=True, eq=False)
class Results:
    """A whole run.

    Attributes:
        settings: what was run.
        data: the data set's name.
        networks: in the order of the settings.
        sweeps: by key, by value: what `measure_pair` gave, one for each trial.
        seconds: of all stages together, those of earlier runs in the folder included.
        transformers: pairs, what `measure_transformers` gave; their methods are the ways. None: not asked for.
    """

    settings: Settings
    data: str
    networks: Sequence[Trials]
    sweeps: dict[str, dict[float, Sequence[Numbers]]]
    seconds: float
    transformers: Trials | None = None

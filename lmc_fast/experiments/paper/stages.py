"""The run as a list of stages, each of which leaves one file."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ..._progress import Progress
from ..cache import ModelCache
from ..datasets import Dataset
from ..recipes import Recipe
from . import costs
from .measure import Trial, measure_pair, measure_trial
from .settings import Network, Settings
from .transformers import measure_transformers

__all__ = ["Hook", "Stage", "Workshop", "stages_of", "work"]

Numbers = dict[str, Any]
# Called with a piece of work; gives the progress hook for it.
Hook = Callable[[str], Progress]


@dataclass(frozen=True)
class Stage:
    """One unit of work.

    Attributes:
        name: of its file.
        title: for people.
        sort: stages of one sort keep one pace.
        cost: in rough seconds, to tell how much is left.
        run: does it.
    """

    name: str
    title: str
    sort: str
    cost: float
    run: Callable[[Hook], Numbers] = field(repr=False)


@dataclass
class Workshop:
    """All that stages need, to be sent to a process that works on some of them.

    Attributes:
        settings: what to run.
        data: to train and to measure on.
        cache: folder of trained models, an absolute path.
    """

    settings: Settings
    data: Dataset
    cache: Path

    def __post_init__(self) -> None:
        self.say: Callable[[str], None] = lambda note: None

    def __getstate__(self) -> tuple[Any, ...]:
        return self.settings, self.data, self.cache

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """Every stage of the run by its name, in order."""
        cache = ModelCache(self.cache, lambda note: self.say(note))
        return {stage.name: stage for stage in stages_of(self.settings, self.data, cache)}


def work(workshop: Workshop, name: str, tell: Callable[[tuple[str, Any]], None]) -> tuple[Numbers, float]:
    """Do a stage; return its numbers and how many seconds it took.

    `tell` is given ("note", text), ("work", what is done now) and ("step", what a progress hook is called with).
    """

    def hook(what: str) -> Progress:
        tell(("work", what))
        return lambda *step: tell(("step", step))

    workshop.say = lambda note: tell(("note", note))
    began = time.perf_counter()
    numbers = workshop.stages[name].run(hook)
    return numbers, time.perf_counter() - began


def stages_of(settings: Settings, data: Dataset, cache: ModelCache) -> list[Stage]:
    """Every stage of a run, in order."""
    stages = []
    trained: set[tuple[Recipe, int]] = set()

    def cost(recipe: Recipe, seeds: range) -> float:
        """Of training what no stage before has trained."""
        new = {(recipe, seed) for seed in seeds} - trained
        trained.update(new)
        return len(new) * costs.training(recipe, data)

    for network in settings.networks:
        for trial in range(network.trials):
            plane = trial == 0 and settings.landscape > 0
            stages.append(
                Stage(
                    f"{network.name.lower()}-{trial}",
                    f"{network.name}, trial {trial + 1} of {network.trials}",
                    network.name,
                    cost(network.recipe, _seeds(settings, trial, 3))
                    + costs.measuring_trial(network, data, settings, landscape=plane),
                    partial(_run_trial, settings, data, cache, network, trial),
                )
            )
    recipes = {network.name: network.recipe for network in settings.networks}
    for sweep in settings.sweeps:
        base = recipes[sweep.network or settings.networks[0].name]
        for value in sweep.values:
            recipe = sweep.recipe(base, value)
            for trial in range(sweep.trials):
                stages.append(
                    Stage(
                        f"{sweep.key}-{value:g}-{trial}",
                        f"{sweep.title} {value:g}, trial {trial + 1} of {sweep.trials}",
                        f"{sweep.network} pair",
                        cost(recipe, _seeds(settings, trial, 2)) + costs.measuring_pair(recipe, data, settings),
                        partial(_run_pair, settings, data, cache, recipe, trial),
                    )
                )
    part = settings.transformers
    if part is not None:
        for pair in range(part.pairs):
            stages.append(
                Stage(
                    f"vit-{pair}",
                    f"transformers, pair {pair + 1} of {part.pairs}",
                    "transformers",
                    costs.transformers(part, data),
                    partial(measure_transformers, settings, data, cache, pair),
                )
            )
    return stages


def _seeds(settings: Settings, trial: int, models: int) -> range:
    first = settings.seed + 3 * trial
    return range(first, first + models)


def _trial(settings: Settings, data: Dataset, cache: ModelCache, recipe: Recipe, seeds: range, hook: Hook) -> Trial:
    models = [cache.get(recipe, data, s, progress=hook(f"train seed {s}")) for s in seeds]
    return Trial(models, recipe.spec(models[0]), data, settings, hook)


def _run_trial(
    settings: Settings, data: Dataset, cache: ModelCache, network: Network, trial: int, hook: Hook
) -> Numbers:
    seeds = _seeds(settings, trial, 3)
    models = _trial(settings, data, cache, network.recipe, seeds, hook)
    return measure_trial(models, network, seeds[0], landscape=trial == 0 and settings.landscape > 0)


def _run_pair(settings: Settings, data: Dataset, cache: ModelCache, recipe: Recipe, trial: int, hook: Hook) -> Numbers:
    return measure_pair(_trial(settings, data, cache, recipe, _seeds(settings, trial, 2), hook))

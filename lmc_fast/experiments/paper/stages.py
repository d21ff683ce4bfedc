"""The run as a list of stages, each of which leaves one file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..._progress import Progress
from ..cache import ModelCache
from ..datasets import Dataset
from ..recipes import Recipe
from .measure import Trial, measure_pair, measure_trial
from .settings import Network, Settings, Sweep

__all__ = ["Hook", "Stage", "stages_of"]

Numbers = dict[str, Any]
# Called with a piece of work; gives the progress hook for it.
Hook = Callable[[str], Progress]


@dataclass(frozen=True)
class Stage:
    """One unit of work.

    Attributes:
        name: of its file.
        title: for people.
        cost: in rough seconds, to tell how much is left.
        run: does it.
    """

    name: str
    title: str
    cost: float
    run: Callable[[Hook], Numbers] = field(repr=False)


def stages_of(settings: Settings, data: Dataset, cache: ModelCache) -> list[Stage]:
    """Every stage of a run, in order."""
    stages = []
    for network in settings.networks:
        for trial in range(network.trials):
            stages.append(
                Stage(
                    f"{network.name.lower()}-{trial}",
                    f"{network.name}, trial {trial + 1} of {network.trials}",
                    _cost(network.recipe, 3) + network.ste_epochs * len(network.methods),
                    partial(_run_trial, settings, data, cache, network, trial),
                )
            )
    base = settings.networks[0].recipe
    for sweep in settings.sweeps:
        for value in sweep.values:
            for trial in range(sweep.trials):
                stages.append(
                    Stage(
                        f"{sweep.name}-{value:g}-{trial}",
                        f"{sweep.name.replace('_', ' ')} {value:g}, trial {trial + 1} of {sweep.trials}",
                        _cost(sweep.recipe(base, value), 2),
                        partial(_run_pair, settings, data, cache, sweep, value, trial),
                    )
                )
    return stages


def _cost(recipe: Recipe, models: int) -> float:
    per_step = (0.4 + (recipe.width / 256) ** 2) if recipe.kind == "mlp" else 2.0 + recipe.width / 2
    return 1.0 + models * recipe.steps * per_step / 1000


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


def _run_pair(
    settings: Settings, data: Dataset, cache: ModelCache, sweep: Sweep, value: float, trial: int, hook: Hook
) -> Numbers:
    recipe = sweep.recipe(settings.networks[0].recipe, value)
    return measure_pair(_trial(settings, data, cache, recipe, _seeds(settings, trial, 2), hook))

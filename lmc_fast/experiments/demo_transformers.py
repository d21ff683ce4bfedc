"""The demo of transformers: two vision models of digits, laid over each other in every way that is known here."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from .._extras import require
from .._files import check_new_folder, write_folder, write_text
from .._progress import Progress
from ..analysis import BarrierCurve, loss_barrier
from ..checkpoints import save_checkpoint
from ..report.colours import colour_of
from ..report.figures import Line, Panel, lines_figure, save_png
from .datasets import Dataset, digits
from .environment import versions
from .processes import one_thread, side_by_side
from .training import train
from .transformer_ways import WAYS, Setting, held_out, laid_over
from .transformers import TransformerRecipe

__all__ = ["RECIPE", "TransformersResult", "Way", "run_transformers"]

RECIPE = TransformerRecipe("vit-ln", 64, 3, passes=20, learning_rate=2e-3, weight_decay=0.5, patch=2)
# Of the training part, what judges.
JUDGING = 180


@dataclass(frozen=True)
class Way:
    """What one way of matching left between two models, test part.

    Attributes:
        way: of `WAYS`.
        barrier: of the loss, over the whole path.
        loss, accuracy: half-way.
        l2_after: distance of the weights, before it where nothing is moved; None of models that are not in pure form.
        seconds: of matching.
    """

    way: str
    barrier: float
    loss: float
    accuracy: float | None
    l2_after: float | None
    seconds: float


@dataclass(frozen=True)
class TransformersResult:
    """All that was measured, and where it is written. Losses and accuracies are of the test part."""

    folder: Path
    seeds: tuple[int, int]
    ends: tuple[float, float]
    ends_accuracy: tuple[float, float]
    ways: tuple[Way, ...]
    seconds: float


# Called with what is being done; returns the progress hook for that work.
Stage = Callable[[str, str], Progress]


def run_transformers(
    folder: Path,
    *,
    recipe: TransformerRecipe = RECIPE,
    seed: int = 0,
    lambdas: int = 25,
    steps: int = 300,
    processes: int = 1,
    ways: Sequence[str] = WAYS,
    stage: Stage = lambda case, work: False,
) -> TransformersResult:
    """Train two vision models on scikit-learn's digits, match them in every way, and write figure, numbers and models.

    Args:
        folder: must not exist; it appears when everything in it is whole, under the next free name if another has
            come to be there meanwhile.
        recipe: of the models.
        seed: of the first model; the other's is the next.
        lambdas: points of each curve.
        steps: of learning at most.
        processes: how many train side by side; the results are the same for any number.
        ways: of `WAYS`.
        stage: gives the progress hook for each piece of work.

    Raises:
        FileExistsError: `folder` exists.
        FileNotFoundError: the folder that it is to stand in does not.
        ImportError: an optional package is missing; the message names the extra.
    """
    folder = Path(folder)
    check_new_folder(folder)
    # Before a minute of work, not after it.
    for module, extra in (("matplotlib", "demo"), ("safetensors", "cli")):
        require(module, extra)
    began = time.perf_counter()
    data, judging = held_out(digits(), JUDGING)
    setting = Setting(data, judging, learning={"steps": steps})
    seeds = (seed, seed + 1)
    found: list[Way] = []
    curves: dict[str, BarrierCurve] = {}

    def fill(aside: Path) -> None:
        with one_thread():
            models = _trained(recipe, data, seeds, processes, stage)
            for s, model in zip(seeds, models, strict=True):
                save_checkpoint(aside / f"vit_seed{s}.safetensors", model.state_dict())
            for way in ways:
                hook = stage("vit", way)
                start = time.perf_counter()
                a, b, match = laid_over(way, models[0], models[1], setting, hook)
                seconds = time.perf_counter() - start
                curve = loss_barrier(a, b, data.test_batches(), lambdas=lambdas)
                curves[way] = curve
                found.append(
                    Way(
                        way,
                        curve.barrier,
                        curve.midpoint_loss,
                        curve.midpoint_accuracy,
                        None if match is None else match.l2_after,
                        seconds,
                    )
                )
            # Of the last way: what was learned, unless others were asked for.
            save_checkpoint(aside / f"vit_seed{seeds[0]}_pure.safetensors", a.state_dict())
            save_checkpoint(aside / f"vit_seed{seeds[1]}_turned.safetensors", b.state_dict())
        save_png(lines_figure(_panels(curves), height=4.2), aside / "barrier_vit.png")
        results = {
            "data": data.name,
            "seeds": list(seeds),
            "seconds": time.perf_counter() - began,
            "recipe": recipe.described(),
            "versions": versions(),
            "threads": 1,
            "ways": [asdict(way) | {"curve": _numbers(curves[way.way])} for way in found],
        }
        write_text(aside / "results.json", json.dumps(results, indent=1) + "\n")

    placed = write_folder(folder, fill)
    first = curves[ways[0]]
    accuracies = np.zeros(2) if first.accuracy is None else first.accuracy
    return TransformersResult(
        placed,
        seeds,
        (float(first.loss[0]), float(first.loss[-1])),
        (float(accuracies[0]), float(accuracies[-1])),
        tuple(found),
        time.perf_counter() - began,
    )


def _trained(
    recipe: TransformerRecipe, data: Dataset, seeds: Sequence[int], processes: int, stage: Stage
) -> list[nn.Module]:
    hook = stage("vit", f"train {len(seeds)} models")
    passes = [0] * len(seeds)
    total = recipe.epochs(data) * len(seeds)

    def hear(place: int, done: int) -> None:
        passes[place] = done
        if callable(hook):
            hook("training", sum(passes), total)

    models = dict(side_by_side(_train_one, (recipe, data), seeds, processes=processes, hear=hear))
    return [models[place] for place in range(len(seeds))]


def _train_one(common: tuple[TransformerRecipe, Dataset], seed: int, tell: Callable[[int], None]) -> nn.Module:
    recipe, data = common
    return train(
        lambda: recipe.build(data),
        data,
        seed=seed,
        epochs=recipe.epochs(data),
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        batch_size=recipe.batch_size,
        progress=lambda description, done, total: tell(done),
    )


def _panels(curves: Mapping[str, BarrierCurve]) -> list[Panel]:
    """Loss and accuracy along the path, a line a way; broken ones turn nothing."""
    styles = ["--" if way == "nothing" or way.startswith("permutations") else "-" for way in curves]

    def panel(quantity: str, values: Callable[[BarrierCurve], Sequence[float]]) -> Panel:
        lines = [
            Line(way, curve.lambdas.tolist(), values(curve), style=style, colour=colour_of(way))
            for (way, curve), style in zip(curves.items(), styles, strict=True)
        ]
        return Panel("", "from model a (0) to model b (1)", quantity, lines)

    panels = [panel("test loss (cross-entropy)", lambda curve: curve.loss.tolist())]
    if all(curve.accuracy is not None for curve in curves.values()):
        panels.append(panel("test accuracy", lambda curve: [] if curve.accuracy is None else curve.accuracy.tolist()))
    return panels


def _numbers(curve: BarrierCurve) -> dict[str, Any]:
    return {
        "lambdas": curve.lambdas.tolist(),
        "loss": curve.loss.tolist(),
        "accuracy": None if curve.accuracy is None else curve.accuracy.tolist(),
        "barrier": curve.barrier,
    }

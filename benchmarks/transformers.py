"""`transformers`: the barriers that each way of matching leaves between small transformers trained from other seeds.

Vision models on MNIST digits, by path, and byte-level decoders on the standard library's sources. Nothing is chosen by
the test part: what learns is judged by examples of the training part that no model was trained on.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from torch import nn

import lmc_fast as lmc
from lmc_fast.analysis import BarrierCurve
from lmc_fast.experiments.cache import ModelCache
from lmc_fast.experiments.datasets import load_dataset
from lmc_fast.experiments.processes import one_thread
from lmc_fast.experiments.transformer_ways import WAYS, Setting, held_out, laid_over
from lmc_fast.experiments.transformers import (
    KINDS,
    TransformerRecipe,
    mean_loss,
    sources,
)

from .gains import DEFAULT_CACHE
from .options import add_out
from .report import COLUMNS, Report, table

__all__ = ["RECIPES", "Bench", "register"]

# What learns is judged by so many examples of the training part, which no model is trained on.
JUDGING = 1000
TRAINED = 7500
CHUNKS, JUDGING_CHUNKS = 24_576, 128

RECIPES = {
    "vit-ln": TransformerRecipe("vit-ln", 64, 3, passes=8, learning_rate=2e-3),
    "vit-rms": TransformerRecipe("vit-rms", 64, 3, passes=8, learning_rate=2e-3),
    "lm-rope": TransformerRecipe("lm-rope", 96, 2, passes=1, learning_rate=3e-3, batch_size=32),
    "lm-pos": TransformerRecipe("lm-pos", 96, 2, passes=1, learning_rate=3e-3, batch_size=32),
}
# What the barriers of a kind are to be under: by activations, learned, learned for every pair.
GOALS = {
    "vit-ln": (1.3, 0.03, 0.05),
    "vit-rms": (1.3, 0.03, 0.05),
    "lm-rope": (1.0, 0.35, 0.35),
    "lm-pos": (1.0, 0.35, 0.35),
}
METHODS = (*WAYS, "three learned")
_COLUMNS = (
    "model",
    "width",
    "passes",
    "method",
    "steps",
    "points",
    "discrete",
    "shifts",
    "seeds",
    "barrier",
    "deviation",
    "ends",
    "middle",
    "accuracy",
    "ends_accuracy",
    "seconds",
    "processor_seconds",
)


def register(commands: argparse._SubParsersAction) -> None:
    """Add `transformers`."""
    parser = commands.add_parser("transformers", help="barriers between small transformers, by way of matching")
    parser.add_argument("--data", type=Path, help=".npz with images and labels (vision models; default: digits)")
    parser.add_argument("--models", nargs="+", choices=KINDS, default=list(KINDS), metavar="MODEL", help=str(KINDS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="M", help=str(METHODS))
    parser.add_argument("--pairs", type=int, default=6, help="pairs of trained models, of as few as do (default 6)")
    parser.add_argument("--steps", type=int, default=600, help="of learning (default 600)")
    parser.add_argument(
        "--batch", type=int, default=128, help="images of a step, and four times the texts (default 128)"
    )
    parser.add_argument("--passes", type=int, help="of training over the data (default: the recipe's)")
    parser.add_argument("--width", type=int, help="of the models (default: the recipe's)")
    parser.add_argument("--points", default="excess", help="of the path that learning looks at (default excess)")
    parser.add_argument(
        "--discrete", default="frozen", help="what learning does with places and signs (default frozen)"
    )
    parser.add_argument(
        "--shifts",
        type=int,
        default=0,
        help="pixels at most that images of a step of learning move (default 0)",
    )
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help=f"trained models (default {DEFAULT_CACHE})")
    parser.add_argument("--append", action="store_true", help="to the rows that the file has already")
    add_out(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `transformers`; 1 if a barrier is above what is asked for its kind."""
    if arguments.pairs < 1:
        raise ValueError(f"--pairs must be 1 at least, got {arguments.pairs}")
    if arguments.shifts < 0:
        raise ValueError(f"--shifts must be 0 or more, got {arguments.shifts}")
    if arguments.data is not None and not arguments.data.is_file():
        raise FileNotFoundError(f"--data must be an .npz file, got {str(arguments.data)!r}")
    with Report(arguments.out, "transformers", (*COLUMNS, *_COLUMNS), arguments.append) as report, one_thread():
        for kind in arguments.models:
            bench = Bench.of(kind, arguments)
            for method in arguments.methods:
                told = {"model": kind, "method": method, **bench.told}
                rows = []
                for row in bench.rows(method):
                    rows.append(row)
                    report.add(status=_status(kind, method, row), **told, **row)
                for row in _summary(rows):
                    report.add(status=_status(kind, method, row), **told, **row)
                print(table(report.rows[-1:], _COLUMNS), flush=True)
        print(table([row for row in report.rows if row["seeds"] == "mean"], (*_COLUMNS, "status")))
        print(f"rows: {report.path}")
    return int(any(row["status"].startswith("above") for row in report.rows))


def _status(kind: str, method: str, row: dict[str, Any]) -> str:
    by_activations, learned, each = GOALS[kind]
    is_mean = row["seeds"] == "mean"
    goal = {
        "heads turned too, activations": by_activations if is_mean else None,
        "learned": learned if is_mean else each,
        "three learned": 0.1 if kind.startswith("vit") else None,
    }.get(method)
    return "ok" if goal is None or row["barrier"] <= goal else f"above {goal}"


def _summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The means over the pairs, and the deviation of the barrier."""
    if not rows:
        return []
    numbers = [name for name, value in rows[0].items() if isinstance(value, float)]
    means = {name: statistics.fmean(row[name] for row in rows) for name in numbers}
    barriers = [row["barrier"] for row in rows]
    deviation = statistics.stdev(barriers) if len(barriers) > 1 else 0.0
    return [{"seeds": "mean", **means, "deviation": deviation}]


@dataclass(frozen=True)
class Bench:
    """Trained models of one kind, and what is measured on them.

    Attributes:
        kind: of `KINDS`.
        setting: data, and what judges.
        models: as they were trained.
        pairs: places of two models each.
        told: what rows say of the models and of learning.
    """

    kind: str
    setting: Setting
    models: Sequence[nn.Module]
    pairs: Sequence[tuple[int, int]]
    told: dict[str, Any]

    @classmethod
    def of(cls, kind: str, arguments: argparse.Namespace) -> Bench:
        """Train, or read, the models of a kind."""
        recipe, batch, shifts = RECIPES[kind], arguments.batch, arguments.shifts
        if kind.startswith("lm"):
            whole, judging = sources(CHUNKS + JUDGING_CHUNKS), JUDGING_CHUNKS
            # As many tokens as of images, a step; texts do not move.
            batch, shifts = max(1, batch // 4), 0
        else:
            whole = load_dataset("digits" if arguments.data is None else arguments.data)
            judging = min(JUDGING, len(whole.train_inputs) // 8)
            # Of digits of 8 x 8 pixels.
            recipe = replace(recipe, patch=7 if whole.image_shape[1] % 7 == 0 else 2)
        if arguments.passes is not None:
            recipe = replace(recipe, passes=arguments.passes)
        if arguments.width is not None:
            recipe = replace(recipe, width=arguments.width)
        # The same recipe takes about as long whatever the file holds.
        most = (TRAINED if kind.startswith("vit") else CHUNKS) + judging
        whole = replace(whole, train_inputs=whole.train_inputs[:most], train_targets=whole.train_targets[:most])
        data, judges = held_out(whole, judging)
        count = 2
        while count * (count - 1) // 2 < arguments.pairs:
            count += 1
        cache = ModelCache(arguments.cache, print)
        # To the end of the steps, for the loss half-way, wherever the barrier is.
        learning = {
            "steps": arguments.steps,
            "points": arguments.points,
            "discrete": arguments.discrete,
            "tolerance": None,
        }
        return cls(
            kind,
            Setting(data, judges, batch, learning, shifts),
            [cache.get(recipe, data, seed) for seed in range(count)],
            list(combinations(range(count), 2))[: arguments.pairs],
            {
                "width": recipe.width,
                "passes": recipe.passes,
                "steps": arguments.steps,
                "points": arguments.points,
                "discrete": arguments.discrete,
                "shifts": shifts,
            },
        )

    def rows(self, method: str) -> Iterator[dict[str, Any]]:
        """What a method leaves between the models of each pair."""
        if method == "three learned":
            yield from self._three()
            return
        for i, j in self.pairs:
            clock = _Clock()
            a, b, _ = laid_over(method, self.models[i], self.models[j], self.setting)
            yield self._row(f"{i},{j}", a, b, clock.times())

    def _three(self) -> Iterator[dict[str, Any]]:
        """The first three models at once; the barriers between all."""
        spec = self.setting.spec("learned", self.models[0])
        three = [lmc.fold_norms(model, spec) for model in self.models[:3]]
        if len(three) < 3:
            return
        clock = _Clock()
        many = lmc.match_many(
            three,
            spec,
            method="learned",
            batches=self.setting.training,
            # Of several models steps go to mixtures.
            **{name: self.setting.options[name] for name in ("loss_fn", "validation", "steps", "discrete")},
        )
        times = clock.times()
        moved = many.apply(three)
        for i, j in combinations(range(3), 2):
            yield self._row(f"{i},{j} of 0,1,2", moved[i], moved[j], times)

    def _row(self, seeds: str, a: nn.Module, b: nn.Module, times: dict[str, float]) -> dict[str, Any]:
        # Of classifiers the default loss, which tells accuracies as well.
        loss = {} if self.kind.startswith("vit") else {"loss_fn": mean_loss}
        curve = lmc.loss_barrier(a, b, self.setting.data.test_batches(256), lambdas=11, **loss)
        return {
            "seeds": seeds,
            "barrier": curve.barrier,
            "ends": float(curve.loss[[0, -1]].mean()),
            "middle": curve.midpoint_loss,
            **_accuracies(curve),
            **times,
        }


class _Clock:
    """Seconds since it was made: those that went by, and those that this process worked."""

    def __init__(self) -> None:
        self.began = (time.perf_counter(), time.process_time())

    def times(self) -> dict[str, float]:
        """Both, as rows have them."""
        went, worked = self.began
        return {"seconds": time.perf_counter() - went, "processor_seconds": time.process_time() - worked}


def _accuracies(curve: BarrierCurve) -> dict[str, float]:
    """Half-way and the ends' mean, of a classifier."""
    middle = curve.midpoint_accuracy
    if curve.accuracy is None or middle is None:
        return {}
    return {"accuracy": middle, "ends_accuracy": float(curve.accuracy[[0, -1]].mean())}

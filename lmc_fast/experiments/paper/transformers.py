"""The part on transformers: pairs laid over each other by permutations and by rotations, and what R says of it.

This is no claim of the paper's, which has no transformers. It carries its thought on: where permutations cannot turn
singular vectors onto each other, rotations can.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from ..._progress import Progress
from ...analysis import loss_barrier, spectral_alignment
from ...symmetry import fold_norms
from ..cache import ModelCache
from ..datasets import Dataset
from ..transformer_ways import Setting, held_out, laid_over
from ..transformers import TransformerRecipe
from .results import Results, Trials
from .settings import Settings, Transformers
from .verdicts import Part

__all__ = ["check_images", "measure_transformers", "rank_correlation", "recipe_for", "remark", "rotations"]

Numbers = dict[str, Any]
# The ways between which R is compared: nothing moved, and what is learned.
BARE, BY_LOSS = "nothing", "learned"
SIGN = "which is larger"
# Steps of training, whatever the data; patches along a side of an image.
STEPS = 400
PATCHES = 4
BATCH = 64


def check_images(part: Transformers, data: Dataset) -> None:
    """ValueError for images that are not square, or for too few to train on beside those that judge."""
    _, height, width = data.image_shape
    if height != width:
        raise ValueError(f"data {data.name!r} must have square images for transformers, got {height} x {width}")
    least, got = part.judging + BATCH, len(data.train_inputs)
    if got < least:
        raise ValueError(f"data {data.name!r} must have {least} images to train transformers on at least, got {got}")


def recipe_for(part: Transformers, data: Dataset) -> TransformerRecipe:
    """A vision transformer with LayerNorm, and its training, for square images of any size."""
    _, height, _ = data.image_shape
    patch = min(
        (side for side in range(1, height) if height % side == 0), key=lambda side: abs(height // side - PATCHES)
    )
    passes = max(part.least_passes, round(STEPS / max(1, len(data.train_inputs) // BATCH)))
    return TransformerRecipe(
        "vit-ln",
        part.width,
        part.layers,
        passes=passes,
        learning_rate=2e-3,
        weight_decay=0.5,
        batch_size=BATCH,
        patch=patch,
    )


def measure_transformers(
    settings: Settings, data: Dataset, cache: ModelCache, pair: int, hook: Callable[[str], Progress]
) -> Numbers:
    """Barriers, R and distances of one pair by every way.

    R and distances are of pure form, where the gains of norms are folded into the weights that read them: there alone
    do rotations leave a model's function as it is. Barriers are of the models as the way takes them.
    """
    part = settings.transformers
    assert part is not None
    rest, judging = held_out(data, part.judging)
    recipe = recipe_for(part, rest)
    first = settings.seed + 2 * pair
    seeds = (first, first + 1)
    models = [cache.get(recipe, rest, seed, progress=hook(f"train seed {seed}")) for seed in seeds]
    setting = Setting(rest, judging, learning={"steps": part.steps})
    pure = setting.spec(BY_LOSS, models[0])
    ways: dict[str, Numbers] = {}
    for way in part.ways:
        began = time.perf_counter()
        a, b, match = laid_over(way, models[0], models[1], setting, hook(f"match: {way}"))
        seconds = time.perf_counter() - began
        hook(f"measure: {way}")
        curve = loss_barrier(a, b, data.test_batches(), lambdas=settings.lambdas)
        folded = match is not None and bool(match.choice.spec.folds)
        a, b = (model if folded else fold_norms(model, pure) for model in (a, b))
        found = spectral_alignment(a, b, gammas=settings.gammas)
        ways[way] = {
            "lambdas": curve.lambdas.tolist(),
            "loss": curve.loss.tolist(),
            "accuracy": None if curve.accuracy is None else curve.accuracy.tolist(),
            "barrier": curve.barrier,
            "distance": _distance(a, b),
            "r": list(found.overall),
            "seconds": seconds,
        }
    return {"ways": ways}


def _distance(model_a: nn.Module, model_b: nn.Module) -> float:
    """The L2 distance of all parameters."""
    with torch.no_grad():
        squares = [
            float((a.double() - b.double()).square().sum())
            for a, b in zip(model_a.parameters(), model_b.parameters(), strict=True)
        ]
    return math.sqrt(math.fsum(squares))


def rotations(results: Results, trials: Trials) -> list[Part]:
    """Learned rotations leave less of a barrier than permutations, raise R, and do not leave the least distance."""
    last = len(results.settings.gammas) - 1

    def less(trial: Numbers) -> float:
        ways = trial["ways"]
        permuted = [float(ways[way]["barrier"]) for way in ways if way.startswith("permutations")]
        return min(permuted) - float(ways[BY_LOSS]["barrier"])

    def rise(trial: Numbers) -> float:
        return float(trial["ways"][BY_LOSS]["r"][last] - trial["ways"][BARE]["r"][last])

    def farther(trial: Numbers) -> float:
        ways = trial["ways"].values()
        lowest = min(ways, key=lambda way: float(way["barrier"]))
        return float(lowest["distance"]) / min(float(way["distance"]) for way in ways)

    return [
        Part("barrier by the better permutations less that by learned rotations", trials.stat(less), 0.0, why=SIGN),
        Part(f"rise of R({results.settings.gammas[last]:g}) by learned rotations", trials.stat(rise), 0.0, why=SIGN),
        Part(
            "distance by the way of the lowest barrier over the least distance of all ways",
            trials.stat(farther),
            1.0,
            why="alike",
        ),
    ]


def rank_correlation(trial: Numbers, of: Callable[[Numbers], float]) -> float:
    """Spearman's, over the ways of a pair, of the barrier with another number; 0 where one of them does not vary."""
    barriers, others = (_ranks([get(way) for way in trial["ways"].values()]) for get in (lambda w: w["barrier"], of))
    if min(float(np.std(barriers)), float(np.std(others))) == 0:
        return 0.0
    return float(np.corrcoef(barriers, others)[0, 1])


def _ranks(values: list[float]) -> list[float]:
    """Places in order, the mean of places for equal values."""
    ordered = sorted(values)
    return [ordered.index(value) + (ordered.count(value) - 1) / 2 for value in values]


def remark(results: Results, trials: Trials) -> str:
    """What distance and R tell of the barrier when ways are compared."""
    last = len(results.settings.gammas) - 1
    by_distance = trials.stat(lambda trial: rank_correlation(trial, lambda way: float(way["distance"])))
    by_r = trials.stat(lambda trial: rank_correlation(trial, lambda way: float(way["r"][last])))
    return (
        f"Over the ways the rank correlation of the barrier is {by_distance} with the distance and {by_r} with "
        f"R({results.settings.gammas[last]:g}): 1 or -1 would make a guide of either."
    )

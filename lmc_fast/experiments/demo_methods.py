"""The demo's comparison of methods: each lays all models over the first, and what that leaves between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
from torch import nn

from .._checks import fail_type
from .._progress import Progress
from ..analysis import loss_barrier
from ..matching import (
    Matching,
    activation_matching,
    sinkhorn_matching,
    straight_through_matching,
    weight_matching,
)
from ..merging import fisher_weights
from ..repairing import has_batchnorm
from ..symmetry import PermutationSpec
from .datasets import Batches, Dataset

__all__ = ["METHODS", "ByMethod", "by_method", "check_methods"]

# Of a method that learns from data.
BATCH = 256
FISHER_EXAMPLES = 512


def _training(data: Dataset) -> Batches:
    return Batches(data.train_inputs, data.train_targets, BATCH)


def _by_fisher(
    a: nn.Module, b: nn.Module, data: Dataset, spec: PermutationSpec, seed: int, progress: Progress
) -> Matching:
    """Weight matching by Fisher weights, told by plain distances as all others are."""
    few = data.train_batches(BATCH, FISHER_EXAMPLES)
    match = weight_matching(
        a, b, spec, entry_weights=[fisher_weights(model, few) for model in (a, b)], seed=seed, progress=progress
    )
    return replace(match, l2_before=_distance(a, b), l2_after=_distance(a, match.apply(b)))


def _distance(a: nn.Module, b: nn.Module) -> float:
    squares = [(p - q).detach().double().square().sum() for p, q in zip(a.parameters(), b.parameters(), strict=True)]
    return float(torch.stack(squares).sum().sqrt())


# (model a, model b, data, spec, seed, progress) -> Matching.
Method = Callable[[nn.Module, nn.Module, Dataset, PermutationSpec, int, Progress], Matching]

METHODS: dict[str, Method] = {
    "wm": lambda a, b, data, spec, seed, progress: weight_matching(a, b, spec, seed=seed, progress=progress),
    "am": lambda a, b, data, spec, seed, progress: activation_matching(a, b, _training(data), spec, progress=progress),
    "ste": lambda a, b, data, spec, seed, progress: straight_through_matching(
        a, b, _training(data), spec, seed=seed, progress=progress
    ),
    "sinkhorn": lambda a, b, data, spec, seed, progress: sinkhorn_matching(a, b, spec, seed=seed, progress=progress),
    "cosine": lambda a, b, data, spec, seed, progress: weight_matching(
        a, b, spec, similarity="cosine", seed=seed, progress=progress
    ),
    "fisher": lambda a, b, data, spec, seed, progress: _by_fisher(a, b, data, spec, seed, progress),
}


@dataclass(frozen=True)
class ByMethod:
    """What one method left between the models of one architecture, test part; means over pairs.

    Attributes:
        loss, accuracy: half-way between the first model and each other one; with BatchNorm, statistics re-estimated.
        barrier: at the midpoint there.
        others_barrier: at the midpoint between the others, both laid over the first; None with two models.
        l2_after: the distance to the first model.
        seconds: of one matching.
    """

    model: str
    method: str
    seeds: tuple[int, ...]
    loss: float
    accuracy: float | None
    barrier: float
    others_barrier: float | None
    l2_after: float
    seconds: float


def check_methods(methods: Sequence[str]) -> tuple[str, ...]:
    """Return the names, each once; ValueError for one that is none of `METHODS`, or for none at all."""
    if isinstance(methods, str) or not isinstance(methods, Sequence):
        fail_type("methods", "a sequence of names", methods)
    for name in methods:
        if name not in METHODS:
            raise ValueError(f"methods must be some of {', '.join(METHODS)}, got {name!r}")
    if not methods:
        raise ValueError(f"methods must be some of {', '.join(METHODS)}, got none")
    return tuple(dict.fromkeys(methods))


def by_method(
    case: str,
    method: str,
    models: Sequence[nn.Module],
    seeds: Sequence[int],
    matches: Sequence[Matching],
    data: Dataset,
) -> ByMethod:
    """Measure what the matches (of all models but the first, in order) left."""
    statistics = data.statistics_batches() if has_batchnorm(models[0]) else None
    moved = [match.apply(model) for match, model in zip(matches, models[1:], strict=True)]

    def halfway(a: nn.Module, b: nn.Module) -> tuple[float, float, float | None]:
        curve = loss_barrier(a, b, data.test_batches(), lambdas=[0.0, 0.5, 1.0], batchnorm_batches=statistics)
        return curve.midpoint_barrier, curve.midpoint_loss, curve.midpoint_accuracy

    to_first = [halfway(models[0], b) for b in moved]
    others = [halfway(b, c)[0] for b, c in combinations(moved, 2)]
    accuracies = [accuracy for _, _, accuracy in to_first if accuracy is not None]
    return ByMethod(
        model=case,
        method=method,
        seeds=tuple(seeds),
        loss=float(np.mean([loss for _, loss, _ in to_first])),
        accuracy=float(np.mean(accuracies)) if accuracies else None,
        barrier=float(np.mean([barrier for barrier, _, _ in to_first])),
        others_barrier=float(np.mean(others)) if others else None,
        l2_after=float(np.mean([match.l2_after for match in matches])),
        seconds=float(np.mean([match.seconds for match in matches])),
    )

"""Barriers between all pairs of several models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from .._calls import Forward, LossFn
from .._checks import check_type, fail_type
from .._models import unwrapped
from .._modes import neutral
from .._progress import Progress, tracking
from ..matching import ManyMatching
from .barrier import loss_barrier

__all__ = ["pairwise_barriers"]


@neutral
def pairwise_barriers(
    models: Sequence[nn.Module],
    many: ManyMatching | None,
    batches: Iterable[Any],
    *,
    at: str = "midpoint",
    lambdas: int = 25,
    loss_fn: LossFn = nn.functional.cross_entropy,
    forward: Forward | None = None,
    batchnorm_batches: Iterable[Any] | None = None,
    progress: Progress = False,
) -> NDArray[np.float64]:
    """The loss barrier between every two models, each carried into the common frame.

    Args:
        models: two at least; left as they are.
        many: permutations of all models; None: as they are.
        batches: (inputs, targets) pairs that can be gone through again and again. `_batches` tells what else a batch
            may be.
        at: "midpoint", the excess at lambda = 1/2; or "worst", the largest over `lambdas` points.
        lambdas: how many points, for "worst".
        loss_fn, forward, batchnorm_batches: as of `loss_barrier`.
        progress: True for a bar, a function (description, done, total), or a `Logger`.

    Returns:
        float64 [models, models], symmetric, zero on the diagonal.

    Raises:
        TypeError: an argument of the wrong kind; `batches` that can be gone through only once.
        ValueError: fewer than two models, models of different shapes, or another number of them than was matched.
    """
    if isinstance(models, nn.Module) or not isinstance(models, Sequence):
        fail_type("models", "a sequence of modules", models)
    if len(models) < 2:
        raise ValueError(f"models must hold two models at least, got {len(models)}")
    models = [unwrapped(f"models[{m}]", model) for m, model in enumerate(models)]
    if at not in ("midpoint", "worst"):
        raise ValueError(f"at must be 'midpoint' or 'worst', got {at!r}")
    if many is not None:
        check_type("many", many, ManyMatching, "a ManyMatching or None")
        if len(many) != len(models):
            raise ValueError(f"models must be the {len(many)} that were matched, got {len(models)}")
    barriers = np.zeros((len(models), len(models)))
    points: int | list[float] = [0.0, 0.5, 1.0] if at == "midpoint" else lambdas
    pairs = list(combinations(range(len(models)), 2))
    with tracking(progress, "barriers", len(pairs)) as advance:
        for i, j in pairs:
            curve = loss_barrier(
                models[i],
                models[j],
                batches,
                None if many is None else many.pairwise(i, j),
                lambdas=points,
                loss_fn=loss_fn,
                forward=forward,
                batchnorm_batches=batchnorm_batches,
            )
            barriers[i, j] = barriers[j, i] = curve.midpoint_barrier if at == "midpoint" else curve.barrier
            advance(f"{i}, {j}: {barriers[i, j]:.4f}", barrier=float(barriers[i, j]))
    return barriers

"""Rotations learned by the task's loss on the line between the models.

Groups of continuous kinds turn, by Cayley's map of skew matrices or by angles, down the gradient of the loss at points
between model a and the turned model b, as Theus et al. do for transformers ("Generalized Linear Mode Connectivity for
Transformers", NeurIPS 2025). Low losses half-way do not make a low path: what is kept is judged by all of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import nn

from .._backend import check_device
from .._batches import check_batches
from .._calls import Forward
from .._checks import check_finite, check_int, check_type, fail_type
from .._models import Model, check_numbers, check_same_tensors, tensors_of
from .._modes import neutral
from .._progress import Progress
from ..symmetry import Permutations, PermutationSpec, Transforms, check_pure
from ..symmetry.bench import generators_kept
from ..symmetry.kinds import KINDS
from ..symmetry.transforms import Choice, choice_for
from .activation import activation_matching
from .engine.learning import Check, Turning, train_turnings
from .engine.measures import distance_between, objective_of
from .engine.seen import seen
from .engine.task import LossFn, TaskLoss
from .results.matching import Matching, Sweep
from .verification import ensure_verified
from .weight import weight_matching

__all__ = [
    "check_learning",
    "check_turns",
    "first_of",
    "inner_points",
    "learned_matching",
    "start_of",
    "sweeps_of_checks",
    "tasks_of",
]

POINTS = ("excess", "midpoint", "random", "grid")
STARTS = ("activations", "weights", "identity")
# Of the batches, those that judge where no others are given.
JUDGING = 4


@neutral
def learned_matching(
    model_a: nn.Module,
    model_b: Model,
    batches: Iterable[Any],
    spec: PermutationSpec,
    *,
    loss_fn: LossFn = nn.functional.cross_entropy,
    forward: Forward | None = None,
    init: str | Choice | Matching = "activations",
    validation: Iterable[Any] | None = None,
    steps: int = 300,
    lr: float = 1e-2,
    points: str = "excess",
    lambdas: int = 9,
    checks: int = 10,
    patience: int = 5,
    tolerance: float = 0.0,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Progress = False,
) -> Matching:
    """Turn model b's units, by the loss between the models, so that the line from model a to it has no barrier.

    Groups of continuous kinds ("orthogonal", "orthogonal_keeping_ones", "phases") learn; the others stay where the
    start has them. The path is what is judged, at the start and `checks` times on the way, and the best one is kept.

    Args:
        model_a: a module in pure form (`fold_norms`), whose forward is used; not changed, nor are its modes and
            buffers.
        model_b: a module or a state dict of the same architecture, in pure form too; not changed.
        batches: (inputs, targets) pairs, gone through again and again, one step each. `_batches` tells what else a
            batch may be.
        spec: what may be turned and permuted (`derive_spec` finds it with ``rotations=True``); bound to the models
            here.
        loss_fn, forward: as of `straight_through_matching`.
        init: where to start: at what activation matching finds on the first batches ("activations"), at what weight
            matching finds ("weights"), at the models as they are ("identity"), or at these Transforms, or Matching.
        validation: batches by whose loss along the path the best choice is kept; None: the first four of `batches`.
        steps: at most.
        lr: Adam's rate at the start; it falls to zero along a half cosine.
        points: where on the line the loss of a step is taken: "excess" (a point that is judged, drawn by how far it
            lay above the line between the ends at the last look), "midpoint", "random" (any), or "grid" (the points
            that are judged, in random order); by `seed`.
        lambdas: how many evenly spaced points inside the path are judged.
        checks: how often, the start apart.
        patience: end after so many looks in a row without a better one.
        tolerance: end as soon as no point of the path lies by more than this above the line between its ends.
        seed: of what is random. Same inputs and same seed, same result; the global generators are neither read nor
            moved.
        device: where to compute; None: where model a's tensors are.
        progress: True for a bar, a function (description, done, total), or a `Logger`.

    Returns:
        A `Matching` with the best choice seen, rebuilt in float64. Its history has one entry a look, whose objective is
        minus the barrier seen; `converged` tells whether the search ended by itself, by `tolerance` or `patience`.

    Raises:
        SymmetryError: the spec does not keep model a's function.
        TypeError: a model a that is no module, batches of another kind, or another argument of the wrong kind.
        ValueError: models of different shapes or not in pure form, a spec that does not fit them or in which nothing
            turns, weights or a loss that are not finite, or an option out of range.
    """
    began = time.perf_counter()
    tensors_a, tensors_b = tensors_of("model_a", model_a), tensors_of("model_b", model_b)
    tensors_b = check_same_tensors("model_b", tensors_b, "model_a", tensors_a)
    check_type("model_a", model_a, nn.Module, "a torch.nn.Module, for a loss of the task")
    batches = check_batches("batches", batches)
    check_learning(
        steps=steps,
        lr=lr,
        points=points,
        lambdas=lambdas,
        checks=checks,
        patience=patience,
        tolerance=tolerance,
        seed=seed,
    )
    where = check_device("device", device) or next((t.device for t in tensors_a.values()), torch.device("cpu"))
    check_type("spec", spec, PermutationSpec, "a PermutationSpec")
    spec = spec.bind(model_a)
    check_turns(spec)
    check_pure("model_a", tensors_a, spec)
    check_pure("model_b", tensors_b, spec)
    check_numbers("model_a", tensors_a, spec.axes)
    check_numbers("model_b", tensors_b, spec.axes)
    view = seen([model_a, model_b], [tensors_a, tensors_b], spec)
    (tensors_a, tensors_b), names = view.tensors, view.names
    few = first_of(batches)
    task, judge = tasks_of(model_a, batches, few, validation, loss_fn, names, where, forward)
    verified = ensure_verified("learned_matching", model_a, spec, batches=batches, forward=forward, loss_fn=loss_fn)
    start = start_of(init, model_a, model_b, few, spec, forward, where)
    turning = Turning(view.spec, tensors_b, task.parameters, start, where)
    (best,), history, ended = train_turnings(
        task,
        judge,
        tensors_a,
        [turning],
        steps=steps,
        learning_rate=lr,
        points=points,
        lambdas=inner_points(lambdas),
        checks=checks,
        patience=patience,
        tolerance=tolerance,
        seed=seed,
        progress=progress,
    )
    weights = dict.fromkeys(names, 1.0)
    objective = objective_of(tensors_a, tensors_b, weights, best)
    return Matching(
        choice=best.bound_to(spec),
        objective=objective,
        l2_before=distance_between(tensors_a, tensors_b, weights, choice_for(view.spec)),
        l2_after=distance_between(tensors_a, tensors_b, weights, best),
        converged=ended,
        history=sweeps_of_checks(history, [turning]),
        seconds=time.perf_counter() - began,
        method=f"learned matching, {points} points",
        **verified._asdict(),
    )


def first_of(batches: Iterable[Any]) -> list[Any]:
    """The first batches, which start the search, and judge where no others are given."""
    with generators_kept():
        return list(islice(iter(batches), JUDGING))


def inner_points(count: int) -> list[float]:
    """So many evenly spaced points between 0 and 1, neither of them among these."""
    return [(k + 1) / (count + 1) for k in range(count)]


def tasks_of(
    model: nn.Module,
    batches: Iterable[Any],
    few: Sequence[Any],
    validation: Iterable[Any] | None,
    loss_fn: LossFn,
    names: Sequence[str],
    device: torch.device,
    forward: Forward | None,
) -> tuple[TaskLoss, TaskLoss]:
    """What is learned from, and what judges: `validation`, or a few of the batches."""
    task = TaskLoss(model, batches, loss_fn, names, device, forward)
    judging, argument = (few, "batches") if validation is None else (validation, "validation")
    return task, TaskLoss(model, judging, loss_fn, names, device, forward, argument)


def check_learning(
    *,
    steps: int,
    lr: float,
    points: str,
    patience: int,
    seed: int,
    lambdas: int = 1,
    checks: int = 1,
    tolerance: float = 0.0,
) -> None:
    """Raise TypeError or ValueError unless these options are what `learned_matching` takes."""
    for name, count in {"steps": steps, "lambdas": lambdas, "checks": checks, "patience": patience}.items():
        check_int(name, count, 1)
    if not check_finite("lr", lr) > 0:
        raise ValueError(f"lr must be above 0, got {lr}")
    check_finite("tolerance", tolerance)
    if points not in POINTS:
        raise ValueError(f"points must be one of {', '.join(map(repr, POINTS))}, got {points!r}")
    check_int("seed", seed, 0)


def check_turns(spec: PermutationSpec) -> None:
    """Raise ValueError for a spec in which nothing turns, so that there is nothing for a gradient to learn."""
    kinds = {group.kind for group in spec.groups.values()}
    cpu = torch.device("cpu")
    found = [kind for kind in kinds if KINDS[kind].learned(KINDS[kind].identity((1,)), cpu) is not None]
    if not found:
        raise ValueError(
            "spec must have groups that turn, for a gradient to learn, but has "
            f"{' and '.join(sorted(kinds)) or 'no'} groups alone: derive_spec(..., rotations=True) finds them, and "
            "straight_through_matching learns permutations"
        )


def start_of(
    init: object,
    model_a: nn.Module,
    model_b: Model,
    few: Sequence[Any],
    spec: PermutationSpec,
    forward: Forward | None,
    device: torch.device,
) -> Choice:
    """The choice to begin with, of this spec."""
    if isinstance(init, str):
        if init not in STARTS:
            raise ValueError(
                f"init must be one of {', '.join(map(repr, STARTS))}, Transforms or a Matching, got {init!r}"
            )
        if init == "identity":
            return choice_for(spec)
        if init == "weights":
            return weight_matching(model_a, model_b, spec, device=device).choice
        check_type("model_b", model_b, nn.Module, "a torch.nn.Module where init='activations' is to watch it run")
        assert isinstance(model_b, nn.Module)
        return activation_matching(model_a, model_b, few, spec, unseen="weights", forward=forward, device=device).choice
    if isinstance(init, Matching):
        init = init.choice
    if not isinstance(init, (Permutations, Transforms)):
        fail_type("init", "a name, Transforms or a Matching", init)
    # Checked against this spec: they may have been made for another model.
    return choice_for(spec, dict(init))


def sweeps_of_checks(history: Sequence[Check], turnings: Sequence[Turning]) -> tuple[Sweep, ...]:
    """What the judge saw, as a matching keeps it: an entry a look, with minus the barrier as the objective."""
    groups = sum(len(turning.learned) for turning in turnings)
    return tuple(Sweep(-check.barrier, groups, groups, check.seconds) for check in history)

"""Several models at once: permutations, and rotations, that carry all of them into one common frame."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._backend import check_device
from .._calls import Forward, check_forward
from .._checks import check_int, check_type, fail_type
from .._entry_weights import checked_entry_weights
from .._models import Model, check_numbers, check_same_tensors, tensors_of
from .._modes import neutral
from .._progress import Progress
from ..ops.permuted_dot import Overlap, overlap
from ..symmetry import Permutations, PermutationSpec, check_pure
from ..symmetry.transforms import Choice, between, choice_for
from ..symmetry.views import check_owners_around
from .engine.descent import CoordinateDescent
from .engine.measures import distance_between, distance_from, objective_of
from .engine.merge_many import ManyDescent
from .engine.seen import seen
from .engine.task import LossFn, TaskLoss
from .engine.turning import TurningDescent
from .engine.turning_many import TurningMany
from .engine.universe import frank_wolfe_many
from .given import spec_of
from .learned import check_turns
from .learned_many import Learning, LearningTask, learn_together
from .results.many import ManyMatching
from .results.matching import Sweep
from .starts import starts_of_many
from .straight_through import Hat, Optimizer, check_training, train_hats
from .verification import Verified, ensure_verified
from .weight import check_finite_weights, sweeps_of, weight_matching

__all__ = ["match_many"]

METHODS = ("merge_many", "pairwise", "c2m3", "ste_mm", "learned")
# Methods that go by the loss of the task.
BY_LOSS = ("ste_mm", "learned")


@neutral
def match_many(
    models: Sequence[Model],
    spec: PermutationSpec | None = None,
    *,
    method: str = "merge_many",
    reference: int = 0,
    init: str | Sequence[Choice] | ManyMatching | None = None,
    entry_weights: Sequence[Mapping[str, Tensor]] | None = None,
    entry_weighting: str = "sum",
    max_sweeps: int = 100,
    batches: Iterable[Any] | None = None,
    loss_fn: LossFn = nn.functional.cross_entropy,
    forward: Forward | None = None,
    epochs: int = 5,
    learning_rate: float | None = None,
    optimizer: Optimizer | None = None,
    mixing: str | None = None,
    validation: Iterable[Any] | None = None,
    patience: int | None = None,
    steps: int = 300,
    discrete: str = "frozen",
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Progress = False,
    example_inputs: Any = None,
) -> ManyMatching:
    """Find what of a spec's permutations, rotations and the like carries models into one frame, for merging them.

    Args:
        models: two at least, modules or state dicts of one architecture; none is changed.
        spec: what may be permuted; bound to the models here. None: what `derive_spec` finds in the reference, a module,
            with `example_inputs`, or else the inputs of the first batch.
        method: "merge_many": each model in turn is laid over the sum of the others until nothing moves (Ainsworth et
            al., "Git Re-Basin", ICLR 2023, algorithm 3). "pairwise": each by itself over the reference, as
            `weight_matching` does. "c2m3": all groups of all models at once, over doubly stochastic matrices
            (Crisostomi et al., "C2M3", NeurIPS 2024), then as "merge_many" from there; it takes groups inside their
            owners alone. "ste_mm": learned by the loss
            of mixtures of all models (Ito et al., "STE-MM", ICML 2025), which needs `batches` and a reference that is
            a module. These two take groups of permutations alone. "learned": groups that turn do so by the loss on the
            lines between all models, as by `learned_matching`; it needs `batches` and a reference that is a module.
        reference: the model that keeps its units where they are.
        init: where to start: "anchored" (each over the reference by weight matching), "identity", "random" (by
            `seed`), "activations" (for "learned": each over the reference by activation matching), Permutations or
            Transforms of all models, or another result. None: "activations" for "learned", else "anchored".
        entry_weights, entry_weighting: for "pairwise" alone, how much each entry of each model counts, and how two of
            them are combined, as of `weight_matching`. The objective and the distances stay those of plain weights.
        max_sweeps: end after so many passes over the groups, converged or not; C2M3's steps too.
        batches: for "ste_mm" and "learned", (inputs, targets) pairs; one step each.
        loss_fn, forward, epochs, learning_rate, optimizer, validation, patience: for "ste_mm", as of
            `straight_through_matching`; for "learned", as of `learned_matching`, where neither epochs nor optimizer
            count. None: what is the default there.
        mixing: for "ste_mm", "random" (other shares in each step, uniform on the simplex, by `seed`), or "midpoint"
            (equal ones); None: "random". For "learned", where on the line between two models a step is taken: as
            `points` of `learned_matching`, None: "excess".
        steps: for "learned", at most.
        discrete: for "learned", what groups that change places and signs alone do: "frozen", as the start has them; or
            "straight_through", which lets them follow the loss, as `learned_matching` does.
        seed: of what is random. Same inputs and same seed, same result; the global generators are neither read nor
            moved.
        device: where to compute; None: where the reference's tensors are. Assignments are solved on the CPU.
        progress: True for a bar, a function (description, done, total), or a `Logger`.
        example_inputs: what the spec is derived from, where it is left out and there is no batch that will do.

    Returns:
        A `ManyMatching`, which `merge` takes as it is. Between m models m (m - 1) / 2 sets of gains are kept. With
        "ste_mm" and "learned" the spec is verified on the reference and a few examples of the first batch, unless it
        was before (`ManyMatching.verified`).

    Raises:
        TypeError: a model that is neither a module nor a state dict, or another argument of the wrong kind.
        ValueError: fewer than two models, models of different shapes, a spec that does not fit them, weights or a
            loss that are not finite, batches missing or not taken, entry weights with another method than "pairwise",
            or an option out of range.
        SymmetryError: the spec does not keep the reference's function.
    """
    began = time.perf_counter()
    if isinstance(models, (str, Mapping, nn.Module)) or not isinstance(models, Sequence):
        fail_type("models", "a sequence of models", models)
    if len(models) < 2:
        raise ValueError(f"models must hold two models at least, got {len(models)}")
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}, got {method!r}")
    if not check_int("reference", reference, 0) < len(models):
        raise ValueError(f"reference must be one of the {len(models)} models, got {reference}")
    check_int("max_sweeps", max_sweeps, 1)
    check_int("seed", seed, 0)
    check_forward(forward)
    if (batches is None) == (method in BY_LOSS):
        wanted = "be given" if batches is None else "be left out"
        raise ValueError(f"batches must {wanted} for method={method!r}")
    if entry_weights is not None and method != "pairwise":
        raise ValueError(f"entry_weights must come with method='pairwise', which weighs entries, got {method!r}")
    if method in BY_LOSS:
        check_type(f"models[{reference}]", models[reference], nn.Module, "a torch.nn.Module, for a loss of the task")
    ours = Learning.of(method, learning_rate, mixing, patience, steps, discrete, seed)
    if method == "ste_mm":
        check_training(epochs=epochs, sweeps=None, patience=ours.patience, learning_rate=ours.rate, mixing=ours.mixing)
    where = check_device("device", device)
    chosen = spec_of(
        models[reference],
        spec,
        argument=f"models[{reference}]",
        example_inputs=example_inputs,
        batches=batches,
        forward=forward,
        loss_fn=loss_fn,
    )
    work = _Work.of(models, chosen, reference, where)
    if method in ("c2m3", "ste_mm"):
        work.spec.check_only_permutes(f"method={method!r}")
    if method == "learned":
        check_turns(work.spec)
    if method == "c2m3":
        check_owners_around(work.spec, "method='c2m3'")
    if init is None:
        init = "activations" if method == "learned" else "anchored"
    starts, how = starts_of_many(init, work.spec, work.order, seed, method), init if isinstance(init, str) else "given"
    verified = Verified(work.told.verified, "")
    if method == "ste_mm":
        given = {"batches": batches} if validation is None else {"batches": batches, "validation": validation}
        task, *others = (
            TaskLoss(models[reference], of, loss_fn, work.names, work.device, forward, argument)
            for argument, of in given.items()
        )
        judge = others[0] if others else task
        verified = ensure_verified(
            "match_many", models[reference], work.told, batches=batches, forward=forward, loss_fn=loss_fn
        )
        hats = _hats(work, starts, how, max_sweeps)
        best, history, converged = train_hats(
            task,
            judge,
            work.tensors[0],
            hats,
            epochs=epochs,
            optimizer=optimizer or (lambda tensors: torch.optim.Adam(tensors, lr=ours.rate)),
            mixing=ours.mixing,
            sweeps=None,
            patience=ours.patience,
            seed=seed,
            progress=progress,
        )
        found = _Found([starts[0], *best], history, converged)
    elif method == "learned":
        assert batches is not None
        if how == "anchored":
            starts = list(_pairwise(work, starts, how, max_sweeps, False).choices)
        ordered = [models[m] for m in work.order]
        learning = LearningTask.of(ordered[0], batches, validation, loss_fn, work.names, work.device, forward)
        verified = learning.verified(work.told)
        if how == "activations":
            starts = learning.by_activations(ordered, work.told)
        found = _Found(*learn_together(learning, work.spec, work.tensors, starts, ours, progress))
    elif entry_weights is not None:
        by_entries = {"entry_weighting": entry_weighting, "max_sweeps": max_sweeps, "progress": progress}
        found = _by_entries(work, starts, how, entry_weights, by_entries)
    elif method == "pairwise":
        found = _pairwise(work, starts, how, max_sweeps, progress)
    else:
        found = _together(work, starts, how, max_sweeps, seed if method == "c2m3" else None, progress)
    method += f", {ours.mixing}" if method in BY_LOSS else ""
    method += ", straight through" if discrete != "frozen" else ""
    return work.result(found, method, time.perf_counter() - began, verified)


@dataclass(frozen=True)
class _Found:
    """What a search led to, the reference's choice first."""

    choices: Sequence[Choice]
    history: Sequence[Sweep]
    converged: bool


@dataclass(frozen=True)
class _Work:
    """The models, the reference first.

    Attributes:
        spec: what matching looks at: effective weights in the place of what they are computed from.
        told: the caller's, bound to the reference.
        order: for each model its place in the caller's list.
        names: the parameters that count.
        overlaps: for each pair norms and inner products.
    """

    spec: PermutationSpec
    told: PermutationSpec
    order: list[int]
    tensors: list[dict[str, Tensor]]
    names: list[str]
    overlaps: dict[tuple[int, int], dict[str, Overlap]]
    device: torch.device

    @classmethod
    def of(cls, models: Sequence[Model], spec: PermutationSpec, reference: int, device: torch.device | None) -> _Work:
        """Check the models, against the first of the list, and take their tensors."""
        tensors = [tensors_of(f"models[{m}]", model) for m, model in enumerate(models)]
        for m, of_model in enumerate(tensors):
            tensors[m] = check_same_tensors(f"models[{m}]", of_model, "models[0]", tensors[0])
        told = spec.bind(models[reference])
        # By the names of the first.
        bound = told.bind(tensors[0])
        for m, of_model in enumerate(tensors):
            check_numbers(f"models[{m}]", of_model, bound.axes)
            check_pure(f"models[{m}]", of_model, bound)
        view = seen(models, tensors, bound)
        tensors, names = view.tensors, view.names
        for m, of_model in enumerate(tensors):
            check_finite_weights(f"models[{m}]", of_model, names)
        order = [reference, *(m for m in range(len(models)) if m != reference)]
        where = device or next((t.device for t in tensors[reference].values()), torch.device("cpu"))
        ordered = [{name: tensor.to(where) for name, tensor in tensors[m].items()} for m in order]
        overlaps = {
            (i, j): {name: overlap(ordered[i][name], ordered[j][name]) for name in names}
            for i, j in combinations(range(len(models)), 2)
        }
        return cls(view.spec, told, order, ordered, names, overlaps, where)

    def result(self, found: _Found, method: str, seconds: float, verified: Verified) -> ManyMatching:
        """Measure what was found, in the frame of the reference and in the caller's order."""
        count, weights = len(self.order), dict.fromkeys(self.names, 1.0)
        # All are moved alike, which changes no objective.
        choices = [choice_for(self.spec), *(between(found.choices[0], of_model) for of_model in found.choices[1:])]
        total, before, after = 0.0, np.zeros((count, count)), np.zeros((count, count))
        for (i, j), overlaps in self.overlaps.items():
            norms = sum(part.a + part.b for part in overlaps.values())
            for distances, relative in (
                (before, choice_for(self.spec)),
                (after, between(choices[i], choices[j])),
            ):
                pair = (self.tensors[i], self.tensors[j], weights, relative)
                objective = objective_of(*pair)
                here = np.ix_([self.order[i], self.order[j]], [self.order[i], self.order[j]])
                distance = distance_from(norms, objective, partial(distance_between, *pair))
                distances[here] = [[0.0, distance], [distance, 0.0]]
            total += objective
        given = {m: choice_for(self.told, of) for m, of in zip(self.order, choices, strict=True)}
        return ManyMatching(
            permutations=tuple(given[m] for m in range(count)),
            objective=total,
            l2_before=before,
            l2_after=after,
            reference=self.order[0],
            converged=found.converged,
            history=tuple(found.history),
            seconds=seconds,
            method=method,
            **verified._asdict(),
        )


def _pairwise(work: _Work, starts: Sequence[Choice], how: str, max_sweeps: int, progress: Progress) -> _Found:
    """Each model over the reference, by itself."""
    found, converged, sweeps = [choice_for(work.spec)], True, []
    weights = dict.fromkeys(work.names, 1.0)
    for m in range(1, len(starts)):
        pair, start = (work.spec, work.tensors[0], work.tensors[m], weights), between(starts[0], starts[m])
        reached: Mapping[str, Any]
        if isinstance(start, Permutations):
            descent = CoordinateDescent(*pair, start, (), work.device, work.overlaps[0, m])
            settled, reached = descent.settle(how == "anchored", max_sweeps, progress), descent.choices
        else:
            turning = TurningDescent(*pair, start, (), work.device, work.overlaps[0, m])
            settled = turning.settle(turning.in_order if how != "anchored" else None, max_sweeps, progress)
            reached = turning.elements
        sweeps += sweeps_of(settled.steps, settled.objective)
        converged = converged and settled.converged
        found.append(choice_for(work.spec, reached))
    return _Found(found, sweeps, converged)


def _by_entries(
    work: _Work, starts: Sequence[Choice], how: str, given: Sequence[Mapping[str, Tensor]], options: dict[str, Any]
) -> _Found:
    """As `_pairwise`, by weighted entries."""
    places = sorted(range(len(starts)), key=work.order.__getitem__)
    checked = checked_entry_weights("entry_weights", given, [work.tensors[place] for place in places])
    weights = [checked[m] for m in work.order]
    matches = [
        weight_matching(
            work.tensors[0],
            work.tensors[m],
            work.spec,
            init="anchored" if how == "anchored" else between(starts[0], starts[m]),
            entry_weights=(weights[0], weights[m]),
            device=work.device,
            **options,
        )
        for m in range(1, len(starts))
    ]
    choices = [choice_for(work.spec), *(choice_for(work.spec, match.choice) for match in matches)]
    history = [sweep for match in matches for sweep in match.history]
    return _Found(choices, history, all(match.converged for match in matches))


def _hats(work: _Work, starts: Sequence[Choice], how: str, max_sweeps: int) -> list[Hat]:
    """A hat for each model but the reference, laid over that by weight matching unless the start is given."""
    hats = []
    for m in range(1, len(starts)):
        start = Permutations(work.spec, between(starts[0], starts[m]))
        hat = Hat(work.spec, work.tensors[0], work.tensors[m], work.names, start, work.device)
        if how != "given":
            hat.descent.settle(how == "anchored", max_sweeps, False)
        hats.append(hat)
    return hats


def _together(
    work: _Work,
    starts: Sequence[Choice],
    how: str,
    max_sweeps: int,
    seed: int | None,
    progress: Progress,
) -> _Found:
    """Each model in turn over the sum of the others; with a seed, after Frank-Wolfe from there."""
    if not work.spec.only_permutes:
        if how == "anchored":
            starts = _pairwise(work, starts, how, max_sweeps, False).choices
        turned = TurningMany(work.spec, work.tensors, work.names, starts, work.device)
        steps, converged = turned.run(max_sweeps, progress)
        return _Found(turned.choices, sweeps_of(steps, turned.objective()), converged)
    descent = ManyDescent(work.spec, work.tensors, work.names, work.overlaps, work.device)
    if how == "anchored":
        descent.anchor(max_sweeps)
    else:
        descent.begin_at([start.choices for start in starts if isinstance(start, Permutations)])
    if seed is not None:
        before, reached = [dict(choices) for choices in descent.choices], descent.objective()
        frank_wolfe_many(descent, seed, max_sweeps, progress)
        if descent.objective() < reached:
            descent.begin_at(before)
    steps, converged = descent.run(max_sweeps, progress)
    choices = [Permutations(work.spec, of_model) for of_model in descent.choices]
    return _Found(choices, sweeps_of(steps, descent.objective()), converged)

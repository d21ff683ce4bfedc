"""Sinkhorn re-basin: permutations learned by gradient descent over doubly stochastic matrices.

Pena et al., "Re-basin via implicit Sinkhorn differentiation" (CVPR 2023): every group's permutation is relaxed to a
doubly stochastic matrix with a gradient, so that any loss of the merged model can choose it, the task's own included;
at the end the matrices are rounded by assignments.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._backend import check_device
from .._batches import Batch, differentiable
from .._calls import Forward
from .._checks import check_finite, check_int, fail_type
from .._models import (
    Model,
    accumulate_dtype,
    check_numbers,
    check_same_tensors,
    tensors_of,
)
from .._modes import neutral
from .._progress import Progress, tracking
from .._tensors import FLOATS
from ..ops.permuted_dot import permuted_dot
from ..symmetry import Permutations, PermutationSpec
from ..symmetry.mixing import SoftPermutations, mixed
from .engine.seen import seen
from .engine.sinkhorn_operator import Relaxed
from .engine.sums import squared_distance
from .engine.task import LossFn, TaskLoss
from .given import spec_of
from .results.matching import Matching, Sweep
from .verification import ensure_verified

__all__ = ["sinkhorn_matching"]

LOSSES = ("distance", "midpoint", "random")
# Iterations at least, for matrices that are kept.
POLISH = 2000


@neutral
def sinkhorn_matching(
    model_a: Model,
    model_b: Model,
    spec: PermutationSpec | None = None,
    *,
    batches: Iterable[Any] | None = None,
    loss: str = "distance",
    loss_fn: LossFn = nn.functional.cross_entropy,
    forward: Forward | None = None,
    init: str | Permutations = "uniform",
    steps: int = 200,
    learning_rate: float = 0.1,
    temperature: float = 1.0,
    iterations: int = 100,
    check_every: int = 10,
    patience: int = 10,
    keep_soft: bool = False,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Progress = False,
    example_inputs: Any = None,
) -> Matching:
    """Find permutations of model b's units by gradient descent on a loss of the relaxed, merged model.

    Each group has a matrix X of scores; its relaxed permutation is the doubly stochastic matrix P = exp(X / temperature
    + f + g). Model b's tensors are mixed by P on every axis of the group, and X learns by Adam through P. A group that
    another owns has a matrix for each unit of its owner, which goes where the owner's matrix takes that unit. From
    time to time P is rounded to the permutations of greatest <P, permutation> (exactly, owned groups inside their
    owners), and these are judged by the loss; the best ones are returned.

    Args:
        model_a, model_b: modules or state dicts of one architecture, in any mix. Neither is changed. A loss of the
            task takes a module as model a: it computes with that one's forward.
        spec: what may be permuted; bound to the models here. None: what `derive_spec` finds in model a, a module, with
            `example_inputs`, or else the inputs of the first batch.
        batches: (inputs, targets) pairs, needed by a loss of the task: a step takes one batch, and a check all.
            `_batches` tells what else a batch may be.
        loss: "distance": ||theta_a - P(theta_b)||^2 over all weights; "midpoint": `loss_fn` of the model half-way
            between theta_a and P(theta_b); "random": the same at a random point of the line, another in each step
            (rounded permutations are judged at the middle).
        loss_fn: mean loss of a batch from (outputs, targets). The forward pass is in eval mode, but for BatchNorm,
            which takes the statistics of the batch: those of a merged model are not known. A batch with one value for
            each channel takes those of the batch before.
        forward: (model, batch) -> outputs, where a batch is not to be read by the rule of `_batches`; `loss_fn` is
            given (outputs, batch) then.
        init: where to start: "uniform" (all units alike), "identity", "random" (by `seed`), or Permutations (not
            changed), of which each entry starts with three quarters of its row.
        steps: steps of Adam at most.
        learning_rate: Adam's, on the scores.
        temperature: how soft P is for given scores. The smaller, the more iterations P takes; columns sum to 1 in any
            case, rows to 1e-6 unless iterations run out.
        iterations: Sinkhorn's, at most, in one step; they go on from those of the step before.
        check_every: steps from one rounding to the next.
        patience: how many roundings in a row may bring no better loss before the search ends.
        keep_soft: whether the result keeps the doubly stochastic matrices P of the last step (`Matching.soft`), as
            float32 or float64 on the CPU; ``match.soft.apply(model_b)`` mixes model b's units by them.
        seed: of a random start and of the random points. Same inputs and same seed, same result; the global
            generators are neither read nor moved.
        device: where to compute; None: where model a's tensors are. Assignments are solved on the CPU.
        progress: True for a bar, a function (description, done, total), or a `Logger`.
        example_inputs: what the spec is derived from, where it is left out and there is no batch that will do.

    Returns:
        A `Matching`; ``.apply(model_b)`` gives the permuted model. Its history has one entry a rounding; `converged`
        tells whether patience ended the search. With a module and batches the spec is verified on model a and a few
        examples of the first batch, unless it was before (`Matching.verified`).

    Raises:
        SymmetryError: the spec does not keep model a's function.
        TypeError: a model that is neither a module nor a state dict, a loss of the task without a module as model a or
            without batches, or another argument of the wrong kind.
        ValueError: models of different shapes, a spec that does not fit them, weights or a loss that are not finite,
            no batches, or an option out of range.
    """
    began = time.perf_counter()
    tensors_a, tensors_b = tensors_of("model_a", model_a), tensors_of("model_b", model_b)
    tensors_b = check_same_tensors("model_b", tensors_b, "model_a", tensors_a)
    counts = {"steps": steps, "iterations": iterations, "check_every": check_every, "patience": patience}
    for name, count in counts.items():
        check_int(name, count, 1)
    check_int("seed", seed, 0)
    for name, number in {"learning_rate": learning_rate, "temperature": temperature}.items():
        if not check_finite(name, number) > 0:
            raise ValueError(f"{name} must be above 0, got {number}")
    device = check_device("device", device)
    given = spec_of(
        model_a,
        spec,
        example_inputs=example_inputs,
        batches=batches,
        forward=forward,
        loss_fn=None if loss == "distance" else loss_fn,
    )
    given.check_only_permutes("sinkhorn_matching")
    if not isinstance(keep_soft, bool):
        fail_type("keep_soft", "True or False", keep_soft)
    spec = given.bind(model_a)
    check_numbers("model_a", tensors_a, spec.axes)
    check_numbers("model_b", tensors_b, spec.axes)
    if not spec.groups:
        raise ValueError("spec must have one group at least, got none: there is nothing to learn")
    view = seen([model_a, model_b], [tensors_a, tensors_b], spec)
    start = _start(init, view.spec, seed)
    tensors_a, tensors_b = view.tensors
    pair = _Pair(view.spec, tensors_a, tensors_b, view.names, device)
    if not pair.counted:
        raise ValueError("model_a must have floating point weights on the axes of spec, got none")
    judge: _Distance | _Task
    if loss == "distance":
        judge = _Distance(pair)
    elif loss in LOSSES:
        judge = _Task(pair, model_a, batches, loss_fn, forward, None if loss == "midpoint" else seed)
    else:
        raise ValueError(f"loss must be one of {', '.join(map(repr, LOSSES))}, got {loss!r}")

    of_task = None if loss == "distance" else loss_fn
    verified = ensure_verified("sinkhorn_matching", model_a, spec, batches=batches, forward=forward, loss_fn=of_task)

    relaxed = Relaxed(view.spec, start, float(temperature), iterations, pair.device, pair.dtype)
    optimizer = torch.optim.Adam(list(relaxed.scores.values()), lr=float(learning_rate))
    best, best_loss, waited = Permutations.identity(view.spec), math.inf, 0
    history: list[Sweep] = []
    last, since = Permutations.identity(view.spec), time.perf_counter()
    with tracking(progress, "Sinkhorn", steps) as advance:
        for step in range(steps + 1):
            matrices = relaxed.matrices()
            if step % check_every == 0 or step == steps:
                rounded = relaxed.rounded(matrices)
                # What was judged in the check before is not judged again.
                is_new = not history or rounded != last
                reached = _finite(judge.of_permutations(rounded), step) if is_new else best_loss
                waited = 0 if reached < best_loss else waited + 1
                if reached < best_loss:
                    best, best_loss = rounded, reached
                now = time.perf_counter()
                history.append(Sweep(pair.objective(rounded), _moved(last, rounded), len(spec.roots), now - since))
                last, since = rounded, now
            if step == steps or waited >= patience:
                break
            optimizer.zero_grad()
            reached = _finite(judge.of_matrices(matrices), step)
            optimizer.step()
            note = f"loss {reached:.4g}, of the best permutations {best_loss:.4g}"
            advance(note, loss=reached, best_loss=best_loss)
    soft = None
    if keep_soft:
        # Those of a step may have run out of iterations.
        relaxed.iterations = max(iterations, POLISH)
        matrices = relaxed.matrices()
        soft = SoftPermutations(spec, {name: matrix.detach().cpu() for name, matrix in matrices.items()})
    return Matching(
        choice=Permutations(spec, best.choices),
        objective=pair.objective(best),
        l2_before=pair.distance(Permutations.identity(view.spec)),
        l2_after=pair.distance(best),
        converged=waited >= patience,
        history=tuple(history),
        seconds=time.perf_counter() - began,
        method=f"Sinkhorn, {loss} loss",
        soft=soft,
        **verified._asdict(),
    )


class _Pair:
    """Both models' floating point tensors, in one dtype on one device, and the distances between them."""

    def __init__(
        self,
        spec: PermutationSpec,
        tensors_a: Mapping[str, Tensor],
        tensors_b: Mapping[str, Tensor],
        counted: list[str],
        device: torch.device | None,
    ) -> None:
        both = (tensors_a, tensors_b)
        names = [name for name in tensors_a if all(tensors[name].dtype in FLOATS for tensors in both)]
        kinds = {accumulate_dtype(tensors[name].dtype) for tensors in both for name in names}
        self.dtype = torch.float64 if torch.float64 in kinds else torch.float32
        self.device = next(iter(tensors_a.values())).device if device is None else device
        self.spec, self.counted = spec, counted
        self.a, self.b = (
            {name: differentiable(tensors[name].to(self.device, self.dtype)) for name in names} for tensors in both
        )
        for argument, tensors in (("model_a", self.a), ("model_b", self.b)):
            for name in counted:
                if not bool(torch.isfinite(tensors[name]).all()):
                    raise ValueError(f"{argument} must have finite weights, but {name!r} holds nan or infinity")

    def objective(self, permutations: Permutations) -> float:
        """<theta_a, pi(theta_b)>, summed in float64."""
        return sum(permuted_dot(*self._terms(name, permutations)) for name in self.counted)

    def distance(self, permutations: Permutations) -> float:
        """||theta_a - pi(theta_b)||, summed in float64."""
        return math.sqrt(sum(squared_distance(*self._terms(name, permutations)) for name in self.counted))

    def _terms(self, name: str, permutations: Permutations) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        gathers = [None if index is None else index.to(self.device) for index in permutations.gathers(name)]
        return self.spec.view(name, self.a[name]), self.spec.view(name, self.b[name]), gathers


class _Distance:
    """The squared distance between model a and the mixed or permuted model b."""

    def __init__(self, pair: _Pair) -> None:
        self.pair = pair

    def of_matrices(self, matrices: Mapping[str, Tensor]) -> float:
        """The loss with these matrices; its gradient is added to what they were made from."""
        pair = self.pair
        moved = ((name, mixed(pair.spec, name, pair.b[name], matrices)) for name in pair.counted)
        value = torch.stack([(pair.a[name] - b).square().sum() for name, b in moved]).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value.item()

    def of_permutations(self, permutations: Permutations) -> float:
        return self.pair.distance(permutations) ** 2


class _Task:
    """The task's loss of the model between model a and the mixed or permuted model b.

    Args:
        seed: of the random points on the line; None: always its middle.
    """

    def __init__(
        self,
        pair: _Pair,
        model_a: object,
        batches: object,
        loss_fn: LossFn,
        forward: Forward | None,
        seed: int | None,
    ) -> None:
        self.pair = pair
        self.task = TaskLoss(model_a, batches, loss_fn, pair.a, pair.device, forward)
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)
        self.stream = self._endless()

    def of_matrices(self, matrices: Mapping[str, Tensor]) -> float:
        """The loss with these matrices; its gradient is added to what they were made from."""
        pair = self.pair
        lam = 0.5 if self.generator is None else float(torch.rand((), generator=self.generator))
        moved = {name: mixed(pair.spec, name, pair.b[name], matrices) for name in self.task.parameters}
        between = self._between(moved, lam)
        loss, grads = self.task.gradient(between, next(self.stream))
        mixed_ones = [name for name, tensor in between.items() if tensor.requires_grad]
        torch.autograd.backward([between[name] for name in mixed_ones], [grads[name] for name in mixed_ones])
        return loss

    def of_permutations(self, permutations: Permutations) -> float:
        with torch.no_grad():
            moved = {name: permutations.apply_to(name, self.pair.b[name]) for name in self.task.parameters}
            return self.task.mean_loss(self._between(moved, 0.5))

    def _between(self, moved: Mapping[str, Tensor], lam: float) -> dict[str, Tensor]:
        return {name: self.pair.a[name].lerp(b, lam) for name, b in moved.items()}

    def _endless(self) -> Iterator[Batch]:
        while True:
            yield from self.task.once()


def _start(init: str | Permutations, spec: PermutationSpec, seed: int) -> Permutations | None:
    """The permutations to start at; None: none rather than another."""
    if isinstance(init, Permutations):
        # Checked against this spec: it may have been made for another model.
        return Permutations(spec, init.choices)
    if not isinstance(init, str):
        fail_type("init", "'uniform', 'identity', 'random' or Permutations", init)
    if init == "uniform":
        return None
    if init == "identity":
        return Permutations.identity(spec)
    if init == "random":
        return Permutations.random(spec, seed)
    raise ValueError(f"init must be 'uniform', 'identity', 'random' or Permutations, got {init!r}")


def _finite(loss: float, step: int) -> float:
    if not math.isfinite(loss):
        raise ValueError(f"the loss must be finite, got {loss} after {step} steps")
    return loss


def _moved(before: Permutations, after: Permutations) -> int:
    """How many units the two put at different places."""
    return sum(int((before.units(name) != after.units(name)).sum()) for name in after)

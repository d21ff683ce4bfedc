"""Straight-through estimation: permutations learned by the task's loss of the merged model.

Ainsworth, Hayase, Srinivasa, "Git Re-Basin" (ICLR 2023), section 3.3; its steps for several models at once are those of
Ito et al., "STE-MM" (ICML 2025). A hat is a free copy of model a's weights. Every step projects it onto the permuted
models pi(theta_b) by weight matching (of a part of the groups, in turn), takes the loss at a point between theta_a and
the projection, and hands that point's gradient on to the hat as if there had been no projection.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._backend import check_device
from .._calls import Forward
from .._checks import check_finite, check_int
from .._models import Model, accumulate_dtype, check_numbers, check_same_tensors, tensors_of
from .._modes import neutral
from .._progress import Progress, tracking
from ..ops.permuted_lerp import permuted_lerp_many
from ..symmetry import Permutations, PermutationSpec
from .engine.descent import CoordinateDescent
from .engine.measures import distance_between, objective_of
from .engine.seen import seen
from .engine.task import LossFn, TaskLoss
from .given import spec_of
from .results.matching import Matching, Sweep
from .starts import start_of
from .verification import ensure_verified

__all__ = ["Hat", "Optimizer", "check_training", "straight_through_matching", "train_hats"]

MIXINGS = ("midpoint", "random")
Optimizer = Callable[[list[Tensor]], torch.optim.Optimizer]


class Hat:
    """Weights that are free to move, and the permuted model nearest to them.

    Args:
        spec: bound.
        start: the weights to begin with, by name; copied.
        model: the tensors of the model whose permutations are looked for; read.
        names: the parameters that count.
        choices: the permutations to begin with.
        device: where to compute.
    """

    def __init__(
        self,
        spec: PermutationSpec,
        start: Mapping[str, Tensor],
        model: Mapping[str, Tensor],
        names: Sequence[str],
        choices: Permutations,
        device: torch.device,
    ) -> None:
        dtypes = {name: accumulate_dtype(start[name].dtype) for name in names}
        self.weights = {name: start[name].detach().to(device, dtypes[name], copy=True) for name in names}
        self.descent = CoordinateDescent(spec, self.weights, model, dict.fromkeys(names, 1.0), choices, (), device)
        self.order = [root for root, _ in self.descent.outward()]
        # Groups of one set share no parameter.
        self.sets = self.descent.apart(self.order)
        self.turn = 0

    def project(self, sweeps: int | None) -> int:
        """Go on from the last projection to that of the weights as they are now; return how many units moved.

        Args:
            sweeps: over all groups, at most; None: over one set of groups that share no parameter, the next in turn.
        """
        self.descent.gains.forget_all()
        order = self.order
        if sweeps is None:
            order = self.sets[self.turn % len(self.sets)] if self.sets else order
            self.turn += 1
        steps, _ = self.descent.run(lambda: order, sweeps or 1, False, side_by_side=False)
        return sum(step.moved for step in steps)

    @property
    def permutations(self) -> Permutations:
        """The last projection's."""
        return Permutations(self.descent.spec, self.descent.choices)


@neutral
def straight_through_matching(
    model_a: Model,
    model_b: Model,
    batches: Iterable[Any],
    spec: PermutationSpec | None = None,
    *,
    loss_fn: LossFn = nn.functional.cross_entropy,
    forward: Forward | None = None,
    init: str | Permutations | Matching = "anchored",
    epochs: int = 5,
    learning_rate: float = 3e-3,
    optimizer: Optimizer | None = None,
    mixing: str = "midpoint",
    sweeps: int | None = None,
    validation: Iterable[Any] | None = None,
    patience: int = 3,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Progress = False,
    example_inputs: Any = None,
) -> Matching:
    """Find permutations of model b's units under which the model half-way to model a has a low loss.

    Args:
        model_a: a module, whose forward is used; not changed, nor are its modes and buffers.
        model_b: a module or a state dict of the same architecture; not changed.
        batches: (inputs, targets) pairs; one step each. `_batches` tells what else a batch may be.
        spec: what may be permuted; bound to the models here. None: what `derive_spec` finds in model a, with
            `example_inputs`, or else the inputs of the first batch.
        loss_fn: mean loss of a batch from (outputs, targets). The forward pass is in eval mode, but for BatchNorm,
            which takes the statistics of the batch; of one with one value for each channel, those of the batch before.
        forward: (model, batch) -> outputs, where a batch is not to be read by the rule of `_batches`; `loss_fn` is
            given (outputs, batch) then.
        init: the permutations to start at: those that weight matching finds from this start ("anchored", "identity",
            "random" by `seed`), or these themselves (Permutations, or a Matching).
        epochs: passes over the batches at most.
        learning_rate: Adam's.
        optimizer: makes another optimizer from a list of tensors, in place of Adam.
        mixing: "midpoint", or "random": a random point between the models in each step, by `seed`.
        sweeps: of weight matching in each step over all groups, from the last step's permutations on; None: in each
            step over groups that share no parameter, one such set after another, which costs about half of a sweep.
            Permutations are judged after a whole sweep in either case.
        validation: batches by whose loss at the midpoint the best projection is chosen, after every epoch and at the
            start; None: `batches`.
        patience: end after so many epochs in a row without a better one.
        seed: of what is random. Same inputs and same seed, same result; the global generators are neither read nor
            moved.
        device: where to compute; None: where model a's tensors are.
        progress: True for a bar, a function (description, done, total), or a `Logger`.
        example_inputs: what the spec is derived from, where it is left out and the first batch will not do.

    Returns:
        A `Matching` with the best projection seen. Its history has one entry an epoch; `converged` tells whether
        patience ended the search. The spec is verified on model a and a few examples of the first batch, unless it
        was before (`Matching.verified`).

    Raises:
        SymmetryError: the spec does not keep model a's function.
        TypeError: a model a that is no module, batches of another kind, or another argument of the wrong kind.
        ValueError: models of different shapes, a spec that does not fit them, weights or a loss that are not finite,
            or an option out of range.
    """
    began = time.perf_counter()
    tensors_a, tensors_b = tensors_of("model_a", model_a), tensors_of("model_b", model_b)
    tensors_b = check_same_tensors("model_b", tensors_b, "model_a", tensors_a)
    check_training(epochs=epochs, sweeps=sweeps, patience=patience, learning_rate=learning_rate, mixing=mixing)
    check_int("seed", seed, 0)
    where = check_device("device", device) or next((t.device for t in tensors_a.values()), torch.device("cpu"))
    given = spec_of(model_a, spec, example_inputs=example_inputs, batches=batches, forward=forward, loss_fn=loss_fn)
    given.check_only_permutes("straight_through_matching")
    spec = given.bind(model_a)
    check_numbers("model_a", tensors_a, spec.axes)
    check_numbers("model_b", tensors_b, spec.axes)
    view = seen([model_a, model_b], [tensors_a, tensors_b], spec)
    (tensors_a, tensors_b), names = view.tensors, view.names
    task = TaskLoss(model_a, batches, loss_fn, names, where, forward)
    judge = task
    if validation is not None:
        judge = TaskLoss(model_a, validation, loss_fn, names, where, forward, "validation")
    verified = ensure_verified(
        "straight_through_matching", model_a, spec, batches=batches, forward=forward, loss_fn=loss_fn
    )
    begin = init.choice if isinstance(init, Matching) else init
    start, settle = Permutations(spec, start_of(begin, spec, seed)), isinstance(init, str)
    hat = Hat(view.spec, tensors_a, tensors_b, names, start, where)
    if settle:
        hat.descent.settle(init == "anchored", 100, False)
    (best,), history, converged = train_hats(
        task,
        judge,
        tensors_a,
        [hat],
        epochs=epochs,
        optimizer=optimizer or (lambda tensors: torch.optim.Adam(tensors, lr=learning_rate)),
        mixing=mixing,
        sweeps=sweeps,
        patience=patience,
        seed=seed,
        progress=progress,
    )
    weights = dict.fromkeys(names, 1.0)
    return Matching(
        choice=Permutations(spec, best.choices),
        objective=objective_of(tensors_a, tensors_b, weights, best),
        l2_before=distance_between(tensors_a, tensors_b, weights, Permutations.identity(view.spec)),
        l2_after=distance_between(tensors_a, tensors_b, weights, best),
        converged=converged,
        history=tuple(history),
        seconds=time.perf_counter() - began,
        method=f"straight-through estimation, {mixing}",
        **verified._asdict(),
    )


def check_training(*, epochs: int, sweeps: int | None, patience: int, learning_rate: float, mixing: str) -> None:
    """Raise TypeError or ValueError unless these options are what `train_hats` takes."""
    for name, count in {"epochs": epochs, "sweeps": 1 if sweeps is None else sweeps, "patience": patience}.items():
        check_int(name, count, 1)
    if not check_finite("learning_rate", learning_rate) > 0:
        raise ValueError(f"learning_rate must be above 0, got {learning_rate}")
    if mixing not in MIXINGS:
        raise ValueError(f"mixing must be one of {', '.join(map(repr, MIXINGS))}, got {mixing!r}")


def train_hats(
    task: TaskLoss,
    judge: TaskLoss,
    tensors_a: Mapping[str, Tensor],
    hats: Sequence[Hat],
    *,
    epochs: int,
    optimizer: Optimizer,
    mixing: str,
    sweeps: int | None,
    patience: int,
    seed: int,
    progress: Progress,
) -> tuple[list[Permutations], list[Sweep], bool]:
    """Train all hats at once on the loss of the mean of model a and the projections.

    Args:
        task: whose batches are stepped through.
        judge: whose mean loss, at equal shares, chooses the best projections.
        tensors_a: model a's.
        sweeps: as of `Hat.project`; before the best is judged, one over all groups at least.
        mixing: "midpoint" (equal shares of all models) or "random" (other ones in each step, uniform on the simplex).

    Returns:
        The best projections, one for each hat; an entry an epoch; whether patience ended the training.
    """
    names = task.parameters
    generator = torch.Generator().manual_seed(seed)
    equal = [1.0 / (len(hats) + 1)] * (len(hats) + 1)
    tensors = [hat.weights[name] for hat in hats for name in names]
    steps = optimizer(tensors)
    merge = _Merge(tensors_a, hats, names, task.device)
    best, best_loss = [hat.permutations for hat in hats], judge.mean_loss(merge(equal))
    waited, history = 0, []
    with tracking(progress, "straight-through", epochs) as advance:
        for _ in range(epochs):
            began, moved = time.perf_counter(), 0
            for batch in task.once():
                shares = equal if mixing == "midpoint" else _on_simplex(len(equal), generator)
                moved += sum(hat.project(sweeps) for hat in hats)
                loss, grads = task.gradient(merge(shares), batch)
                if not math.isfinite(loss):
                    raise ValueError(f"the loss must be finite, got {loss}: a smaller learning_rate may do")
                for share, hat in zip(shares[1:], hats, strict=True):
                    for name, grad in grads.items():
                        hat.weights[name].grad = (share * grad).to(hat.weights[name].dtype)
                steps.step()
            for hat in hats:
                moved += hat.project(sweeps or 1)
            reached = judge.mean_loss(merge(equal))
            waited += 1
            if reached < best_loss:
                best, best_loss, waited = [hat.permutations for hat in hats], reached, 0
            objective = sum(hat.descent.objective() for hat in hats)
            solved = sum(len(hat.order) for hat in hats)
            history.append(Sweep(objective, moved, solved, time.perf_counter() - began))
            note = f"loss {reached:.4g}, best {best_loss:.4g}"
            advance(note, loss=reached, best_loss=best_loss, objective=objective, moved=moved)
            if waited >= patience:
                break
    return best, history, waited >= patience


class _Merge:
    """Weighted means of model a and the projections, in one pass over all weights.

    Args:
        names: the weights to give.
    """

    def __init__(
        self, tensors_a: Mapping[str, Tensor], hats: Sequence[Hat], names: Sequence[str], device: torch.device
    ) -> None:
        self.hats, self.names = hats, names
        spec = hats[0].descent.spec
        self.shapes = [tensors_a[name].shape for name in names]
        self.a = [
            spec.view(name, tensors_a[name].detach().to(device, accumulate_dtype(tensors_a[name].dtype)))
            for name in names
        ]

    def __call__(self, shares: Sequence[float]) -> dict[str, Tensor]:
        """The mean with these shares of model a and of each projection: new tensors, by name."""
        tensors = [[a, *(hat.descent.b[name] for hat in self.hats)] for name, a in zip(self.names, self.a, strict=True)]
        gathers = [
            [(None,) * a.ndim, *(hat.descent.gains.gathers(name) for hat in self.hats)]
            for name, a in zip(self.names, self.a, strict=True)
        ]
        (merged,) = permuted_lerp_many(tensors, [list(shares)], gathers)
        return {
            name: tensor.reshape(shape) for name, tensor, shape in zip(self.names, merged, self.shapes, strict=True)
        }


def _on_simplex(count: int, generator: torch.Generator) -> list[float]:
    """Shares that sum to 1, uniform on the simplex."""
    draws = torch.rand(count, generator=generator, dtype=torch.float64).log_().neg_()
    shares: list[float] = (draws / draws.sum()).tolist()
    return shares

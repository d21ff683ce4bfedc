"""Models whose groups of continuous kinds follow free numbers, and the search over these by the loss between models."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from ..._batches import Batch
from ..._models import accumulate_dtype
from ..._progress import Progress, tracking
from ...symmetry.kinds import KINDS, Learned
from ...symmetry.spec import PermutationSpec
from ...symmetry.transforms import Choice, choice_for, moved
from .task import TaskLoss

__all__ = ["Check", "Path", "Points", "Turning", "paths_between", "train_turnings"]

# Of the mean excess of a path's points, what each is drawn by in addition to its own; and where there is none.
SEEN, TINY = 0.2, 1e-12


class Turning:
    """A model with its groups of discrete kinds where a choice has them, the others free to turn from there.

    Args:
        spec: bound.
        tensors: the model's, by name; read.
        names: those to give.
        start: of this spec.
        device: where to compute.
    """

    def __init__(
        self,
        spec: PermutationSpec,
        tensors: Mapping[str, Tensor],
        names: Sequence[str],
        start: Choice,
        device: torch.device,
    ) -> None:
        self.spec, self.names = spec, list(names)
        self.learned: dict[str, Learned] = {}
        self.still: dict[str, Tensor] = {}
        placed: dict[str, Tensor] = {}
        for name, group in spec.groups.items():
            kind = KINDS[group.kind]
            learned = kind.learned(start[name], device)
            if learned is None:
                placed[name] = start[name]
                self.still[name] = kind.identity(spec.shape(name))
            else:
                placed[name] = kind.identity(spec.shape(name))
                self.learned[name] = learned
        self.placed = {name: element for name, element in placed.items() if name in self.still}
        # What turns within units that change places does so at its new place: the places once, the turns every time.
        self.base = {
            name: moved(spec, name, tensors[name].detach().to(device, accumulate_dtype(tensors[name].dtype)), placed)
            for name in self.names
        }
        self.axes = {
            name: [
                place
                for place, axis in enumerate(spec.axes_of(name))
                if any(group in self.learned for group in axis.groups)
            ]
            for name in self.names
            if name in spec.axes
        }

    @property
    def parameters(self) -> list[Tensor]:
        """The free numbers."""
        return [parameter for learned in self.learned.values() for parameter in learned.parameters]

    def weights(self) -> dict[str, Tensor]:
        """The model's tensors as they are turned now, by name, with gradients by the free numbers."""
        elements: dict[torch.dtype, dict[str, Tensor]] = {}
        found = {}
        for name, tensor in self.base.items():
            axes = self.axes.get(name)
            if not axes:
                found[name] = tensor
                continue
            if tensor.dtype not in elements:
                turns = {group: learned.make(tensor.dtype) for group, learned in self.learned.items()}
                elements[tensor.dtype] = {**self.still, **turns}
            found[name] = moved(self.spec, name, tensor, elements[tensor.dtype], axes)
        return found

    def choice(self) -> Choice:
        """What carries the model there, in float64, each element checked to be one of its kind."""
        turns = {group: learned.element() for group, learned in self.learned.items()}
        return choice_for(self.spec, {**self.placed, **turns})


@dataclass(frozen=True)
class Path:
    """The line between two of several models, and what is measured on it.

    Attributes:
        first, second: which models.
        lambdas: inner points, shares of the second.
    """

    first: int
    second: int
    lambdas: tuple[float, ...]

    def shares(self, models: int, lam: float) -> list[float]:
        """Of every model at one point."""
        shares = [0.0] * models
        shares[self.first], shares[self.second] = 1.0 - lam, lam
        return shares


@dataclass(frozen=True)
class Check:
    """What the judge saw at one time.

    Attributes:
        step: after how many steps.
        excess: of each path, by how much the loss at its inner points lies above the line between its ends.
        seconds: since the last one.
    """

    step: int
    excess: tuple[tuple[float, ...], ...]
    seconds: float

    @property
    def barrier(self) -> float:
        """The largest excess of each path, the mean over these; below 0 where all points are better than the line."""
        return math.fsum(max(of_path) for of_path in self.excess) / len(self.excess)


def paths_between(models: int, lambdas: Sequence[float]) -> list[Path]:
    """All lines between two models."""
    return [Path(i, j, tuple(lambdas)) for i, j in combinations(range(models), 2)]


class Points:
    """Where steps are taken: shares of every model, for one after another.

    Args:
        how: "excess" (an inner point of a path, drawn by how far it lay above the line between the ends when the judge
            last looked), "midpoint" (of every path), "random" (a random point of a random path) or "grid" (the inner
            points of every path). Those that are all gone through are in an order that is drawn anew every time:
            batches come in theirs, and no path is to see some of them alone.
        paths: between the models.
        models: how many.
        seed: of what is drawn.
    """

    def __init__(self, how: str, paths: Sequence[Path], models: int, seed: int) -> None:
        self.how, self.paths, self.models = how, paths, models
        self.generator = torch.Generator().manual_seed(seed)
        lambdas = [(0.5,) if how == "midpoint" else path.lambdas for path in paths]
        self.grid = [(path, lam) for path, of_path in zip(paths, lambdas, strict=True) for lam in of_path]
        self.weights = torch.ones(len(self.grid), dtype=torch.float64)
        self.order: list[int] = []

    def see(self, check: Check) -> None:
        """What the judge saw, for the steps from now on."""
        if self.how == "excess":
            excess = torch.tensor([value for of_path in check.excess for value in of_path], dtype=torch.float64)
            # Points that are low are not to rise unseen.
            self.weights = excess.clamp(min=0.0) + SEEN * excess.clamp(min=0.0).mean() + TINY

    def draw(self) -> list[float]:
        """Shares for the next step."""
        if self.how == "random":
            path = self.paths[int(torch.randint(len(self.paths), (), generator=self.generator))]
            return path.shares(self.models, float(torch.rand((), generator=self.generator, dtype=torch.float64)))
        if self.how == "excess":
            place = int(torch.multinomial(self.weights, 1, generator=self.generator))
        else:
            if not self.order:
                self.order = torch.randperm(len(self.grid), generator=self.generator).tolist()
            place = self.order.pop(0)
        path, lam = self.grid[place]
        return path.shares(self.models, lam)


class _Between:
    """Weighted means of the first model, which stays, and of the others as they are turned now."""

    def __init__(self, first: Mapping[str, Tensor], turnings: Sequence[Turning], task: TaskLoss) -> None:
        self.turnings, self.names = turnings, task.parameters
        self.first = {
            name: first[name].detach().to(task.device, accumulate_dtype(first[name].dtype)) for name in self.names
        }

    @torch.no_grad()
    def mean(self, others: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
        """The weights at one point."""
        found = {}
        for name in self.names:
            total = shares[0] * self.first[name]
            for share, other in zip(shares[1:], others, strict=True):
                if share:
                    total = total.add(other[name], alpha=share)
            found[name] = total
        return found


def train_turnings(
    task: TaskLoss,
    judge: TaskLoss,
    tensors: Mapping[str, Tensor],
    turnings: Sequence[Turning],
    *,
    steps: int,
    learning_rate: float,
    points: str,
    lambdas: Sequence[float],
    checks: int,
    patience: int,
    tolerance: float,
    seed: int,
    progress: Progress,
) -> tuple[list[Choice], list[Check], bool]:
    """Turn all models but the first by the loss on the lines between all; keep what has the lowest barrier.

    Args:
        task: whose batches are stepped through, again and again.
        judge: whose batches tell the barriers, at the inner points of every path.
        tensors: the first model's.
        turnings: of the others.
        lambdas: the inner points.
        checks: how often the judge looks, the start apart.
        patience: end after so many looks in a row without a better one.
        tolerance: end as soon as the barrier is no more than this.

    Returns:
        The best choices, one for each turning; what the judge saw, the start first; whether the search ended by
        itself.

    Raises:
        ValueError: a loss that is not finite.
    """
    models = len(turnings) + 1
    paths = paths_between(models, lambdas)
    between = _Between(tensors, turnings, task)
    parameters = [parameter for turning in turnings for parameter in turning.parameters]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    look = _Judge(judge, between, paths)
    history = [look(0)]
    best, choices, waited = history[0], [turning.choice() for turning in turnings], 0
    where, batches = Points(points, paths, models, seed), _again(task.once)
    where.see(best)
    looks = {round(steps * (k + 1) / checks) for k in range(checks)}
    ended = best.barrier <= tolerance
    with tracking(progress, "learning", steps) as advance:
        for step in range(1, steps + 1):
            if ended:
                break
            loss = _step(task, between, where.draw(), next(batches), optimizer)
            schedule.step()
            if step in looks:
                history.append(look(step))
                where.see(history[-1])
                waited += 1
                if history[-1].barrier < best.barrier:
                    best, choices, waited = history[-1], [turning.choice() for turning in turnings], 0
                ended = best.barrier <= tolerance or waited >= patience
            advance(f"loss {loss:.4g}, barrier {best.barrier:.4g}", loss=loss, barrier=best.barrier)
    return choices, history, ended


def _step(
    task: TaskLoss, between: _Between, shares: Sequence[float], batch: Batch, optimizer: torch.optim.Optimizer
) -> float:
    """One step down the gradient at one point; the loss there."""
    optimizer.zero_grad()
    with torch.enable_grad():
        others = [turning.weights() for turning in between.turnings]
    loss, grads = task.gradient(between.mean(others, shares), batch)
    if not math.isfinite(loss):
        raise ValueError(f"the loss must be finite, got {loss}: a smaller lr may do")
    ends, weights = [], []
    for share, other in zip(shares[1:], others, strict=True):
        for name in between.names:
            if share and other[name].requires_grad:
                ends.append(other[name])
                weights.append((share * grads[name]).to(other[name]))
    if ends:
        torch.autograd.backward(ends, weights)
        optimizer.step()
    return loss


class _Judge:
    """The barriers of all paths. Turning changes no function: the losses of the models themselves are taken once."""

    def __init__(self, judge: TaskLoss, between: _Between, paths: Sequence[Path]) -> None:
        self.judge, self.between, self.paths = judge, between, paths
        self.ends: list[float] | None = None
        self.began = time.perf_counter()

    @torch.no_grad()
    def __call__(self, step: int) -> Check:
        others = [turning.weights() for turning in self.between.turnings]
        models = len(others) + 1

        def loss_at(shares: Sequence[float]) -> float:
            loss = self.judge.mean_loss(self.between.mean(others, shares))
            if not math.isfinite(loss):
                raise ValueError(f"the loss must be finite on {self.judge.argument}, got {loss}")
            return loss

        if self.ends is None:
            self.ends = [loss_at([float(m == k) for m in range(models)]) for k in range(models)]
        excess = []
        for path in self.paths:
            first, second = self.ends[path.first], self.ends[path.second]
            excess.append(
                tuple(loss_at(path.shares(models, lam)) - ((1 - lam) * first + lam * second) for lam in path.lambdas)
            )
        now = time.perf_counter()
        check = Check(step, tuple(excess), now - self.began)
        self.began = now
        return check


def _again(once: Callable[[], Iterator[Batch]]) -> Iterator[Batch]:
    """The batches, from the beginning after the last."""
    while True:
        count = 0
        for batch in once():
            count += 1
            yield batch
        if not count:
            raise ValueError("batches must hold one example at least, got none")

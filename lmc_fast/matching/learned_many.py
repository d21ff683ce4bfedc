"""What `match_many` does where it learns: several models, turned by the loss on the lines between all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._calls import Forward
from .._models import Model
from .._progress import Progress
from ..symmetry import PermutationSpec
from ..symmetry.transforms import Choice, between, choice_for
from .engine.learning import Turning, train_turnings
from .engine.task import LossFn, TaskLoss
from .learned import check_learning, first_of, inner_points, start_of, sweeps_of_checks, tasks_of
from .results.matching import Sweep
from .verification import Verified, ensure_verified

__all__ = ["Learning", "LearningTask", "learn_together"]


@dataclass(frozen=True)
class Learning:
    """How methods that go by the loss learn, checked."""

    rate: float
    mixing: str
    patience: int
    steps: int
    discrete: str
    seed: int

    @classmethod
    def of(
        cls,
        method: str,
        rate: float | None,
        mixing: str | None,
        patience: int | None,
        steps: int,
        discrete: str,
        seed: int,
    ) -> Learning:
        """What was given, and else the method's own."""
        own = (1e-2, "excess", 5) if method == "learned" else (3e-3, "random", 3)
        found = cls(
            own[0] if rate is None else rate,
            own[1] if mixing is None else mixing,
            own[2] if patience is None else patience,
            steps,
            discrete,
            seed,
        )
        if method == "learned":
            check_learning(
                lr=found.rate,
                points=found.mixing,
                patience=found.patience,
                steps=steps,
                discrete=discrete,
                seed=seed,
            )
        elif discrete != "frozen":
            raise ValueError(f"discrete={discrete!r} must come with method='learned', got {method!r}")
        return found


@dataclass(frozen=True)
class LearningTask:
    """What is learned from, what judges, and a few batches of the first."""

    model: nn.Module
    task: TaskLoss
    judge: TaskLoss
    few: Sequence[Any]
    loss_fn: LossFn
    forward: Forward | None

    @classmethod
    def of(
        cls,
        model: Model,
        batches: Iterable[Any],
        validation: Iterable[Any] | None,
        loss_fn: LossFn,
        names: Sequence[str],
        device: torch.device,
        forward: Forward | None,
    ) -> LearningTask:
        """For the reference, a module."""
        assert isinstance(model, nn.Module)
        few = first_of(batches)
        task, judge = tasks_of(model, batches, few, validation, loss_fn, names, device, forward)
        return cls(model, task, judge, few, loss_fn, forward)

    def verified(self, spec: PermutationSpec) -> Verified:
        """What is known of the spec."""
        return ensure_verified(
            "match_many", self.model, spec, batches=self.few, forward=self.forward, loss_fn=self.loss_fn
        )

    def by_activations(self, models: Sequence[Model], spec: PermutationSpec) -> list[Choice]:
        """Each model over the first, the reference, by activation matching."""
        found = [
            start_of("activations", self.model, model, self.few, spec, self.forward, self.task.device)
            for model in models[1:]
        ]
        return [choice_for(spec), *found]


def learn_together(
    task: LearningTask,
    spec: PermutationSpec,
    tensors: Sequence[Mapping[str, Tensor]],
    starts: Sequence[Choice],
    ours: Learning,
    progress: Progress,
) -> tuple[list[Choice], tuple[Sweep, ...], bool]:
    """All models but the first turned by the loss on the lines between all.

    Args:
        spec: what matching looks at.
        tensors: of each model, by the names of this spec.
        starts: one for each model.

    Returns:
        Choices of all models, the first one's the identity; what was seen on the way; whether it ended by itself.
    """
    turnings = [
        Turning(spec, of_model, task.task.parameters, choice_for(spec, between(starts[0], start)), task.task.device)
        for of_model, start in zip(tensors[1:], starts[1:], strict=True)
    ]
    best, history, ended = train_turnings(
        task.task,
        task.judge,
        tensors[0],
        turnings,
        steps=ours.steps,
        learning_rate=ours.rate,
        points=ours.mixing,
        lambdas=inner_points(9),
        checks=10,
        patience=ours.patience,
        tolerance=0.0,
        seed=ours.seed,
        progress=progress,
        discrete=ours.discrete,
    )
    return [choice_for(spec), *best], sweeps_of_checks(history, turnings), ended

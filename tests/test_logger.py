"""One protocol for the numbers of long work: what a logger is told by every method with steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn

import lmc_fast as lmc
from lmc_fast import architectures
from lmc_fast._progress import tracking
from lmc_fast.experiments.datasets import Dataset
from lmc_fast.experiments.training import train
from lmc_fast.symmetry.transforms import random_choice


class Kept:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int, int, dict[str, float]]] = []

    def on_step(self, work: str, step: int, total: int, values: Mapping[str, float]) -> None:
        self.steps.append((work, step, total, dict(values)))

    def of(self, work: str, name: str) -> list[float]:
        return [values[name] for kind, _, _, values in self.steps if kind == work]


class Both(Kept):
    """A bar of one's own beside."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def __call__(self, note: str, done: int, total: int) -> None:
        self.notes.append(f"{done}/{total} {note}")


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


A, B, C = (network(seed) for seed in range(3))
SPEC = architectures.mlp(A)
BATCHES = [(torch.randn(16, 5, generator=torch.Generator().manual_seed(k)), torch.arange(16) % 3) for k in range(2)]
DATA = Dataset("mine", *BATCHES[0], *BATCHES[1])

# What runs, by which work it tells, and which numbers each step has.
METHODS: dict[str, tuple[Callable[[Any], Any], str, set[str]]] = {
    "wm": (lambda log: lmc.weight_matching(A, B, SPEC, progress=log), "weight matching", {"moved", "solved", "gained"}),
    "frank-wolfe": (
        lambda log: lmc.weight_matching(A, B, SPEC, search="frank_wolfe", progress=log),
        "Frank-Wolfe",
        {"objective", "gap"},
    ),
    "ste": (
        lambda log: lmc.straight_through_matching(A, B, BATCHES, SPEC, epochs=3, progress=log),
        "straight-through",
        {"loss", "best_loss", "objective", "moved"},
    ),
    "sinkhorn": (
        lambda log: lmc.sinkhorn_matching(A, B, SPEC, steps=12, progress=log),
        "Sinkhorn",
        {"loss", "best_loss"},
    ),
    "barrier": (
        lambda log: lmc.loss_barrier(A, B, BATCHES, lambdas=5, progress=log),
        "barrier",
        {"lambda", "loss", "accuracy"},
    ),
    "barriers": (lambda log: lmc.pairwise_barriers([A, B, C], None, BATCHES, progress=log), "barriers", {"barrier"}),
    "landscape": (
        lambda log: lmc.loss_landscape([A, B, C], BATCHES, points=3, progress=log),
        "landscape",
        {"loss"},
    ),
    "merge-many": (
        lambda log: lmc.match_many([A, B, C], SPEC, progress=log),
        "many models",
        {"moved", "solved", "gained"},
    ),
    "c2m3": (
        lambda log: lmc.match_many([A, B, C], SPEC, method="c2m3", max_sweeps=3, progress=log),
        "Frank-Wolfe",
        {"objective"},
    ),
    "activations": (lambda log: lmc.activation_matching(A, B, BATCHES, SPEC, progress=log), "activations", set()),
    "training": (
        lambda log: train(lambda: network(0), DATA, seed=0, epochs=2, batch_size=8, progress=log),
        "training",
        {"loss"},
    ),
}


@pytest.mark.parametrize(("method", "work", "names"), METHODS.values(), ids=METHODS.keys())
def test_every_step_is_told_with_its_numbers(method: Callable[[Any], Any], work: str, names: set[str]) -> None:
    kept = Kept()
    method(kept)
    mine = [(step, total, values) for kind, step, total, values in kept.steps if kind == work]
    assert mine and [step for step, _, _ in mine] == list(range(1, len(mine) + 1))
    assert all(step <= total for step, total, _ in mine)
    assert all(values.keys() == names for _, _, values in mine)
    assert all(isinstance(value, (int, float)) for _, _, values in mine for value in values.values())


def test_numbers_are_those_of_the_result() -> None:
    kept = Kept()
    curve = lmc.loss_barrier(A, B, BATCHES, lambdas=5, progress=kept)
    assert kept.of("barrier", "lambda") == curve.lambdas.tolist()
    assert kept.of("barrier", "loss") == curve.loss.tolist()
    match = lmc.weight_matching(A, B, SPEC, search="coordinate_descent", progress=kept)
    assert kept.of("weight matching", "moved") == [sweep.moved for sweep in match.history]
    learned = lmc.straight_through_matching(A, B, BATCHES, SPEC, epochs=3, progress=kept)
    assert kept.of("straight-through", "objective") == [sweep.objective for sweep in learned.history]


def test_what_turns_is_told_alike() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6, bias=False), nn.Linear(6, 3))
    axes = {"0.weight": ("T", None), "1.weight": (None, "T"), "1.bias": (None,)}
    spec = lmc.PermutationSpec.from_axes(axes, [lmc.Group("T", kind="orthogonal")]).bind(model)  # type: ignore[arg-type]
    with torch.no_grad():
        model[1].weight *= 10
    turned, other = (random_choice(spec, seed).apply(model) for seed in (1, 2))
    # Answers that both know, and the mean of both does not.
    known = [(x, model(x).argmax(1)) for x, _ in BATCHES]
    kept = Kept()
    lmc.learned_matching(model, turned, known, spec, init="identity", steps=2, checks=1, progress=kept)
    assert len(kept.of("learning", "loss")) == 2 and min(kept.of("learning", "barrier")) >= 0
    lmc.weight_matching(model, turned, spec, progress=kept)
    assert len(kept.of("weight matching", "gained")) >= 1
    lmc.match_many([model, turned, other], spec, progress=kept)
    assert len(kept.of("many models", "gained")) >= 1


def test_one_that_can_be_called_is_told_both() -> None:
    both = Both()
    assert isinstance(both, lmc.Logger) and not isinstance(len, lmc.Logger)
    with tracking(both, "work", 2) as advance:
        advance("a", loss=0.5)
        advance("")
    assert both.steps == [("work", 1, 2, {"loss": 0.5}), ("work", 2, 2, {})]
    assert both.notes == ["1/2 work a", "2/2 work"]


def test_bars_and_silence_take_numbers_too() -> None:
    for progress in (True, False):
        with tracking(progress, "work", 1) as advance:
            advance("a", loss=0.5)


def test_an_error_in_a_logger_ends_the_work() -> None:
    class Full(Kept):
        def on_step(self, work: str, step: int, total: int, values: Mapping[str, float]) -> None:
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        lmc.loss_barrier(A, B, BATCHES, lambdas=3, progress=Full())


def test_what_is_no_logger_is_named() -> None:
    with pytest.raises(TypeError, match=r"progress must be a bool or a function .* or a Logger"):
        lmc.loss_barrier(A, B, BATCHES, progress={"log": print})  # type: ignore[arg-type]

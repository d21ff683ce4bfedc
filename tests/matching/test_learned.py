"""Learned matching: rotations found by the loss between the models, judged by the whole path."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast.experiments.transformers import Decoder, VisionTransformer, mean_loss
from lmc_fast.matching import learned
from lmc_fast.matching.engine import learning
from lmc_fast.matching.engine.learning import Check, Path, Points, Turning

from ..experiments.turned_by_hand import pure_form, rotation_spec
from ..slow import slow_but

Batches = list[tuple[Tensor, Tensor]]
CPU = torch.device("cpu")


def perturbed(model: nn.Module, spec: lmc.PermutationSpec, seed: int, by: float) -> lmc.Transforms:
    """Elements near the identity: rotations by a little, permutations as they are."""
    rng = torch.Generator().manual_seed(seed)
    turning = Turning(spec, model.state_dict(), list(model.state_dict()), lmc.Transforms.identity(spec), CPU)
    with torch.no_grad():
        for parameter in turning.parameters:
            parameter.copy_(by * torch.randn(parameter.shape, generator=rng))
    choice = turning.choice()
    assert isinstance(choice, lmc.Transforms)
    return choice


def made(kind: str) -> tuple[nn.Module, lmc.PermutationSpec, Batches]:
    """A model in pure form, untrained, and batches with the classes that it tells itself."""
    generator = torch.Generator().manual_seed(5)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        if kind == "decoder":
            model: nn.Module = Decoder(6, 8, 1, 2, rotary=True)
            inputs = torch.randint(0, 256, (48, 6), generator=generator)
        else:
            model = VisionTransformer((1, 4, 4), 2, 8, 1, 2, 5, layernorm=kind == "layernorm")
            inputs = torch.randn(48, 1, 4, 4, generator=generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator))
        # Sure of what it tells, so that there is a loss between it and a turned copy.
        model.get_parameter("head.weight").mul_(5.0)
        targets = model(inputs).argmax(-1)
    pure = pure_form(model)
    return pure, rotation_spec(model), list(zip(inputs.split(16), targets.split(16), strict=True))


def path_of(a: nn.Module, b: nn.Module, batches: Batches) -> float:
    return lmc.loss_barrier(a, b, batches, lambdas=11, loss_fn=mean_loss).excess[1:-1].max()


@pytest.mark.parametrize("kind", slow_but(["layernorm", "rmsnorm", "decoder"], lambda kind: kind == "rmsnorm"))
def test_a_planted_turn_is_undone_as_far_as_the_loss_tells(kind: str) -> None:
    model, spec, batches = made(kind)
    other = perturbed(model, spec, 3, 0.3 if kind == "decoder" else 0.8).apply(model)
    before = path_of(model, other, batches)
    assert before > 0.05
    match = lmc.learned_matching(
        model, other, batches, spec, loss_fn=mean_loss, init="identity", steps=120, tolerance=1e-4, patience=10
    )
    moved = match.apply(other)
    assert path_of(model, moved, batches) < 0.25 * before
    for inputs, _ in batches:
        assert torch.allclose(moved(inputs), model(inputs), atol=1e-4)
    assert match.method == "learned matching, excess points"
    # Rebuilt in float64, far nearer to orthogonal than float32 is.
    for name, group in spec.groups.items():
        if group.kind.startswith("orthogonal"):
            turn = match.choice[name]
            assert torch.allclose(turn @ turn.mT, torch.eye(turn.shape[-1], dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("points", ["excess", "midpoint", "random", "grid"])
def test_same_seed_same_result_and_nothing_of_the_callers_changes(points: str) -> None:
    model, spec, batches = made("layernorm")
    other = perturbed(model, spec, 3, 0.8).apply(model)
    kept = [copy.deepcopy(m.state_dict()) for m in (model, other)]
    state = torch.get_rng_state()
    first, again = (
        lmc.learned_matching(
            model,
            other,
            batches,
            spec,
            loss_fn=mean_loss,
            init="identity",
            steps=6,
            points=points,
            seed=2,
            checks=2,
            tolerance=-9.0,
        )
        for _ in range(2)
    )
    assert first.choice == again.choice
    assert torch.equal(torch.get_rng_state(), state)
    for m, before in zip((model, other), kept, strict=True):
        assert all(torch.equal(tensor, before[name]) for name, tensor in m.state_dict().items())
        assert all(p.grad is None for p in m.parameters())
    assert len(first.history) == 3 and math.isfinite(first.objective)


@pytest.mark.parametrize(
    "mode",
    [torch.inference_mode, torch.no_grad, lambda: torch.autocast("cpu", dtype=torch.bfloat16)],
    ids=["inference_mode", "no_grad", "autocast"],
)
def test_the_callers_modes_change_nothing(mode: Callable[[], AbstractContextManager[object]]) -> None:
    model, spec, batches = made("rmsnorm")
    other = perturbed(model, spec, 3, 0.8).apply(model)

    def found() -> lmc.Matching:
        return lmc.learned_matching(model, other, batches, spec, loss_fn=mean_loss, init="identity", steps=2)

    plain = found()
    with mode():
        again = found()
    assert again.choice == plain.choice != lmc.Transforms.identity(spec)


def test_the_gradient_of_a_step_is_that_of_differences() -> None:
    model, spec, batches = made("decoder")
    other = perturbed(model, spec, 3, 0.8).apply(model)
    start = perturbed(model, spec, 4, 0.2)
    names = list(model.state_dict())
    turning = Turning(spec, other.double().state_dict(), names, start, CPU)
    task = learning.TaskLoss(model.double(), batches[:1], mean_loss, names, CPU)
    between = learning._Between(model.state_dict(), [turning], task)
    (batch,) = task.once()
    kept: list[Tensor] = []

    class Look(torch.optim.SGD):
        def step(self, closure: None = None) -> None:  # type: ignore[override]
            kept.extend(p.grad.clone() for group in self.param_groups for p in group["params"])

    shares = [0.3, 0.7]
    learning._step(task, between, shares, batch, Look(turning.parameters, lr=1.0))
    for parameter, grad in zip(turning.parameters, kept, strict=True):
        direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.copy_(sign * 2.0**-16 * direction)
                point = between.mean([turning.weights()], shares)
            ends.append(task.mean_loss(point))
        with torch.no_grad():
            parameter.zero_()
        slope = (ends[0] - ends[1]) * 2.0**15
        assert slope == pytest.approx(float((grad * direction).sum()), rel=2e-3, abs=1e-4)


def test_what_changes_places_stays_where_the_start_has_it() -> None:
    model, spec, batches = made("rmsnorm")
    start = lmc.Transforms.random(spec, 9)
    match = lmc.learned_matching(
        model, start.inverse().apply(model), batches, spec, loss_fn=mean_loss, init=start, steps=4, tolerance=-1.0
    )
    for name in ("head0", "unit0"):
        assert torch.equal(match.choice[name], start[name])


def test_a_start_without_a_barrier_is_all_there_is_to_do() -> None:
    model, spec, batches = made("layernorm")
    planted = lmc.Transforms.random(spec, 9)
    match = lmc.learned_matching(
        model, planted.inverse().apply(model), batches, spec, loss_fn=mean_loss, init=planted, tolerance=1e-4
    )
    assert match.converged and len(match.history) == 1
    assert match.l2_after < 1e-4 * match.l2_before
    for name, element in planted.items():
        assert torch.allclose(match.choice[name], element, atol=1e-12), name


def test_the_best_by_the_whole_path_is_kept_and_patience_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, spec, batches = made("rmsnorm")
    other = perturbed(model, spec, 3, 0.8).apply(model)
    told = iter([0.5, 0.4, 0.2, 0.3, 0.25, 0.1])
    seen: list[lmc.Transforms] = []

    def look(self: learning._Judge, step: int) -> learning.Check:
        choice = self.between.turnings[0].choice()
        assert isinstance(choice, lmc.Transforms)
        seen.append(choice)
        return learning.Check(step, ((next(told),),), 0.0)

    monkeypatch.setattr(learning._Judge, "__call__", look)
    match = lmc.learned_matching(
        model, other, batches, spec, loss_fn=mean_loss, init="identity", steps=10, checks=5, patience=2
    )
    assert match.converged and len(match.history) == len(seen) == 5
    assert match.choice == seen[2] and seen[2] != seen[4]


def test_the_barrier_that_judges_is_the_largest_excess_of_the_path() -> None:
    model, spec, batches = made("layernorm")
    other = perturbed(model, spec, 3, 0.8).apply(model)
    names = list(model.state_dict())
    judge = learning.TaskLoss(model, batches, mean_loss, names, CPU)
    turning = Turning(spec, other.state_dict(), judge.parameters, lmc.Transforms.identity(spec), CPU)
    between = learning._Between(model.state_dict(), [turning], judge)
    lambdas = tuple((k + 1) / 10 for k in range(9))
    check = learning._Judge(judge, between, [Path(0, 1, lambdas)])(0)
    assert check.barrier == pytest.approx(path_of(model, other, batches), rel=1e-4)
    assert check.barrier > 0


def test_steps_are_taken_where_they_should_be() -> None:
    paths = [Path(0, 1, (0.25, 0.75)), Path(0, 2, (0.25, 0.75)), Path(1, 2, (0.25, 0.75))]

    def shares(points: str, count: int) -> list[list[float]]:
        drawn = Points(points, paths, 3, 0)
        return [drawn.draw() for _ in range(count)]

    rounds = [shares("midpoint", 60)[k : k + 3] for k in range(0, 60, 3)]
    assert all(sorted(each) == [[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]] for each in rounds)
    assert len({str(each) for each in rounds}) > 3
    grid = shares("grid", 12)
    expected = sorted(path.shares(3, lam) for path in paths for lam in path.lambdas)
    assert sorted(grid[:6]) == sorted(grid[6:]) == expected and grid[:6] != grid[6:]
    drawn = shares("random", 60)
    assert all(sum(row) == pytest.approx(1.0) and row.count(0.0) == 1 for row in drawn)
    assert len({tuple(share > 0 for share in row) for row in drawn}) == 3


def test_steps_go_where_the_judge_saw_the_loss_above_the_line() -> None:
    paths = [Path(0, 1, (0.25, 0.5, 0.75)), Path(0, 2, (0.25, 0.5, 0.75))]
    points = Points("excess", paths, 3, 0)
    points.see(Check(0, ((0.0, -1.0, 0.3), (0.9, 0.0, 0.0)), 0.0))
    drawn = [points.draw() for _ in range(600)]
    counts = {str(row): drawn.count(row) for row in drawn}
    # A sixth of 1.2 is the mean: a fifth of that, 0.04, is added to each of six weights.
    assert counts[str([0.75, 0.0, 0.25])] == pytest.approx(600 * 0.94 / 1.44, rel=0.15)
    assert counts[str([0.25, 0.75, 0.0])] == pytest.approx(600 * 0.34 / 1.44, rel=0.25)
    assert len(counts) == 6
    # Without any excess no point is left out.
    points.see(Check(1, ((-1.0, -1.0, -1.0), (-1.0, -1.0, -1.0)), 0.0))
    assert len({str(points.draw()) for _ in range(100)}) == 6


def test_progress_is_told() -> None:
    model, spec, batches = made("layernorm")
    other = perturbed(model, spec, 3, 0.8).apply(model)
    told: list[tuple[str, int, int]] = []
    lmc.learned_matching(
        model,
        other,
        batches,
        spec,
        loss_fn=mean_loss,
        init="identity",
        steps=3,
        progress=lambda *what: told.append(what),
    )
    assert [(done, total) for _, done, total in told] == [(1, 3), (2, 3), (3, 3)] and "barrier" in told[0][0]


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"steps": 0}, ValueError, "steps must be"),
            ({"lambdas": 0}, ValueError, "lambdas must be"),
            ({"checks": 0}, ValueError, "checks must be"),
            ({"patience": 0}, ValueError, "patience must be"),
            ({"lr": 0.0}, ValueError, r"lr must be above 0, got 0\.0"),
            ({"tolerance": math.nan}, ValueError, "tolerance must be"),
            (
                {"points": "ends"},
                ValueError,
                "points must be one of 'excess', 'midpoint', .*got 'ends'",
            ),
            ({"seed": -1}, ValueError, "seed must be"),
            ({"init": "best"}, ValueError, "init must be one of 'activations', 'weights', 'identity', Transforms"),
            ({"init": 3}, TypeError, "init must be a name, Transforms or a Matching, got"),
            ({"loss_fn": "loss"}, TypeError, "loss_fn must be"),
            ({"loss_fn": lambda outputs, targets: outputs.sum() / 0}, ValueError, "the loss must be finite"),
            ({"validation": []}, ValueError, "validation must hold one example at least"),
        ],
    )
    def test_options(self, options: dict[str, object], error: type[Exception], message: str) -> None:
        model, spec, batches = made("rmsnorm")
        given = {"loss_fn": mean_loss, "init": "identity", **options}
        with pytest.raises(error, match=message):
            lmc.learned_matching(model, model, batches, spec, **given)  # type: ignore[arg-type]

    def test_models_and_batches(self) -> None:
        model, spec, batches = made("rmsnorm")
        with pytest.raises(TypeError, match=r"model_a must be a torch\.nn\.Module"):
            lmc.learned_matching(model.state_dict(), model, batches, spec)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"model_b must be a torch\.nn\.Module where init='activations'"):
            lmc.learned_matching(model, model.state_dict(), batches, spec, loss_fn=mean_loss)
        with pytest.raises(TypeError, match="spec must be a PermutationSpec, got"):
            lmc.learned_matching(model, model, batches, {"stream": 8})  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="batches must be"):
            lmc.learned_matching(model, model, iter(batches), spec)
        with pytest.raises(ValueError, match="must hold one example at least"):
            lmc.learned_matching(model, model, [], spec, init="identity", loss_fn=mean_loss)

    def test_a_spec_in_which_nothing_turns(self) -> None:
        model, _, batches = made("rmsnorm")
        spec = lmc.derive_spec(model, batches[0][0])
        with pytest.raises(ValueError, match=r"must have groups that turn.*permutation groups alone.*rotations=True"):
            lmc.learned_matching(model, model, batches, spec)

    def test_models_that_are_not_folded(self) -> None:
        model, spec, batches = made("layernorm")
        with torch.no_grad():
            model.get_parameter("norm.weight")[0] = 2.0
        with pytest.raises(ValueError, match=r"model_a must be in pure form.*'norm.weight' is not folded"):
            lmc.learned_matching(model, made("layernorm")[0], batches, spec)


def test_starts_are_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    model, spec, batches = made("rmsnorm")
    asked: list[str] = []
    planted = lmc.Transforms.random(spec, 4)
    found = lmc.learned_matching(model, model, batches, spec, loss_fn=mean_loss, init="identity", tolerance=9.0)

    def by(name: str) -> object:
        def matching(*args: object, **options: object) -> lmc.Matching:
            asked.append(name)
            return found

        return matching

    monkeypatch.setattr(learned, "weight_matching", by("weights"))
    monkeypatch.setattr(learned, "activation_matching", by("activations"))
    for init in ("activations", "weights", found, planted):
        match = lmc.learned_matching(model, model, batches, spec, loss_fn=mean_loss, init=init, steps=1, tolerance=1e9)
        expected = planted if init is planted else found.choice
        assert match.choice == expected
    assert asked == ["activations", "weights"]

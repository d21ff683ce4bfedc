"""Straight-through estimation lowers the loss of the merged model, and leaves what it was given alone."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import architectures
from lmc_fast.experiments.datasets import Dataset, digits
from lmc_fast.experiments.models import MLP, ResNet
from lmc_fast.experiments.training import train
from lmc_fast.matching import straight_through
from lmc_fast.matching.straight_through import straight_through_matching

Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture(scope="module")
def data() -> Dataset:
    return digits()


@pytest.fixture(scope="module")
def pair(data: Dataset) -> tuple[nn.Module, nn.Module, lmc.PermutationSpec]:
    a, b = (train(lambda: MLP(64, (96, 96), 10), data, seed=seed, epochs=15) for seed in (0, 1))
    return a, b, architectures.mlp(a).bind(a)


@pytest.fixture(scope="module")
def batches(data: Dataset) -> Batches:
    return list(zip(data.train_inputs.split(256), data.train_targets.split(256), strict=True))


def midpoint(a: nn.Module, b: nn.Module, batches: Batches, match: object) -> float:
    return lmc.loss_barrier(a, b, batches, match, lambdas=[0.0, 0.5, 1.0]).midpoint_loss  # type: ignore[arg-type]


@pytest.mark.parametrize("mixing", ["midpoint", "random"])
def test_the_midpoint_is_no_worse_than_weight_matching_leaves_it(
    pair: tuple[nn.Module, nn.Module, lmc.PermutationSpec], batches: Batches, mixing: str
) -> None:
    a, b, spec = pair
    wm = lmc.weight_matching(a, b, spec)
    ste = straight_through_matching(a, b, batches, spec, mixing=mixing)
    assert midpoint(a, b, batches, ste) <= midpoint(a, b, batches, wm) * (1 + 1e-6)
    assert midpoint(a, b, batches, ste) < 0.5 * midpoint(a, b, batches, None)
    assert ste.method == f"straight-through estimation, {mixing}"
    # It looks for a low loss, not for near weights.
    assert ste.objective <= wm.objective and ste.l2_after >= wm.l2_after


def test_it_learns_where_weight_matching_has_not_been(
    pair: tuple[nn.Module, nn.Module, lmc.PermutationSpec], batches: Batches
) -> None:
    a, b, spec = pair
    ste = straight_through_matching(a, b, batches, spec, init=lmc.Permutations.random(spec, 0), epochs=8)
    assert midpoint(a, b, batches, ste) < 0.5 * midpoint(a, b, batches, None)


def test_one_step_is_what_the_formula_says(
    pair: tuple[nn.Module, nn.Module, lmc.PermutationSpec], batches: Batches
) -> None:
    """A hat moves by the gradient at the midpoint, half of it, and the projection is weight matching's."""
    a, b, spec = pair
    match = lmc.weight_matching(a, b, spec)
    b2 = match.apply(b)
    middle = {
        name: (0.5 * (p + q)).detach().requires_grad_()
        for (name, p), q in zip(a.named_parameters(), b2.parameters(), strict=True)
    }
    inputs, targets = batches[0]
    loss = nn.functional.cross_entropy(torch.func.functional_call(a, middle, (inputs,)), targets)
    grads = torch.autograd.grad(loss, list(middle.values()))
    seen: list[list[Tensor]] = []

    class Look(torch.optim.SGD):
        def step(self, closure: None = None) -> None:  # type: ignore[override]
            seen.append([tensor.grad.clone() for group in self.param_groups for tensor in group["params"]])

    straight_through_matching(
        a, b, batches[:1], spec, init=match, epochs=1, optimizer=lambda tensors: Look(tensors, lr=1.0)
    )
    for got, wanted in zip(seen[0], grads, strict=True):
        torch.testing.assert_close(got, 0.5 * wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["mlp", "resnet", "transformer"])
def test_a_planted_permutation_is_found_from_a_shuffled_start(kind: str) -> None:
    build, spec_of, shape = {
        "mlp": (lambda: models.small_mlp((33, 17)), architectures.mlp, (4,)),
        "resnet": (models.small_resnet, architectures.resnet, (1, 8, 8)),
        "transformer": (models.TransformerBlock, lambda m: models.TransformerBlock.spec(), (7, 5)),
    }[kind]
    model = models.randomise(build(), seed=3)
    spec = spec_of(model).bind(model)
    truth = lmc.Permutations.random(spec, 5)
    rng = np.random.default_rng(0)
    choices = truth.choices
    for name, choice in choices.items():
        rows = choice.reshape(-1, choice.shape[-1])
        for row in rows:
            some = rng.permutation(len(row))[: max(2, len(row) // 5)]
            row[some] = row[np.roll(some, 1)]
        choices[name] = rows.reshape(choice.shape)
    start = lmc.Permutations(spec, choices)
    assert start != truth
    inputs = torch.randn(16, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        targets = model(inputs)
    found = straight_through_matching(
        model, truth.inverse().apply(model), [(inputs, targets)], spec, init=start, loss_fn=nn.functional.mse_loss
    )
    assert found.permutations == truth


def test_batchnorm_is_handled_and_nothing_of_the_callers_changes(data: Dataset) -> None:
    a, b = (train(lambda: ResNet(1, 8, (1, 1), 10), data, seed=seed, epochs=1) for seed in (0, 1))
    a.train()
    next(a.parameters()).requires_grad_(False)
    for parameter in (*a.parameters(), *b.parameters()):
        parameter.grad = None
    before = [copy.deepcopy(model.state_dict()) for model in (a, b)]
    modes = [part.training for part in a.modules()]
    wants = [p.requires_grad for p in a.parameters()]
    few = [(data.train_inputs[:128], data.train_targets[:128])]
    state = torch.random.get_rng_state()
    match = straight_through_matching(a, b, few, architectures.resnet(a), epochs=2)
    assert len(match.history) == 2 and math.isfinite(match.objective)
    for model, kept in zip((a, b), before, strict=True):
        assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())
        assert all(p.grad is None for p in model.parameters())
    assert [part.training for part in a.modules()] == modes
    assert [p.requires_grad for p in a.parameters()] == wants
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_step_projects_groups_that_share_no_parameter_in_turn(
    pair: tuple[nn.Module, nn.Module, lmc.PermutationSpec],
) -> None:
    a, b, spec = pair
    start = lmc.Permutations.random(spec, 1)
    names = [name for name, _ in a.named_parameters()]
    hat = straight_through.Hat(spec, a.state_dict(), b.state_dict(), names, start, torch.device("cpu"))
    assert sorted(name for some in hat.sets for name in some) == sorted(spec.groups) and len(hat.sets) == 2
    for some in (*hat.sets, hat.sets[0]):
        before = hat.permutations
        hat.project(None)
        assert {name for name in spec.groups if not torch.equal(before[name], hat.permutations[name])} <= set(some)
    moved = hat.permutations
    hat.project(9)
    assert hat.project(1) == 0 and hat.permutations != moved != start


@pytest.mark.parametrize("sweeps", [None, 1, 3])
def test_however_a_step_projects_the_midpoint_is_low(
    pair: tuple[nn.Module, nn.Module, lmc.PermutationSpec], batches: Batches, sweeps: int | None
) -> None:
    a, b, spec = pair
    ste = straight_through_matching(a, b, batches, spec, sweeps=sweeps)
    wm = lmc.weight_matching(a, b, spec)
    assert midpoint(a, b, batches, ste) <= midpoint(a, b, batches, wm) * (1 + 1e-6)


def test_same_seed_same_result(pair: tuple[nn.Module, nn.Module, lmc.PermutationSpec], batches: Batches) -> None:
    a, b, spec = pair
    first, again = (straight_through_matching(a, b, batches, spec, mixing="random", seed=4) for _ in range(2))
    assert first.permutations == again.permutations
    assert [step.moved for step in first.history] == [step.moved for step in again.history]


def test_patience_ends_it_and_the_best_is_kept(
    pair: tuple[nn.Module, nn.Module, lmc.PermutationSpec], batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, spec = pair
    losses = iter([1.0, 0.5, 0.6, 0.7, 0.1])
    seen: list[lmc.Permutations] = []

    def told(self: straight_through.TaskLoss, weights: object) -> float:
        return next(losses)

    project = straight_through.Hat.project

    def projected(self: straight_through.Hat, sweeps: int | None) -> int:
        moved = project(self, sweeps)
        seen.append(self.permutations)
        return moved

    monkeypatch.setattr(straight_through.TaskLoss, "mean_loss", told)
    monkeypatch.setattr(straight_through.Hat, "project", projected)
    match = straight_through_matching(a, b, batches, spec, epochs=9, patience=2, learning_rate=0.02)
    assert match.converged and len(match.history) == 3
    # Of the second look, after the first epoch: a projection for each batch, and one at the end.
    assert match.permutations == seen[len(batches)]


def test_progress_is_told(pair: tuple[nn.Module, nn.Module, lmc.PermutationSpec], batches: Batches) -> None:
    a, b, spec = pair
    told: list[tuple[str, int, int]] = []
    straight_through_matching(a, b, batches[:1], spec, epochs=2, progress=lambda *what: told.append(what))
    assert [done for _, done, _ in told] == [1, 2] and "loss" in told[0][0]


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"epochs": 0}, ValueError, "epochs must be"),
            ({"patience": 0}, ValueError, "patience must be"),
            ({"learning_rate": 0.0}, ValueError, "learning_rate must be above 0, got 0.0"),
            ({"mixing": "mean"}, ValueError, "mixing must be one of 'midpoint', 'random', got 'mean'"),
            ({"init": "best"}, ValueError, "init must be"),
            ({"init": 3}, TypeError, "init must be"),
            ({"loss_fn": "loss"}, TypeError, "loss_fn must be"),
            ({"loss_fn": lambda outputs, targets: outputs}, ValueError, "loss_fn must return one number"),
            ({"loss_fn": lambda outputs, targets: outputs.sum() / 0}, ValueError, "the loss must be finite"),
        ],
    )
    def test_options(
        self,
        pair: tuple[nn.Module, nn.Module, lmc.PermutationSpec],
        batches: Batches,
        options: dict[str, object],
        error: type[Exception],
        message: str,
    ) -> None:
        a, b, spec = pair
        with pytest.raises(error, match=message):
            straight_through_matching(a, b, batches, spec, **options)  # type: ignore[arg-type]

    def test_arguments_of_the_wrong_kind(
        self, pair: tuple[nn.Module, nn.Module, lmc.PermutationSpec], batches: Batches
    ) -> None:
        a, b, spec = pair
        with pytest.raises(TypeError, match=r"model_a must be a torch\.nn\.Module"):
            straight_through_matching(a.state_dict(), b, batches, spec)
        with pytest.raises(TypeError, match="batches must be"):
            straight_through_matching(a, b, iter(batches), spec)
        with pytest.raises(TypeError, match=r"batches must be \(inputs, targets\) pairs"):
            straight_through_matching(a, b, [batches[0][0]], spec)  # type: ignore[list-item]
        with pytest.raises(ValueError, match="must hold one example at least"):
            straight_through_matching(a, b, [], spec)

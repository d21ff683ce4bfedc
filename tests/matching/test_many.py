"""Several models in one frame: planted permutations, objectives that never fall, maps that compose."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import architectures
from lmc_fast.matching.engine import universe
from lmc_fast.matching.engine.merge_many import ManyDescent
from lmc_fast.matching.engine.nested import value_of
from lmc_fast.ops.permuted_dot import overlap

KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], lmc.PermutationSpec], tuple[int, ...]]] = {
    "mlp": (lambda: models.small_mlp((33, 17)), architectures.mlp, (4,)),
    "conv-flatten-linear": (models.ConvNet, architectures.vgg, (1, 8, 8)),
    "resnet": (models.small_resnet, architectures.resnet, (1, 8, 8)),
    "transformer": (models.TransformerBlock, lambda m: models.TransformerBlock.spec(), (7, 5)),
    "experts": (models.Experts, lambda m: models.Experts.spec(), (5,)),
}
METHODS = ("pairwise", "merge_many", "c2m3", "ste_mm")


def several(kind: str, count: int = 3) -> tuple[list[nn.Module], lmc.PermutationSpec]:
    build, spec_of, _ = KINDS[kind]
    found = [models.randomise(build(), seed) for seed in range(count)]
    return found, spec_of(found[0]).bind(found[0])


def data_of(kind: str, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    inputs = torch.randn(16, *KINDS[kind][2], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return [(inputs, model(inputs))]


def options(method: str, kind: str, model: nn.Module) -> dict[str, Any]:
    if method != "ste_mm":
        return {"max_sweeps": 6 if method == "c2m3" else 100}
    return {"batches": data_of(kind, model), "loss_fn": nn.functional.mse_loss, "epochs": 2}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_planted_permutations_are_found(kind: str, method: str) -> None:
    (model, *_), spec = several(kind)
    truth = [lmc.Permutations.random(spec, seed) for seed in (3, 4, 5)]
    planted = [p.inverse().apply(model) for p in truth]
    found = lmc.match_many(planted, spec, method=method, reference=1, **options(method, kind, model))
    for i, j in permutations(range(3), 2):
        assert found.pairwise(i, j) == truth[i].inverse().after(truth[j])
    assert found.permutations[1].moved == 0 and found.reference == 1
    assert found.l2_after.max() < 1e-3 < found.l2_before[0, 1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["mlp", "resnet", "transformer"])
def test_cycles_close_and_numbers_are_those_of_the_weights(kind: str, method: str) -> None:
    trained, spec = several(kind)
    found = lmc.match_many(trained, spec, method=method, **options(method, kind, trained[0]))
    identity = lmc.Permutations.identity(spec)
    for i, j, k in permutations(range(3), 3):
        around = found.pairwise(i, j).after(found.pairwise(j, k)).after(found.pairwise(k, i))
        assert around == identity
    moved = [dict(model.named_parameters()) for model in found.apply(trained)]
    plain = [dict(model.named_parameters()) for model in trained]
    total = 0.0
    for i, j in combinations(range(3), 2):
        total += sum(float((a.double() * moved[j][name].double()).sum().detach()) for name, a in moved[i].items())
        for of, distances in ((moved, found.l2_after), (plain, found.l2_before)):
            square = sum(
                float((a.double() - of[j][name].double()).square().sum().detach()) for name, a in of[i].items()
            )
            assert distances[i, j] == distances[j, i] == pytest.approx(square**0.5, rel=1e-6)
    assert found.objective == pytest.approx(total, rel=1e-9)
    inputs = data_of(kind, trained[0])[0][0]
    for before, after in zip(trained, found.apply(trained), strict=True):
        torch.testing.assert_close(after(inputs), before(inputs), rtol=1e-4, atol=1e-4)
    assert "3 models" in str(found) and found.method in str(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("init", ["anchored", "identity", "random"])
def test_the_objective_never_falls_and_no_model_can_gain_alone(kind: str, init: str) -> None:
    trained, spec = several(kind)
    found = lmc.match_many(trained, spec, init=init)
    objectives = [sweep.objective for sweep in found.history]
    assert found.converged and objectives == sorted(objectives)
    assert objectives[-1] == pytest.approx(found.objective, rel=1e-9)
    # Against weight matching of one model to the sum of the others, from where it is.
    moved = [dict(model.named_parameters()) for model in found.apply(trained)]
    for m in range(3):
        rest = {name: sum(moved[k][name].detach() for k in range(3) if k != m) for name in moved[m]}
        here = {name: tensor.detach() for name, tensor in moved[m].items()}
        again = lmc.weight_matching(rest, here, _for_parameters(spec, here), init="identity")  # type: ignore[arg-type]
        assert again.permutations.moved == 0


def _for_parameters(spec: lmc.PermutationSpec, tensors: dict[str, Tensor]) -> lmc.PermutationSpec:
    axes = {name: axis for name, axis in spec.axes.items() if name in tensors}
    return lmc.PermutationSpec.from_axes(axes, list(spec.groups.values()))


def test_all_pairs_gain_over_matching_each_to_the_first(draws: Callable[[int, int], range]) -> None:
    for seed in draws(1, 3):
        trained = [models.randomise(models.small_mlp((40, 40)), 10 * seed + k) for k in range(3)]
        spec = architectures.mlp(trained[0])
        pairwise, together, joint = (
            lmc.match_many(trained, spec, method=method, seed=seed, max_sweeps=20)
            for method in ("pairwise", "merge_many", "c2m3")
        )
        assert pairwise.objective < together.objective and pairwise.objective < joint.objective


@pytest.mark.parametrize("kind", KINDS)
def test_gains_are_those_against_the_sum_of_the_others(kind: str) -> None:
    """What moves in one model is followed by the gains of all."""
    trained, spec = several(kind)
    states = [{k: p.detach().double() for k, p in model.named_parameters()} for model in trained]
    names = list(states[0])
    overlaps = {(i, j): {k: overlap(states[i][k], states[j][k]) for k in names} for i, j in combinations(range(3), 2)}
    descent = ManyDescent(spec, states, names, overlaps, torch.device("cpu"))
    rng = np.random.default_rng(0)
    for step in range(6):
        m, root = int(rng.integers(3)), str(rng.choice(spec.roots))
        chosen = lmc.Permutations.random(spec, step).choices
        descent.place(m, root, {name: chosen[name] for name in descent.trees[root]})
        asked = int(rng.integers(3))
        for other in spec.roots:
            before = descent.objective()
            gains = descent.gains(asked, other)
            old = {name: descent.choices[asked][name].copy() for name in descent.trees[other]}
            if other in descent.neighbours[other]:
                continue
            new = lmc.Permutations.random(spec, 90 + step).choices
            new = {name: new[name] for name in descent.trees[other]}
            gained = value_of(spec, other, gains, new) - value_of(spec, other, gains, old)
            descent.place(asked, other, new)
            assert descent.objective() - before == pytest.approx(gained, abs=1e-8)
            descent.place(asked, other, old)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_c2m3_is_what_dense_matrices_say(kind: str) -> None:
    trained, spec = several(kind)
    states = [{k: p.detach().double() for k, p in model.named_parameters()} for model in trained]
    names = list(states[0])
    overlaps = {(i, j): {k: overlap(states[i][k], states[j][k]) for k in names} for i, j in combinations(range(3), 2)}
    descent = ManyDescent(spec, states, names, overlaps, torch.device("cpu"))
    relaxed = [universe._Relaxed(descent, m) for m in range(3)]
    for seed, length in ((1, 0.5), (2, 0.3)):
        vertices = [lmc.Permutations.random(spec, 10 * seed + m).choices for m in range(3)]
        parts = [model.towards(vertex) for model, vertex in zip(relaxed, vertices, strict=True)]
        along = universe._along(parts)
        for model, vertex, of_model in zip(relaxed, vertices, parts, strict=True):
            model.step(vertex, of_model, length)
        dense = [{k: mixed(spec, k, states[m][k], relaxed[m].parts) for k in names} for m in range(3)]
        for m in range(3):
            for k in names:
                torch.testing.assert_close(relaxed[m].whole(k), dense[m][k])
        value = sum(float((dense[i][k] * dense[j][k]).sum()) for i, j in combinations(range(3), 2) for k in names)
        assert along(length) == pytest.approx(value, rel=1e-9)
    best = universe._best_length(along)
    assert along(best) == pytest.approx(max(map(along, np.linspace(0, 1, 2001).tolist())), rel=1e-5)


def mixed(spec: lmc.PermutationSpec, name: str, tensor: Tensor, parts: list[tuple[float, Any]]) -> Tensor:
    """A parameter under a mixture of permutations on each of its axes, with dense matrices."""
    moved = spec.view(name, tensor)
    for axis, size in enumerate(moved.shape):
        mixture = sum(
            share * torch.eye(size).double()[lmc.Permutations(spec, choices).index(name, axis)]
            for share, choices in parts
        )
        moved = torch.tensordot(moved, mixture, dims=([axis], [1])).movedim(-1, axis)  # type: ignore[arg-type]
    return moved


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_result_and_nothing_of_the_callers_changes(method: str) -> None:
    trained, spec = several("resnet")
    trained[0].train()
    next(trained[0].parameters()).requires_grad_(False)
    before = [copy.deepcopy(model.state_dict()) for model in trained]
    modes = [[part.training for part in model.modules()] for model in trained]
    wants = [[p.requires_grad for p in model.parameters()] for model in trained]
    state = torch.random.get_rng_state()
    with_data = options(method, "resnet", trained[1])
    first, again = (lmc.match_many(trained, spec, method=method, init="random", seed=5, **with_data) for _ in range(2))
    assert first.permutations == again.permutations and first.objective == again.objective
    assert torch.equal(torch.random.get_rng_state(), state)
    for model, kept, mode, want in zip(trained, before, modes, wants, strict=True):
        assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())
        assert [part.training for part in model.modules()] == mode
        assert [p.requires_grad for p in model.parameters()] == want
        assert all(p.grad is None for p in model.parameters())


def test_ste_mm_keeps_the_best_of_what_it_began_with_and_saw() -> None:
    trained, spec = several("mlp")
    start = lmc.match_many(trained, spec)
    given = options("ste_mm", "mlp", trained[0])
    found = lmc.match_many(trained, spec, method="ste_mm", init=start, mixing="midpoint", **given)
    assert found.method == "ste_mm, midpoint" and len(found.history) == 2
    losses = [
        lmc.evaluate(lmc.merge(trained, many), given["batches"], loss_fn=nn.functional.mse_loss)[0]
        for many in (start, found)
    ]
    assert losses[1] <= losses[0] * (1 + 1e-6)


def test_merge_takes_the_result() -> None:
    trained, spec = several("resnet")
    many = lmc.match_many(trained, spec, reference=2)
    shares = [0.5, 0.2, 0.3]
    merged = lmc.merge(trained, many, weights=shares)
    by_hand = lmc.merge(many.apply(trained), weights=shares)
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(tensor, by_hand.state_dict()[name])


class TestErrors:
    @pytest.mark.parametrize(
        ("given", "error", "message"),
        [
            ({"method": "best"}, ValueError, "method must be one of 'merge_many', 'pairwise', 'c2m3', 'ste_mm'"),
            ({"reference": 3}, ValueError, "reference must be one of the 3 models, got 3"),
            ({"init": "best"}, ValueError, "init must be"),
            ({"init": 3}, TypeError, "init must be"),
            ({"init": []}, ValueError, "init must have one entry for each of the 3 models, got 0"),
            ({"max_sweeps": 0}, ValueError, "max_sweeps must be"),
            ({"method": "ste_mm"}, ValueError, "batches must be given for method='ste_mm'"),
            ({"batches": []}, ValueError, "batches must be left out for method='merge_many'"),
            ({"method": "ste_mm", "batches": [], "mixing": "x"}, ValueError, "mixing must be one of"),
            ({"seed": -1}, ValueError, "seed must be"),
        ],
    )
    def test_options(self, given: dict[str, Any], error: type[Exception], message: str) -> None:
        trained, spec = several("mlp")
        with pytest.raises(error, match=message):
            lmc.match_many(trained, spec, **given)

    def test_models(self) -> None:
        trained, spec = several("mlp")
        with pytest.raises(ValueError, match="models must hold two models at least, got 1"):
            lmc.match_many(trained[:1], spec)
        with pytest.raises(TypeError, match="models must be a sequence of models"):
            lmc.match_many(trained[0], spec)  # type: ignore[arg-type]
        other = models.small_mlp((33, 18))
        with pytest.raises(ValueError, match=r"models\[2\] must have the shapes of models\[0\]"):
            lmc.match_many([*trained[:2], other], spec)
        with pytest.raises(TypeError, match=r"models\[0\] must be a torch\.nn\.Module"):
            lmc.match_many([m.state_dict() for m in trained], spec, method="ste_mm", batches=[])
        broken = copy.deepcopy(trained[1])
        next(broken.parameters()).data[0] = torch.nan
        with pytest.raises(ValueError, match=r"models\[1\] must have finite weights"):
            lmc.match_many([trained[0], broken], spec)

    def test_the_result(self) -> None:
        trained, spec = several("mlp")
        many = lmc.match_many(trained, spec)
        with pytest.raises(ValueError, match=r"j must be one of the 3 models, 0\.\.2, got 3"):
            many.pairwise(0, 3)
        with pytest.raises(ValueError, match="models must be the 3 that were matched, got 2"):
            many.apply(trained[:2])
        with pytest.raises(ValueError, match="matches must have one entry for each of the 2 models, got 3"):
            lmc.merge(trained[:2], many)

"""Leading parts of weights: their gains, and what a search over them first leads to."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import architectures
from lmc_fast.experiments.datasets import digits
from lmc_fast.experiments.models import MLP
from lmc_fast.experiments.training import train
from lmc_fast.matching.engine import leading
from lmc_fast.matching.engine.descent import CoordinateDescent
from lmc_fast.matching.engine.leading import LeadingGains, is_worth_leading

from .test_gains import KINDS


@pytest.fixture
def low_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of small models are factored too."""
    monkeypatch.setattr(leading, "RANK", 3)
    monkeypatch.setattr(leading, "LONGER", 1)


def of_rank(tensor: Tensor, axis: int, rank: int) -> Tensor:
    """What the `rank` largest singular values make of a weight whose axis holds the rows."""
    rows = tensor.movedim(axis, 0)
    u, s, v = torch.linalg.svd(rows.flatten(1), full_matrices=False)
    return ((u[:, :rank] * s[:rank]) @ v[:rank]).reshape(rows.shape).movedim(0, axis)


def searches(
    build: Callable[[], nn.Module], spec_of: Callable[[nn.Module], lmc.PermutationSpec], rank: int, dtype: torch.dtype
) -> tuple[CoordinateDescent, LeadingGains]:
    """A search between two models whose factored weights have this rank, and gains of leading parts for it."""
    a, b = (models.randomise(build(), seed).to(dtype) for seed in (1, 2))
    spec = spec_of(a).bind(a)
    states = [{name: tensor.detach() for name, tensor in model.named_parameters()} for model in (a, b)]
    weights = dict.fromkeys(states[0], 1.0)
    probe = CoordinateDescent(spec, *states, weights, lmc.Permutations.identity(spec), (), None)
    for name, axis in leading._factored_axes(probe.a, probe.leaves).items():
        for side, state in zip((probe.a, probe.b), states, strict=True):
            low = of_rank(side[name].float(), axis, rank).to(dtype)
            state[name] = low.reshape(state[name].shape)
    descent = CoordinateDescent(spec, *states, weights, lmc.Permutations.random(spec, 3), (), None)
    return descent, LeadingGains(descent.a, descent.b, descent.leaves, descent.index)


@pytest.mark.usefixtures("low_ranks")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_gains_of_weights_of_low_rank_are_those_of_the_whole(kind: str, dtype: torch.dtype) -> None:
    descent, gains = searches(*KINDS[kind], 3 if dtype != torch.bfloat16 else 1, dtype)
    assert gains._factors, "nothing was factored"
    # A bfloat16 weight is of low rank up to its own rounding only.
    tolerance = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]
    for group in descent.spec.groups:
        whole, part = descent.gains.gain(group), gains.gain(group)
        if whole is None:
            assert part is None
            continue
        assert part is not None and part.dtype == whole.dtype
        assert float((part - whole).norm()) <= tolerance * float(whole.norm())
        for leaf in descent.leaves[group]:
            one, other = descent.gains.partial_gain(group, [leaf]), gains.partial_gain(group, [leaf])
            assert one is not None and other is not None
            assert float((other - one).norm()) <= tolerance * float(one.norm())
    assert all(gains.partial_gain(group, []) is None for group in descent.spec.groups)
    for name in descent.a:
        scale = float(descent.a[name].double().norm() * descent.b[name].double().norm())
        assert gains.dot(name) == pytest.approx(descent.gains.dot(name), abs=tolerance * scale)


@pytest.mark.usefixtures("low_ranks")
def test_factors_are_the_leading_singular_part() -> None:
    """Of a weight whose leading singular values stand out, as those of trained networks do."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, 40, 30)
    values = torch.tensor([8.0, 6.0, 5.0] + [0.3] * 37)
    u = torch.linalg.qr(torch.randn(40, 40, generator=generator)).Q
    v = torch.linalg.qr(torch.randn(60, 40, generator=generator)).Q
    weight = ((u * values) @ v.T).reshape(40, 2, 30).movedim(0, 1)
    assert weight.shape == shape
    factors = leading._factors(weight, weight, 1)
    assert torch.allclose(factors.q_a.T @ factors.q_a, torch.eye(3), atol=1e-5)
    product = (factors.q_a @ factors.c_a.flatten(1)).reshape(40, 2, 30).movedim(0, 1)
    assert float((product - of_rank(weight, 1, 3)).norm()) < 0.01 * float(weight.norm())


def two_of_one_signal(units: int, seed: int, noise: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Two MLPs that share a signal of rank 4 up to a permutation, each with noise of its own."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [12, units, units, units, 5]
    names = [f"layers.{k}.weight" for k in range(4)]
    # Singular values three times as large as the noise's are at 1.
    signal = {
        name: torch.randn(rows, 4, generator=generator)
        @ torch.randn(4, columns, generator=generator)
        * (3 * (rows**-0.5 + columns**-0.5) / columns**0.5)
        for name, rows, columns in zip(names, sizes[1:], sizes, strict=False)
    }
    spec = architectures.mlp(signal).bind(signal)
    moved = lmc.Permutations.random(spec, seed).apply(signal)

    def noisy(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: tensor + noise * torch.randn(tensor.shape, generator=generator) / math.sqrt(tensor.shape[1])
            for name, tensor in state.items()
        }

    return noisy(signal), noisy(moved)


@pytest.fixture(scope="module")
def trained() -> list[dict[str, Tensor]]:
    data = digits()
    return [train(lambda: MLP(64, (192,) * 3, 10), data, seed=seed, epochs=6).state_dict() for seed in range(4)]


@pytest.mark.parametrize("init", ["anchored", "identity"])
def test_it_finds_better_optima_than_coordinate_descent_alone(init: str, trained: list[dict[str, Tensor]]) -> None:
    spec = architectures.mlp(trained[0])
    better, gained = 0, 0.0
    for a, b in itertools.combinations(trained, 2):
        first, alone = (
            lmc.weight_matching(a, b, spec, init=init, search=search) for search in ("spectral", "coordinate_descent")
        )
        assert first.converged and first.method == "weight matching"
        better += first.objective > alone.objective
        gained += first.objective - alone.objective
    assert better >= 5 and gained > 0


def test_small_models_are_matched_whole() -> None:
    a, b = (models.randomise(models.small_mlp((40, 40)), seed) for seed in (1, 2))
    spec = architectures.mlp(a)
    first, alone = (lmc.weight_matching(a, b, spec, search=search) for search in ("spectral", "coordinate_descent"))
    assert first.permutations == alone.permutations


@pytest.mark.parametrize(("units", "worth"), [(100, False), (128, False), (400, True)])
def test_when_leading_parts_are_worth_a_search(units: int, worth: bool) -> None:
    descent = search_of(*two_of_one_signal(units, 0, 1.0))
    assert is_worth_leading(descent.a, descent.leaves) == worth
    assert (descent.leading() is not None) == worth


@pytest.mark.parametrize(("units", "noise", "clear"), [(400, 1.0, True), (400, 8.0, False), (130, 8.0, False)])
def test_noise_does_not_stand_out(units: int, noise: float, clear: bool) -> None:
    for seed in range(2):
        descent = search_of(*two_of_one_signal(units, seed, noise))
        gains = LeadingGains(descent.a, descent.b, descent.leaves, descent.index)
        assert gains.stand_out(descent.norms) == clear


def test_most_weights_have_to_stand_out() -> None:
    (a, b), (noise_a, noise_b) = (two_of_one_signal(400, 0, noise) for noise in (1.0, 8.0))
    one, both = ("layers.1.weight",), ("layers.1.weight", "layers.2.weight")
    for names, clear in ((one, True), (both, False)):
        swap_a, swap_b = ({name: noise[name] for name in names} for noise in (noise_a, noise_b))
        assert (search_of(a | swap_a, b | swap_b).leading() is not None) == clear
        # One model's noise is enough.
        assert (search_of(a, b | swap_b).leading() is not None) == clear


def search_of(a: dict[str, Tensor], b: dict[str, Tensor]) -> CoordinateDescent:
    spec = architectures.mlp(a).bind(a)
    return CoordinateDescent(spec, a, b, dict.fromkeys(a, 1.0), lmc.Permutations.identity(spec), (), None)


def test_a_search_over_leading_parts_leaves_the_other_as_it_is() -> None:
    a, b = two_of_one_signal(400, 0, 1.0)
    whole = search_of(a, b)
    part = whole.leading()
    assert part is not None
    before = {name: choice.copy() for name, choice in whole.choices.items()}
    part.anchor()
    part.run(lambda: list(whole.open), 2, False)
    assert any((part.choices[name] != choice).any() for name, choice in before.items())
    assert all((whole.choices[name] == choice).all() for name, choice in before.items())
    assert not whole.solvers


def lead_astray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let searches over leading parts end anywhere."""
    found = CoordinateDescent.leading

    def astray(self: CoordinateDescent) -> CoordinateDescent | None:
        search = found(self)
        assert search is not None
        scrambled = lmc.Permutations.random(self.spec, 5).choices
        monkeypatch.setattr(search, "run", lambda *_, **__: search.choose_all(scrambled))
        return search

    monkeypatch.setattr(leading, "RANK", 6)
    monkeypatch.setattr(CoordinateDescent, "leading", astray)


@pytest.mark.parametrize("init", ["anchored", "identity", "permutations"])
def test_it_ends_at_no_less_than_its_start(init: str, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = two_of_one_signal(96, 1, 2.5)
    spec = architectures.mlp(a).bind(a)
    best = lmc.weight_matching(a, b, spec, search="frank_wolfe")
    if init != "permutations":
        b = best.apply(b)
    lead_astray(monkeypatch)
    start = best.permutations if init == "permutations" else init
    found = lmc.weight_matching(a, b, spec, init=start)
    assert found.converged and found.objective >= best.objective * (1 - 1e-12)


def test_models_one_by_one_end_at_no_less_than_their_start(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = two_of_one_signal(96, 1, 2.5)
    spec = architectures.mlp(a).bind(a)
    best = lmc.weight_matching(a, b, spec, search="frank_wolfe")
    lead_astray(monkeypatch)
    start = [lmc.Permutations.identity(spec), best.permutations]
    found = lmc.match_many([a, b], spec, method="pairwise", init=start)
    assert found.converged and found.objective >= best.objective * (1 - 1e-12)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
def test_planted_permutations_are_found_in_wide_models(noise: float) -> None:
    for seed in range(3):
        model, _ = two_of_one_signal(400, seed, 1.0)
        spec = architectures.mlp(model).bind(model)
        truth = lmc.Permutations.random(spec, seed)
        generator = torch.Generator().manual_seed(2)
        other = {
            name: tensor + noise * tensor.std(correction=0) * torch.randn(tensor.shape, generator=generator)
            for name, tensor in truth.inverse().apply(model).items()
        }
        assert search_of(model, other).leading() is not None
        assert lmc.weight_matching(model, other, spec).permutations == truth


def test_frozen_groups_stay() -> None:
    a, b = two_of_one_signal(400, 2, 1.0)
    spec = architectures.mlp(a).bind(a)
    frozen = next(iter(spec.groups))
    match = lmc.weight_matching(a, b, spec, freeze=[frozen])
    assert torch.equal(match.permutations[frozen], torch.arange(400))
    assert match.permutations.moved > 400


def test_same_result_on_any_number_of_threads() -> None:
    a, b = two_of_one_signal(300, 3, 1.0)
    before = {name: tensor.clone() for name, tensor in (*a.items(), *b.items())}
    spec, state = architectures.mlp(a), torch.get_rng_state()
    results, threads = [], torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        try:
            results.append(lmc.weight_matching(a, b, spec))
        finally:
            torch.set_num_threads(threads)
    assert results[0].permutations == results[1].permutations
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in (*a.items(), *b.items()) if tensor is b[name])


def test_weights_of_nothing_but_zeros() -> None:
    a, b = two_of_one_signal(400, 4, 1.0)
    a["layers.1.weight"], b["layers.1.weight"] = (torch.zeros(400, 400) for _ in range(2))
    match = lmc.weight_matching(a, b, architectures.mlp(a))
    assert match.converged and math.isfinite(match.objective)

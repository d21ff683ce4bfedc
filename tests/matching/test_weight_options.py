"""Weights of parameters, frozen groups, and threads: what they change, and what they must not."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import architectures
from lmc_fast.matching.engine import descent
from lmc_fast.matching.engine.nested import best_choices


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def mlps(*widths: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], lmc.PermutationSpec]:
    a, b = (models.randomise(models.small_mlp(widths), seed=seed) for seed in (1, 2))
    return a.state_dict(), b.state_dict(), architectures.mlp(a)


def test_the_transformer_of_the_tests_has_the_symmetries_that_its_spec_says() -> None:
    model = models.randomise(models.TransformerBlock(), seed=0)
    lmc.verify_spec(model, models.TransformerBlock.spec(), torch.randn(2, 7, 5))


class TestWeights:
    def test_one_weight_for_all_scales_the_objective(self) -> None:
        a, b, spec = mlps(12, 9)
        plain = lmc.weight_matching(a, b, spec)
        scaled = lmc.weight_matching(a, b, spec, weights=dict.fromkeys(a, 4.0))
        assert scaled.permutations == plain.permutations
        assert scaled.objective == pytest.approx(4 * plain.objective, rel=1e-12)
        assert scaled.l2_before == pytest.approx(2 * plain.l2_before, rel=1e-12)
        assert scaled.l2_after == pytest.approx(2 * plain.l2_after, rel=1e-12)

    def test_a_weight_of_zero_leaves_a_parameter_out(self) -> None:
        a, b, spec = mlps(12)
        # Only the first layer's weights are left: one assignment over its rows.
        first, *others = a
        match = lmc.weight_matching(a, b, spec, weights=dict.fromkeys(others, 0))
        _, column = lmc.linear_sum_assignment(a[first] @ b[first].T, maximize=True)
        assert torch.equal(match.permutations[next(iter(spec.groups))], column)
        assert match.l2_before == pytest.approx(float((a[first].double() - b[first].double()).norm()), rel=1e-12)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_a_weight_counts_as_often_as_it_says(self, dtype: torch.dtype) -> None:
        a, b, spec = mlps(6)
        a, b = ({name: tensor.to(dtype) for name, tensor in state.items()} for state in (a, b))
        weights = {name: 0.25 * k for k, name in enumerate(a)}
        found = lmc.weight_matching(a, b, spec, weights=weights, restarts=3)

        def objective(order: tuple[int, ...]) -> float:
            moved = lmc.Permutations(spec.bind(b), {next(iter(spec.groups)): order}).apply(b)
            return sum(w * float((a[name].double() * moved[name].double()).sum()) for name, w in weights.items())

        assert found.objective == pytest.approx(max(map(objective, itertools.permutations(range(6)))), rel=1e-6)

    @pytest.mark.parametrize(
        ("weights", "error", "message"),
        [
            ({"nobody": 1.0}, ValueError, "'nobody', which the models lack"),
            ({"bn1.running_mean": 1.0}, ValueError, "'bn1.running_mean', which does not count"),
            ({"fc.weight": -1.0}, ValueError, r"weights\['fc.weight'\] must be finite and 0 or more, got -1.0"),
            ({"fc.weight": float("nan")}, ValueError, "must be finite and 0 or more, got nan"),
            ({"fc.weight": "much"}, TypeError, r"weights\['fc.weight'\] must be a number"),
            (["fc.weight"], TypeError, "weights must be a mapping"),
        ],
    )
    def test_wrong_ones_are_refused(self, weights: object, error: type[Exception], message: str) -> None:
        model = models.small_resnet()
        with pytest.raises(error, match=message):
            lmc.weight_matching(model, model, architectures.resnet(model), weights=weights)  # type: ignore[arg-type]


class TestFreeze:
    @pytest.mark.parametrize("init", ["anchored", "identity", "random"])
    def test_a_frozen_group_stays(self, init: str) -> None:
        a, b, spec = mlps(15, 11, 8)
        kept, *free = spec.groups
        match = lmc.weight_matching(a, b, spec, init=init, freeze=[kept], restarts=2)
        assert torch.equal(match.permutations[kept], torch.arange(15)) or init == "random"
        assert all((match.permutations[name] != torch.arange(len(match.permutations[name]))).any() for name in free)

    def test_it_stays_where_the_start_has_it(self) -> None:
        a, b, spec = mlps(15, 11)
        start = lmc.Permutations.random(spec.bind(a), 3)
        kept, free = spec.groups
        match = lmc.weight_matching(a, b, spec, init=start, freeze={kept}, restarts=2)
        assert torch.equal(match.permutations[kept], start[kept])
        assert not torch.equal(match.permutations[free], start[free])

    def test_all_frozen_leaves_the_start(self) -> None:
        a, b, spec = mlps(15, 11)
        match = lmc.weight_matching(a, b, spec, freeze=spec.groups)
        assert match.permutations.moved == 0 and match.converged and match.history == ()

    def test_a_planted_permutation_is_found_around_what_is_frozen(self) -> None:
        model = models.randomise(models.TransformerBlock(), seed=0)
        spec = models.TransformerBlock.spec().bind(model)
        for frozen in spec.groups:
            truth = lmc.Permutations.random(spec, 5)
            choices = truth.choices
            choices[frozen] = lmc.Permutations.identity(spec).choices[frozen]
            truth = lmc.Permutations(spec, choices)
            match = lmc.weight_matching(model, truth.inverse().apply(model), spec, freeze=[frozen])
            assert match.permutations == truth, frozen

    @pytest.mark.parametrize("frozen", [("head",), ("value",), ("head", "value"), ()])
    def test_what_is_left_free_is_chosen_exactly(self, frozen: tuple[str, ...]) -> None:
        """Against every choice of heads and of values inside heads."""
        spec = lmc.PermutationSpec.from_axes(
            {"w": ("value", None)}, [lmc.Group("head", 3), lmc.Group("value", 2, owner="head")]
        ).bind({"w": torch.zeros(6, 1)})
        rng = np.random.default_rng(0)
        heads = [np.array(order) for order in itertools.permutations(range(3))]
        values = [np.array(rows) for rows in itertools.product(*[list(itertools.permutations(range(2)))] * 3)]
        for seed in range(5):
            gain = rng.standard_normal((6, 6))
            now = lmc.Permutations.random(spec, seed).choices
            # For every head of b the order of its values now.
            order = {unit: tuple(row) for unit, row in zip(now["head"], now["value"], strict=True)}

            def total(head: np.ndarray, value: np.ndarray, gain: np.ndarray = gain) -> float:
                return float(gain[np.arange(6), (2 * head[:, None] + value).reshape(-1)].sum())

            allowed = [
                total(head, value)
                for head in heads
                for value in values
                if ("head" not in frozen or np.array_equal(head, now["head"]))
                and ("value" not in frozen or all(order[u] == tuple(row) for u, row in zip(head, value, strict=True)))
            ]
            choices, gained = best_choices(spec, "head", {"head": None, "value": gain}, now, frozen=frozen)
            assert total(choices["head"], choices["value"]) == pytest.approx(max(allowed), abs=1e-12)
            assert gained == pytest.approx(max(allowed) - total(now["head"], now["value"]), abs=1e-12)

    def test_wrong_ones_are_refused(self) -> None:
        a, b, spec = mlps(5)
        with pytest.raises(ValueError, match="freeze names group 'nobody', which the spec lacks; it has"):
            lmc.weight_matching(a, b, spec, freeze=["nobody"])
        for wrong in ("1", 3):
            with pytest.raises(TypeError, match="freeze must be names of groups"):
                lmc.weight_matching(a, b, spec, freeze=wrong)  # type: ignore[arg-type]


class TestThreads:
    @pytest.mark.parametrize("init", ["anchored", "identity", "random"])
    def test_one_and_two_find_the_same(self, init: str, threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(descent, "SIDE_BY_SIDE_FROM", 0)
        a, b, spec = mlps(130, 70, 50, 40)
        found = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(lmc.weight_matching(a, b, spec, init=init))
        for other in found[1:]:
            assert other.permutations == found[0].permutations
            assert [step.moved for step in other.history] == [step.moved for step in found[0].history]

    def test_what_a_worker_raises_is_raised(self, threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(descent, "SIDE_BY_SIDE_FROM", 0)
        torch.set_num_threads(2)

        def broken(*_: object) -> None:
            raise RuntimeError("broken")

        monkeypatch.setattr(descent, "best_choices", broken)
        monkeypatch.setattr(descent, "small_descent", lambda *_: None)
        a, b, spec = mlps(30, 20, 10)
        with pytest.raises(RuntimeError, match="broken"):
            lmc.weight_matching(a, b, spec, init="identity")


def test_the_history_leads_to_the_objective() -> None:
    a, b, spec = mlps(60, 50, 40)
    for init in ("identity", "anchored", "random"):
        match = lmc.weight_matching(a, b, spec, init=init)
        assert match.history[-1].objective == pytest.approx(match.objective, rel=1e-12)
        objectives = [step.objective for step in match.history]
        assert objectives == sorted(objectives)
        if init == "identity":
            start = sum(float((a[name].double() * b[name].double()).sum()) for name in a)
            assert start < objectives[0]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_solves_that_go_on_are_given_candidates_of_a_gpus_gains(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU by saying that it is none: the same optimum, and candidates from a group's second solve on."""
    a, b, spec = mlps(530, 520)
    expected = lmc.weight_matching(a, b, spec, init="identity", max_sweeps=4)
    given: list[bool] = []
    solve = descent.AssignmentSolver.solve

    def watched(solver: descent.AssignmentSolver, cost: np.ndarray, **options: Any) -> np.ndarray:
        if len(cost) > 512:
            given.append(options["candidates"] is not None)
        return solve(solver, cost, **options)

    monkeypatch.setattr(descent.AssignmentSolver, "solve", watched)
    again = lmc.weight_matching(a, b, spec, init="identity", max_sweeps=4)
    assert again.objective == expected.objective and len(given) >= 4 and not any(given)
    given.clear()
    monkeypatch.setattr(descent, "_searches", lambda gain: True)
    match = lmc.weight_matching(a, b, spec, init="identity", max_sweeps=4, device=device)
    assert match.objective == pytest.approx(expected.objective, rel=1e-6)
    assert given == [False] * 2 + [True] * (len(given) - 2) and len(given) >= 4

"""Matching of groups that lie inside others that do not own them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

import lmc_fast as lmc
from benchmarks import models
from benchmarks.planted import with_noise
from lmc_fast import Group, PermutationSpec, Segment
from lmc_fast.matching.engine import alternating, leading
from lmc_fast.matching.engine.descent import CoordinateDescent
from lmc_fast.matching.engine.leading import LeadingGains
from lmc_fast.matching.engine.measures import objective_of
from lmc_fast.matching.engine.merge_many import ManyDescent
from lmc_fast.matching.engine.nested import best_choices, units_at_places, value_of
from lmc_fast.matching.sinkhorn import sinkhorn_matching
from lmc_fast.ops.permuted_dot import overlap
from lmc_fast.symmetry.mixing import mixed
from tests.symmetry.test_inside import random_spec, tensors_for

GQA, Grouped, Shared = models.GroupedQueryAttention, models.FreeGroupedNet, models.SharedInputs
KINDS = {
    "grouped-query": (models.GroupedQueryBlock, models.GroupedQueryBlock.spec, (6, 4, 5)),
    "grouped-query-rotary": (
        lambda: models.GroupedQueryBlock(rotary=True),
        lambda: models.GroupedQueryBlock.spec(rotary=True),
        (6, 4, 5),
    ),
    "grouped-conv": (Grouped, Grouped.spec, (6, 2, 5, 5)),
    "shared-inputs": (Shared, Shared.spec, (64, 4)),
}
# One order of both inside each of two owners; the joint gain is over all units of (head, d, q).
JOINT = ("head", "d", "q")


def head_spec(heads: int, q: int, d: int) -> PermutationSpec:
    return PermutationSpec.from_axes(
        {"q": ("q",), "d": ("d",), "o": (Segment("q", inner=(Segment("d"),)),)},
        [Group("head", heads), Group("q", q, owner="head"), Group("d", d, owner="head")],
        model={"q": torch.zeros(heads * q), "d": torch.zeros(heads * d), "o": torch.zeros(heads * q * d)},
    )


def head_gains(rng: np.random.Generator, heads: int, q: int, d: int, own: float) -> dict[object, np.ndarray]:
    return {
        "head": own * rng.standard_normal((heads, heads)),
        "q": own * rng.standard_normal((heads * q, heads * q)),
        "d": own * rng.standard_normal((heads * d, heads * d)),
        JOINT: rng.standard_normal((heads * d * q, heads * d * q)),
    }


class Pairs:
    """What the units of two owners gain, by hand: of one pair of owners, of given orders."""

    def __init__(self, gains: dict[object, np.ndarray], q: int, d: int) -> None:
        self.gains, self.q, self.d = gains, q, d
        self.orders_q = [np.array(p) for p in itertools.permutations(range(q))]
        self.orders_d = [np.array(p) for p in itertools.permutations(range(d))]

    def alone(self, name: str, i: int, j: int, order: np.ndarray) -> float:
        n = len(order)
        return float(self.gains[name][i * n + np.arange(n), j * n + order].sum())

    def of_all(self, i: int, j: int) -> np.ndarray:
        """[orders of q, orders of d]: what both gain, for every order of either."""
        d, q = np.stack(self.orders_d), np.stack(self.orders_q)
        place = (i * self.d + np.arange(self.d)[:, None]) * self.q + np.arange(self.q)
        unit = (j * self.d + d[None, :, :, None]) * self.q + q[:, None, None, :]  # [orders, orders, d, q]
        own = [np.array([self.alone(name, i, j, order) for order in of]) for name, of in (("q", q), ("d", d))]
        return own[0][:, None] + own[1] + self.gains[JOINT][place, unit].sum((2, 3))

    def both(self, i: int, j: int, q: np.ndarray, d: np.ndarray) -> float:
        place = (i * self.d + np.arange(self.d)[:, None]) * self.q + np.arange(self.q)
        unit = (j * self.d + d[:, None]) * self.q + q
        return self.alone("q", i, j, q) + self.alone("d", i, j, d) + float(self.gains[JOINT][place, unit].sum())

    def best(self, i: int, j: int) -> float:
        return float(self.of_all(i, j).max())

    def one_after_another(self, i: int, j: int) -> float:
        """First one by its own gains alone, then the other by all."""
        of_all = self.of_all(i, j)
        q, d = (
            int(np.argmax([self.alone(name, i, j, order) for order in of]))
            for name, of in (("q", self.orders_q), ("d", self.orders_d))
        )
        return float(max(of_all[q].max(), of_all[:, d].max()))


class TestChoices:
    @pytest.mark.parametrize("own", [0.0, 1.0], ids=["together-alone", "all"])
    def test_small_ones_are_as_good_as_all_permutations(self, own: float, draws: Callable[[int, int], range]) -> None:
        spec = head_spec(2, 2, 3)
        for seed in draws(8, 20):
            gains = head_gains(np.random.default_rng(seed), 2, 2, 3, own)
            now = lmc.Permutations.random(spec, seed).choices
            choices, gained = best_choices(spec, "head", gains, now)  # type: ignore[arg-type]
            pairs = Pairs(gains, 2, 3)
            wanted = max(
                sum(pairs.best(i, head[i]) + gains["head"][i, head[i]] for i in range(2))
                for head in itertools.permutations(range(2))
            )
            found = value_of(spec, "head", gains, choices)  # type: ignore[arg-type]
            by_hand = sum(
                pairs.both(i, j, choices["q"][i], choices["d"][i]) + gains["head"][i, j]
                for i, j in enumerate(choices["head"])
            )
            assert found == pytest.approx(by_hand, abs=1e-12)
            assert found == pytest.approx(wanted, abs=1e-12)
            assert gained == pytest.approx(found - value_of(spec, "head", gains, now), abs=1e-12)  # type: ignore[arg-type]

    @pytest.mark.parametrize("own", [0.3, 1.0, 3.0])
    def test_larger_ones_are_no_worse_than_one_after_another(self, own: float) -> None:
        spec = head_spec(3, 3, 4)
        optimal = 0
        for seed in range(10):
            gains = head_gains(np.random.default_rng(seed), 3, 3, 4, own)
            now = lmc.Permutations.random(spec, seed).choices
            choices, gained = best_choices(spec, "head", gains, now)  # type: ignore[arg-type]
            pairs = Pairs(gains, 3, 4)

            def total(of_pair: object, pairs: Pairs = pairs, gains: dict[object, np.ndarray] = gains) -> float:
                return max(
                    sum(of_pair(i, j) + gains["head"][i, j] for i, j in enumerate(head))  # type: ignore[operator]
                    for head in itertools.permutations(range(3))
                )

            found = value_of(spec, "head", gains, choices)  # type: ignore[arg-type]
            assert total(pairs.one_after_another) - 1e-9 <= found <= total(pairs.best) + 1e-9
            assert gained >= -1e-9
            optimal += found >= total(pairs.best) - 1e-9
        assert optimal >= 6

    def test_by_their_own_gains_both_orders_are_tried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is promised needs no luck with the other starts."""
        every = alternating._Alternation.starts
        monkeypatch.setattr(alternating._Alternation, "starts", lambda work: itertools.islice(every(work), 3))
        spec = head_spec(1, 4, 5)
        for seed in range(40):
            gains = head_gains(np.random.default_rng(seed), 1, 4, 5, 1.0)
            choices, _ = best_choices(spec, "head", gains, lmc.Permutations.identity(spec).choices)  # type: ignore[arg-type]
            found = value_of(spec, "head", gains, choices)  # type: ignore[arg-type]
            assert found >= Pairs(gains, 4, 5).one_after_another(0, 0) + gains["head"][0, 0] - 1e-9

    def test_from_where_they_are_they_never_lose(self) -> None:
        """The choices so far are one of the starts, even where they are better than what the gains point to."""
        spec = head_spec(1, 5, 8)
        for seed in range(5):
            gains = head_gains(np.random.default_rng(seed), 1, 5, 8, 0.0)
            joint = gains[JOINT].reshape(8, 5, 8, 5)
            reached: list[tuple[float, np.ndarray, np.ndarray]] = []
            for q in itertools.permutations(range(5)):
                left = joint[:, range(5), :, q].sum(axis=0)  # [d's places, d's units]
                d = linear_sum_assignment(left, maximize=True)[1]
                reached.append((float(left[range(8), d].sum()), np.array(q), d))
            value, q_order, d_order = max(reached, key=lambda found: found[0])
            best = lmc.Permutations(spec, {"q": q_order[None], "d": d_order[None]})
            choices, gained = best_choices(spec, "head", gains, best.choices)  # type: ignore[arg-type]
            assert gained == 0 and lmc.Permutations(spec, choices) == best
            assert value_of(spec, "head", gains, choices) == pytest.approx(value)  # type: ignore[arg-type]

    @pytest.mark.parametrize("frozen", [("q",), ("d",), ("head",), ("q", "d"), ("head", "q")], ids="-".join)
    def test_frozen_ones_keep_their_order(self, frozen: tuple[str, ...]) -> None:
        spec = head_spec(2, 2, 3)
        for seed in range(10):
            gains = head_gains(np.random.default_rng(seed), 2, 2, 3, 1.0)
            now = lmc.Permutations.random(spec, seed).choices
            choices, _ = best_choices(spec, "head", gains, now, frozen=frozen)  # type: ignore[arg-type]
            pairs = Pairs(gains, 2, 3)
            # For every head of b the orders that it has now.
            order = {j: {"q": now["q"][i], "d": now["d"][i]} for i, j in enumerate(now["head"].tolist())}

            def best(i: int, j: int, pairs: Pairs = pairs, order: dict = order) -> float:  # type: ignore[type-arg]
                return max(
                    pairs.both(i, j, q, d)
                    for q in ([order[j]["q"]] if "q" in frozen else pairs.orders_q)
                    for d in ([order[j]["d"]] if "d" in frozen else pairs.orders_d)
                )

            heads = [now["head"].tolist()] if "head" in frozen else itertools.permutations(range(2))
            wanted = max(sum(best(i, j) + gains["head"][i, j] for i, j in enumerate(head)) for head in heads)
            found = value_of(spec, "head", gains, choices)  # type: ignore[arg-type]
            assert found == pytest.approx(wanted, abs=1e-12)
            for i, j in enumerate(choices["head"].tolist()):
                for name in set(frozen) & {"q", "d"}:
                    assert choices[name][i].tolist() == order[j][name].tolist()
            assert "head" not in frozen or choices["head"].tolist() == now["head"].tolist()

    @pytest.mark.parametrize("seed", range(30))
    def test_planted_ones_of_any_nesting_are_found(self, seed: int) -> None:
        """Gains of weights and of a permuted copy of them, over whatever axes a random spec has."""
        spec = random_spec(np.random.default_rng(seed))
        shapes = tensors_for(spec)
        spec = spec.bind(shapes)
        generator = torch.Generator().manual_seed(seed)
        names = [name for name in shapes if name.startswith("w")]
        a = {name: torch.randn(shapes[name].shape, dtype=torch.float64, generator=generator) for name in shapes}
        truth = lmc.Permutations.random(spec, seed)
        match = lmc.weight_matching(a, truth.inverse().apply(a), spec)
        objective = objective_of(a, a, dict.fromkeys(a, 1.0), lmc.Permutations.identity(spec))
        assert names and match.objective == pytest.approx(objective, rel=1e-12)


def states_of(kind: str, seeds: tuple[int, ...] = (1, 2)) -> tuple[list[dict[str, Tensor]], PermutationSpec]:
    build, spec, _ = KINDS[kind]
    trained = [models.randomise(build(), seed).double() for seed in seeds]
    states = [{name: p.detach() for name, p in model.named_parameters()} for model in trained]
    return states, spec().bind(states[0])  # type: ignore[operator]


def descent_between(a: dict[str, Tensor], b: dict[str, Tensor], spec: PermutationSpec) -> CoordinateDescent:
    return CoordinateDescent(spec, a, b, dict.fromkeys(a, 1.0), lmc.Permutations.random(spec, 3), (), None)


def gained_by_gains(descent: CoordinateDescent, root: str, new: dict[str, np.ndarray], gains: object) -> float:
    old = {name: descent.choices[name] for name in descent.trees[root]}
    return value_of(descent.spec, root, gains, new) - value_of(descent.spec, root, gains, old)  # type: ignore[arg-type]


class TestGains:
    def follow(self, descent: CoordinateDescent) -> None:
        """Groups move at random: what gains say of a move is what the objective does, corrected or anew."""
        rng = np.random.default_rng(0)
        for step in range(12):
            root = str(rng.choice(descent.spec.roots))
            drawn = lmc.Permutations.random(descent.spec, step).choices
            if step % 3 == 0:
                # Two units alone, so that gains are corrected.
                drawn = dict(descent.choices)
                drawn[root] = drawn[root].copy()
                drawn[root][:2] = drawn[root][:2][::-1]
            descent.choose(root, {name: drawn[name] for name in descent.trees[root]})
            for other in descent.spec.roots:
                if other in descent.neighbours[other]:
                    continue
                gains = descent.gains_of(descent.units[other])
                new = lmc.Permutations.random(descent.spec, 50 + step).choices
                new = {name: new[name] for name in descent.trees[other]}
                old = {name: descent.choices[name] for name in descent.trees[other]}
                wanted, before = gained_by_gains(descent, other, new, gains), descent.objective()
                descent.choose(other, new)
                assert descent.objective() - before == pytest.approx(wanted, abs=1e-9)
                descent.choose(other, old)
        assert descent.gains.off(descent.norms) == set()

    @pytest.mark.parametrize("kind", KINDS)
    def test_they_are_what_the_objective_does(self, kind: str) -> None:
        (a, b), spec = states_of(kind)
        self.follow(descent_between(a, b, spec))

    @pytest.mark.parametrize("seed", range(25))
    def test_of_any_nesting(self, seed: int) -> None:
        spec = random_spec(np.random.default_rng(seed))
        shapes = tensors_for(spec)
        generator = torch.Generator().manual_seed(seed)
        a, b = (
            {name: torch.randn(t.shape, dtype=torch.float64, generator=generator) for name, t in shapes.items()}
            for _ in range(2)
        )
        self.follow(descent_between(a, b, spec.bind(shapes)))

    def test_nothing_is_settled_by_what_lies_beside_it_unsettled(self) -> None:
        (a, b), spec = states_of("shared-inputs")
        descent = descent_between(a, b, spec)
        (first, known), *_ = descent.outward()
        assert any(leaf.parameter == "mix.weight" for leaf in descent.leaves[first])
        assert known[first] and all(leaf.parameter != "mix.weight" for leaf in known[first])

    @pytest.mark.parametrize("kind", KINDS)
    def test_what_nothing_else_changes_is_not_stale(self, kind: str) -> None:
        """Groups whose gains a move changes are neighbours, those inside each other too."""
        (a, b), spec = states_of(kind)
        descent = descent_between(a, b, spec)
        for root in spec.roots:
            before = {n: None if g is None else g.copy() for n, g in descent.gains_of(descent.leaves).items()}
            drawn = lmc.Permutations.random(spec, 9).choices
            descent.choose(root, {name: drawn[name] for name in descent.trees[root]})
            for units, gain in descent.gains_of(descent.leaves).items():
                if gain is not None and not np.allclose(gain, before[units]):
                    assert descent.leaves[units][0].roots[0] in descent.neighbours[root]

    def test_leading_parts_of_low_rank_are_the_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(leading, "RANK", 3)
        monkeypatch.setattr(leading, "LONGER", 1)
        spec = PermutationSpec.from_axes(
            {
                "out": (Segment("q", inner=(Segment("d"),)), "stream"),
                "in": ("stream", Segment("q", inner=(Segment("d"),))),
                "mix": (Segment("block", inner=(Segment("hidden"),)), "stream"),
                "stream": ("stream", None),
            },
            [Group("head", 3), Group("q", 2, owner="head"), Group("d", 4, owner="head"), Group("block", 4)],
            model={
                n: torch.zeros(s)
                for n, s in {"out": (24, 20), "in": (20, 24), "mix": (28, 20), "stream": (20, 9)}.items()
            },
        )
        generator = torch.Generator().manual_seed(0)

        def low() -> dict[str, Tensor]:
            shapes = {"out": (24, 20), "in": (20, 24), "mix": (28, 20), "stream": (20, 9)}
            drawn = {
                name: [torch.randn(n, 3, dtype=torch.float64, generator=generator) for n in shape]
                for name, shape in shapes.items()
            }
            return {name: left @ right.T for name, (left, right) in drawn.items()}

        descent = descent_between(low(), low(), spec)
        gains = LeadingGains(descent.a, descent.b, descent.leaves, descent.index)
        assert {"out", "in", "mix"} <= set(gains._factors)
        for units in descent.leaves:
            whole, part = descent.gains.gain(units), gains.gain(units)
            assert (whole is None) == (part is None)
            if whole is not None and part is not None:
                torch.testing.assert_close(part, whole, rtol=1e-6, atol=1e-6)
        assert any(isinstance(units, tuple) for units in descent.leaves)

    def test_between_many_models(self) -> None:
        for kind in KINDS:
            states, spec = states_of(kind, (1, 2, 3))
            overlaps = {
                (i, j): {name: overlap(states[i][name], states[j][name]) for name in states[0]}
                for i, j in combinations(range(3), 2)
            }
            descent = ManyDescent(spec, states, list(states[0]), overlaps, torch.device("cpu"))
            rng = np.random.default_rng(0)
            for step in range(6):
                m, root = int(rng.integers(3)), str(rng.choice(spec.roots))
                drawn = lmc.Permutations.random(spec, step).choices
                descent.place(m, root, {name: drawn[name] for name in descent.trees[root]})
                for other in spec.roots:
                    before, gains = descent.objective(), descent.gains(m, other)
                    old = {name: descent.choices[m][name].copy() for name in descent.trees[other]}
                    new = lmc.Permutations.random(spec, 90 + step).choices
                    new = {name: new[name] for name in descent.trees[other]}
                    wanted = value_of(spec, other, gains, new) - value_of(spec, other, gains, old)
                    descent.place(m, other, new)
                    assert descent.objective() - before == pytest.approx(wanted, abs=1e-8)


def test_units_at_places_are_those_of_the_axis() -> None:
    spec = head_spec(3, 2, 4)
    chosen = lmc.Permutations.random(spec, 5)
    by_axis = chosen.index("o", 0).reshape(3, 2, 4)  # head, q, d
    head, q, d = by_axis // 8, by_axis // 4 % 2, by_axis % 4
    found = units_at_places(spec, JOINT, chosen.choices)
    assert found.reshape(3, 4, 2).transpose(0, 2, 1).tolist() == ((head * 4 + d) * 2 + q).tolist()


@pytest.mark.parametrize("noise", [0.0, 0.1], ids=["exact", "noisy"])
@pytest.mark.parametrize("kind", KINDS)
class TestPlanted:
    def plant(self, kind: str, noise: float, seed: int) -> tuple[nn.Module, dict[str, Tensor], lmc.Permutations]:
        build, spec, _ = KINDS[kind]
        model = models.randomise(build(), seed)  # type: ignore[operator]
        truth = lmc.Permutations.random(spec().bind(model), seed)  # type: ignore[operator]
        return model, with_noise(truth.inverse().apply(model.state_dict()), noise, seed), truth

    @pytest.mark.parametrize(
        "options", [{}, {"search": "coordinate_descent", "init": "identity"}], ids=["", "identity"]
    )
    @pytest.mark.parametrize("seeds", [range(3), pytest.param(range(3, 20), marks=pytest.mark.slow)], ids=["", "more"])
    def test_weight_matching_finds_them(self, kind: str, noise: float, options: dict[str, str], seeds: range) -> None:
        for seed in seeds:
            model, other, truth = self.plant(kind, noise, seed)
            match = lmc.weight_matching(model, other, truth.spec, **options)  # type: ignore[arg-type]
            assert match.permutations == truth and match.converged
            measured = objective_of(model.state_dict(), other, dict.fromkeys(other, 1.0), truth)
            assert match.objective == pytest.approx(measured, rel=1e-12)
            reached = [sweep.objective for sweep in match.history]
            assert all(later >= earlier - 1e-9 * abs(later) for earlier, later in itertools.pairwise(reached))

    @pytest.mark.parametrize("method", ["merge_many", "pairwise"])
    def test_many_models(self, kind: str, noise: float, method: str) -> None:
        model, second, truth = self.plant(kind, noise, 1)
        again = lmc.Permutations.random(truth.spec, 77)
        third = with_noise(again.inverse().apply(model.state_dict()), noise, 2)
        many = lmc.match_many([model, second, third], truth.spec, method=method)
        assert many.permutations[1] == truth and many.permutations[2] == again

    @pytest.mark.parametrize("seeds", [range(1), pytest.param(range(1, 5), marks=pytest.mark.slow)], ids=["", "more"])
    def test_activation_matching(self, kind: str, noise: float, seeds: range) -> None:
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            model, second, truth = self.plant(kind, noise, seed)
            other = KINDS[kind][0]().eval()  # type: ignore[operator]
            other.load_state_dict(second)
            batches = [torch.randn(KINDS[kind][2], generator=generator) for _ in range(8)]
            match = lmc.activation_matching(model, other, batches, truth.spec, unseen="keep")
            # No layer reads queries; and sums of two inputs are soon as like another as noise allows.
            untold = {"query", "query_key", "input"} if noise or "query" in kind else set()
            assert all(torch.equal(match.permutations[name], truth[name]) for name in truth if name not in untold)


ROOTS_ALONE = {
    "two": ({"w": (Segment("p", inner=(Segment("q"),)), None)}, [Group("p", 8), Group("q", 5)], {"w": (40, 6)}),
    "behind-another": (
        {"w": (Segment("p", inner=(Segment("q"),)), "s"), "u": ("s", None)},
        [Group("p", 5), Group("q", 7)],
        {"w": (35, 9), "u": (9, 2)},
    ),
    "three": (
        {"w": (Segment("p", inner=(Segment("q", inner=(Segment("r"),)),)), None)},
        [Group("p", 3), Group("q", 4), Group("r", 2)],
        {"w": (24, 9)},
    ),
    "one-owns": (
        {"w": (Segment("p", inner=(Segment("q", inner=(Segment("x"),)),)), None)},
        [Group("p", 3), Group("q", 4), Group("x", 2, owner="p")],
        {"w": (24, 9)},
    ),
}


@pytest.mark.parametrize("noise", [0.0, 0.1], ids=["exact", "noisy"])
@pytest.mark.parametrize("kind", ROOTS_ALONE)
def test_roots_that_show_up_inside_each_other_alone_are_found(
    kind: str, noise: float, draws: Callable[[int, int], range]
) -> None:
    """None of them can be told before the others are."""
    axes, groups, shapes = ROOTS_ALONE[kind]
    for seed in draws(6, 20):
        generator = torch.Generator().manual_seed(seed)
        a = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        spec = PermutationSpec.from_axes(axes, groups, model=a)
        truth = lmc.Permutations.random(spec, seed)
        match = lmc.weight_matching(a, with_noise(truth.inverse().apply(a), noise, seed), spec)
        assert match.permutations == truth


def test_every_step_gains_between_unrelated_models() -> None:
    for kind in KINDS:
        states, spec = states_of(kind)
        for init in ("anchored", "identity", "random"):
            match = lmc.weight_matching(*states, spec, init=init)
            reached = [sweep.objective for sweep in match.history]
            assert all(later >= earlier for earlier, later in itertools.pairwise(reached))
            measured = objective_of(*states, dict.fromkeys(states[0], 1.0), match.permutations)
            assert match.objective == pytest.approx(measured, rel=1e-12)
            again = lmc.weight_matching(*states, spec, init=match.permutations, search="coordinate_descent")
            assert again.permutations == match.permutations
            assert lmc.weight_matching(*states, spec, init=init).permutations == match.permutations


def test_soft_permutations_at_permutations_are_these() -> None:
    for kind in KINDS:
        (a, _), spec = states_of(kind)
        chosen = lmc.Permutations.random(spec, 4)
        matrices = {}
        for name in spec.groups:
            order = chosen[name].reshape(-1, spec.sizes[name])
            owner = spec.groups[name].owner
            if owner is not None:
                # By the owner's unit, where the choice is by its place.
                order = torch.empty_like(order).index_copy_(0, chosen.units(owner), order)
            matrices[name] = nn.functional.one_hot(order, spec.sizes[name]).double()
        for name, tensor in a.items():
            torch.testing.assert_close(mixed(spec, name, tensor, matrices), chosen.apply_to(name, tensor))


@pytest.mark.parametrize("kind", KINDS)
def test_learned_permutations_measure_what_they_are(kind: str) -> None:
    build, spec_of, shape = KINDS[kind]
    a, b = (models.randomise(build(), seed) for seed in (1, 2))  # type: ignore[operator]
    spec = spec_of().bind(a)  # type: ignore[operator]
    weights = dict.fromkeys(dict(a.named_parameters()), 1.0)
    start = objective_of(a.state_dict(), b.state_dict(), weights, lmc.Permutations.identity(spec))
    soft = sinkhorn_matching(a, b, spec, steps=30)
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    batches = [(inputs, a(inputs).detach())]
    learned = lmc.straight_through_matching(a, b, batches, spec, loss_fn=nn.functional.mse_loss, epochs=2)
    for match in (soft, learned):
        assert match.objective > start
        measured = objective_of(a.state_dict(), b.state_dict(), weights, match.permutations)
        assert match.objective == pytest.approx(measured, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "inner", "outer"),
    [
        ("grouped-query", "query_key", "query"),
        ("shared-inputs", "hidden", "block"),
        ("grouped-conv", "input", "output"),
    ],
    ids=["grouped-query", "shared-inputs", "grouped-conv"],
)
def test_relaxed_searches_refuse_them(kind: str, inner: str, outer: str) -> None:
    states, spec = states_of(kind)
    message = rf"takes groups inside their owners alone, and on '.*' group '({inner})' lies inside '{outer}'"
    with pytest.raises(ValueError, match=f"search='frank_wolfe' {message}"):
        lmc.weight_matching(*states, spec, search="frank_wolfe")
    with pytest.raises(ValueError, match=f"method='c2m3' {message}"):
        lmc.match_many(states, spec, method="c2m3")

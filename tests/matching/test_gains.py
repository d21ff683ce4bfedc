"""Gains that are corrected by what moved equal gains summed anew."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import architectures
from lmc_fast.matching.engine import descent, gains
from lmc_fast.matching.engine import terms as kept_terms
from lmc_fast.matching.engine.gains import GainCache
from lmc_fast.ops.gain_matrix import Term, gain_matrices, gain_matrix
from lmc_fast.symmetry.views import leaves

KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], lmc.PermutationSpec]]] = {
    "mlp": (lambda: models.small_mlp((33, 17, 20)), architectures.mlp),
    "conv-flatten-linear": (models.ConvNet, architectures.vgg),
    "resnet": (models.small_resnet, architectures.resnet),
    "attention": (models.Attention, lambda m: models.Attention.spec()),
    "experts": (models.Experts, lambda m: models.Experts.spec()),
    "concat": (models.Concat, lambda m: models.Concat.spec()),
}


class Moving:
    """A cache, and permutations that are moved a little between its gains."""

    def __init__(
        self,
        build: Callable[[], nn.Module],
        spec: Callable[[nn.Module], lmc.PermutationSpec],
        dtype: torch.dtype = torch.float64,
    ) -> None:
        a, b = (models.randomise(build(), seed=seed).to(dtype) for seed in (1, 2))
        self.spec = spec(a).bind(a)
        self.a, self.b = (
            {name: self.spec.view(name, tensor.detach()) for name, tensor in model.named_parameters()}
            for model in (a, b)
        )
        self.leaves: dict[str, list] = {name: [] for name in self.spec.groups}  # type: ignore[type-arg]
        for root in self.spec.roots:
            for leaf in leaves(self.spec, root):
                if leaf.parameter in self.a:
                    self.leaves[leaf.group].append(leaf)
        self.norms = {
            name: (float(tensor.double().square().sum()), float(self.b[name].double().square().sum()))
            for name, tensor in self.a.items()
        }
        self.permutations = lmc.Permutations.random(self.spec, 3)
        self.indices: dict[tuple[str, int], Tensor] = {}
        self.cache = self.fresh()

    def fresh(self) -> GainCache:
        return GainCache(self.a, self.b, self.leaves, self.index)

    def index(self, parameter: str, axis: int) -> Tensor | None:
        if self.spec.axes[parameter][axis].is_fixed:
            return None
        index = self.permutations.index(parameter, axis)
        # As the search does: an index is the same tensor for as long as it says the same.
        if not torch.equal(self.indices.get((parameter, axis), torch.empty(0)), index):
            self.indices[parameter, axis] = index
        return self.indices[parameter, axis]

    def swap(self, rng: np.random.Generator) -> None:
        """Exchange two units of some group."""
        choices = self.permutations.choices
        name = list(choices)[rng.integers(len(choices))]
        rows = choices[name].reshape(-1, choices[name].shape[-1])
        row = rows[rng.integers(len(rows))]
        i, j = rng.integers(len(row), size=2)
        row[i], row[j] = row[j], row[i]
        self.permutations = lmc.Permutations(self.spec, choices)


@pytest.mark.parametrize("kind", KINDS)
def test_corrected_equals_anew(kind: str) -> None:
    moving, rng = Moving(*KINDS[kind]), np.random.default_rng(0)
    corrected = 0
    for _ in range(60):
        moving.swap(rng)
        fresh = moving.fresh()
        for group in moving.spec.groups:
            gain, anew = moving.cache.gain(group), fresh.gain(group)
            if anew is None:
                assert gain is None
                continue
            assert gain is not None
            torch.testing.assert_close(gain, anew, rtol=1e-10, atol=1e-10)
        corrected += len({name for name, kept in moving.cache._kept.items() if kept.corrected > 0})
    assert corrected > 0 or kind in ("experts", "concat", "attention")


def test_after_many_corrections_the_sum_is_taken_anew() -> None:
    moving, rng = Moving(*KINDS["mlp"]), np.random.default_rng(0)
    seen = []
    for _ in range(200):
        moving.swap(rng)
        moving.cache.gain("3")
        seen.append(moving.cache._kept["3"].corrected)
    assert 3.0 < max(seen) <= 4.0 and sum(b < a for a, b in itertools.pairwise(seen)) >= 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gain_that_is_off_is_found(kind: str, dtype: torch.dtype) -> None:
    moving, rng = Moving(*KINDS[kind], dtype), np.random.default_rng(0)
    for _ in range(20):
        moving.swap(rng)
        for group in moving.spec.groups:
            moving.cache.gain(group)
    assert moving.cache.off(moving.norms) == set()
    for group, kept in list(moving.cache._kept.items()):
        if kept.corrected > 0:
            kept.gain[0, -1] += 1e-3 * kept.gain.norm()
            assert moving.cache.off(moving.norms) == {group}
            moving.cache.forget(group)
            moving.cache.gain(group)
    assert moving.cache.off(moving.norms) == set()


def test_gains_without_room_are_summed_anew_and_idle_ones_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gains, "ENTRIES_KEPT", 0)
    monkeypatch.setattr(gains, "MATRICES_KEPT", 1)
    moving, rng = Moving(*KINDS["resnet"]), np.random.default_rng(0)
    names = list(moving.spec.groups)
    largest = max(moving.spec.units(name) for name in names)
    for _ in range(5):
        moving.swap(rng)
        fresh = moving.fresh()
        for name in names:
            torch.testing.assert_close(moving.cache.gain(name), fresh.gain(name), rtol=1e-10, atol=1e-10)
            assert sum(kept.gain.numel() for kept in moving.cache._kept.values()) <= largest**2
    last = max(names, key=moving.spec.units)
    for _ in range(2 * len(names) + 2):
        moving.cache.gain(last)
    assert last in moving.cache._kept


def test_a_part_of_a_gain_is_completed() -> None:
    moving = Moving(*KINDS["mlp"])
    for group, leaves_of in moving.leaves.items():
        known = leaves_of[:1]
        part = moving.cache.partial_gain(group, known)
        torch.testing.assert_close(
            part, gain_matrix([use.term(moving.cache._indices(use)) for use in moving.cache._uses[group][:1]])
        )
        torch.testing.assert_close(moving.cache.gain(group), moving.fresh().gain(group), rtol=1e-10, atol=1e-10)
        assert moving.cache._kept[group].corrected == 0.0


def test_a_group_without_entries_can_be_visited_again() -> None:
    state = {"w": torch.zeros(3, 0)}
    spec = lmc.PermutationSpec.from_axes({"w": ("p", None)}, model=state)
    cache = GainCache(state, state, {"p": list(leaves(spec, "p"))}, lambda parameter, axis: None)
    for _ in range(2):
        gain = cache.gain("p")
        assert gain is not None and torch.equal(gain, torch.zeros(3, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_change_in_place_are_seen_once_all_is_forgotten(kind: str) -> None:
    moving = Moving(*KINDS[kind])
    for group in moving.spec.groups:
        moving.cache.gain(group)
    for tensor in moving.a.values():
        tensor.add_(1.0)
    moving.cache.forget_all()
    assert moving.cache.off(moving.norms) == set()
    for group in moving.spec.groups:
        expected = moving.fresh().gain(group)
        if expected is not None:
            torch.testing.assert_close(moving.cache.gain(group), expected)


class Counted:
    """`gain_matrices`, and the numbers of groups that it was called with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[int] = []
        monkeypatch.setattr(gains, "gain_matrices", self)

    def __call__(self, groups: Sequence[Sequence[Term]], bases: Sequence[Tensor]) -> list[Tensor]:
        self.calls.append(len(groups))
        return gain_matrices(groups, bases)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """CPU tensors are taken for a GPU's, whose gains are summed at once."""
    monkeypatch.setattr(kept_terms, "at_once", lambda tensor: True)
    monkeypatch.setattr(descent, "small_descent", lambda *_: None)
    return Counted(monkeypatch)


@pytest.mark.parametrize("kind", KINDS)
def test_gains_at_once_equal_those_one_by_one(kind: str, at_once: Counted) -> None:
    moving, rng = Moving(*KINDS[kind]), np.random.default_rng(0)
    owning = [name for name in moving.spec.groups if moving.leaves[name]]
    corrected = 0
    for turn in range(40):
        moving.swap(rng)
        fresh = moving.fresh()
        found = dict(moving.cache.gains(moving.spec.groups))
        assert found.keys() == moving.spec.groups.keys()
        for group, gain in found.items():
            anew = fresh.gain(group)
            assert (gain is None) == (anew is None) == (group not in owning)
            if gain is not None:
                torch.testing.assert_close(gain, anew, rtol=1e-10, atol=1e-10)
        assert at_once.calls == [len(owning)] * (turn + 1)
        corrected += len({name for name, kept in moving.cache._kept.items() if kept.corrected > 0})
    assert corrected > 0 or kind in ("experts", "concat", "attention")
    assert moving.cache.off(moving.norms) == set()


@pytest.mark.parametrize("kind", KINDS)
def test_on_a_cpu_several_gains_are_what_each_is_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    moving, rng = Moving(*KINDS[kind], torch.float32), np.random.default_rng(0)
    alone = moving.fresh()
    for _ in range(20):
        moving.swap(rng)
        for group, gain in moving.cache.gains(moving.spec.groups):
            other = alone.gain(group)
            assert gain is other is None or torch.equal(gain, other)
    assert counted.calls == []


def test_gains_at_once_keep_to_the_room(at_once: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gains, "ENTRIES_KEPT", 0)
    monkeypatch.setattr(gains, "MATRICES_KEPT", 2)
    moving, rng = Moving(*KINDS["resnet"]), np.random.default_rng(0)
    names = list(moving.spec.groups)
    room = 2 * max(moving.spec.units(name) for name in names) ** 2
    held = []
    for turn in range(12):
        moving.swap(rng)
        fresh = moving.fresh()
        for group, gain in moving.cache.gains(names if turn < 6 else names[-1:]):
            torch.testing.assert_close(gain, fresh.gain(group), rtol=1e-10, atol=1e-10)
        held.append(sum(kept.gain.numel() for kept in moving.cache._kept.values()))
        assert held[-1] <= room < sum(moving.spec.units(name) ** 2 for name in names)
    assert held[0] > 0 and names[-1] in moving.cache._kept


def test_gains_at_once_are_so_many_as_fit(at_once: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    moving = Moving(*KINDS["resnet"])
    uses = [moving.cache.uses(name) for name in moving.leaves]
    sizes = [use[0].count ** 2 + sum(2 * one.a.numel() for one in use) for use in uses if use]
    monkeypatch.setattr(gains, "TOGETHER", sizes[0] + sizes[1])
    for group, gain in moving.cache.gains(moving.spec.groups):
        torch.testing.assert_close(gain, moving.fresh().gain(group), rtol=1e-10, atol=1e-10)
    assert at_once.calls[0] == 2 and len(at_once.calls) > 1 and sum(at_once.calls) == len(sizes)


def test_gains_of_two_dtypes_are_not_summed_at_once(at_once: Counted) -> None:
    state = {"v": torch.randn(4, 3), "w": torch.randn(5, 3, dtype=torch.float64), "x": torch.randn(6, 3)}
    spec = lmc.PermutationSpec.from_axes({name: (name, None) for name in state}, model=state)
    uses = {name: list(leaves(spec, name)) for name in state}
    cache = GainCache(state, state, uses, lambda parameter, axis: None)
    found = dict(cache.gains(state))
    assert [found[name].dtype for name in state] == [torch.float32, torch.float64, torch.float32]
    assert at_once.calls == [1, 1, 1]


@pytest.mark.parametrize("several", [False, True], ids=["one", "several"])
def test_a_gain_whose_correction_failed_is_summed_anew(
    several: bool, at_once: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a GPU runs out of memory: some of the terms are added, and nobody knows which."""

    def half_done(groups: Sequence[Sequence[Term]], bases: Sequence[Tensor]) -> list[Tensor]:
        gain_matrices(groups[:1], bases[:1])
        raise RuntimeError("out of memory")

    moving, rng = Moving(*KINDS["mlp"]), np.random.default_rng(0)
    names = list(moving.spec.groups)[: 3 if several else 1]
    for _ in range(4):
        moving.swap(rng)
        dict(moving.cache.gains(names))
    moving.swap(rng)
    with monkeypatch.context() as failing:
        failing.setattr(gains, "gain_matrices", half_done)
        with pytest.raises(RuntimeError, match="out of memory"):
            dict(moving.cache.gains(names))
    for group, gain in moving.cache.gains(names):
        torch.testing.assert_close(gain, moving.fresh().gain(group), rtol=1e-10, atol=1e-10)


def test_a_search_asks_for_gains_of_groups_apart_at_once(at_once: Counted) -> None:
    a, b = (models.randomise(models.small_resnet(), seed=seed) for seed in (1, 2))
    spec = architectures.resnet(a)
    expected = lmc.weight_matching(a, b, spec)
    assert max(at_once.calls) > 1
    at_once.calls.clear()
    lmc.weight_matching(a, b, spec, search="frank_wolfe")
    assert max(at_once.calls) == len(spec.groups)
    assert expected.converged

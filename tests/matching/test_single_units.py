"""Groups of one unit inside an owner: they depend on no choice, and make none depend on them."""

from __future__ import annotations

import numpy as np
import pytest

import lmc_fast as lmc
from lmc_fast import PermutationSpec
from lmc_fast.matching.engine import nested
from lmc_fast.matching.engine.nested import best_choices, value_of
from tests.matching.test_inside import JOINT, Pairs, head_gains, head_spec


def never(*_: object) -> None:
    raise AssertionError("solved in turns")


@pytest.mark.parametrize(("q", "d"), [(1, 4), (4, 1), (1, 1)], ids=["one query head", "one value", "one of both"])
def test_what_is_of_one_group_is_solved_at_once_and_exactly(q: int, d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nested, "alternated", never)
    spec = head_spec(3, q, d)
    for seed in range(10):
        gains = head_gains(np.random.default_rng(seed), 3, q, d, 1.0)
        now = lmc.Permutations.random(spec, seed).choices
        choices, gained = best_choices(spec, "head", gains, now)  # type: ignore[arg-type]
        pairs = Pairs(gains, q, d)
        wanted = max(
            sum(pairs.best(i, j) + gains["head"][i, j] for i, j in enumerate(head))
            for head in np.array([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
        )
        assert value_of(spec, "head", gains, choices) == pytest.approx(wanted, abs=1e-12)  # type: ignore[arg-type]
        assert gained == pytest.approx(wanted - value_of(spec, "head", gains, now), abs=1e-12)  # type: ignore[arg-type]
        assert {name: choice.shape for name, choice in choices.items()} == {"head": (3,), "q": (3, q), "d": (3, d)}


def test_an_owner_of_one_unit_is_still_around_what_it_owns() -> None:
    spec = head_spec(1, 3, 4)
    gains = head_gains(np.random.default_rng(0), 1, 3, 4, 1.0)
    choices, _ = best_choices(spec, "head", gains, lmc.Permutations.identity(spec).choices)  # type: ignore[arg-type]
    pairs = Pairs(gains, 3, 4)
    found = pairs.both(0, 0, choices["q"][0], choices["d"][0])
    assert pairs.one_after_another(0, 0) - 1e-12 <= found <= pairs.best(0, 0) + 1e-12


def test_a_root_of_one_unit_has_its_one_choice() -> None:
    spec = PermutationSpec.from_axes({"w": ("p", "r")}, [lmc.Group("p", 1), lmc.Group("r", 2)])
    gains = {"p": np.array([[2.5]])}
    choices, gained = best_choices(spec, "p", gains, {"p": np.zeros(1, dtype=np.int64)})
    assert choices["p"].tolist() == [0]
    assert gained == 0


def test_joint_gains_come_on_top_of_a_groups_own() -> None:
    spec = head_spec(2, 1, 3)
    gains = head_gains(np.random.default_rng(1), 2, 1, 3, 1.0)
    both = dict(gains)
    both["d"] = gains["d"] + gains[JOINT]
    del both[JOINT]
    now = lmc.Permutations.identity(spec).choices
    found, wanted = (best_choices(spec, "head", each, now) for each in (gains, both))  # type: ignore[arg-type]
    assert found[1] == pytest.approx(wanted[1])
    assert all(np.array_equal(found[0][name], wanted[0][name]) for name in wanted[0])

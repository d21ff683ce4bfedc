"""Families build what they say, the same every time; a new one is a few lines; real gains are captured in order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import cases
from benchmarks.cases import FAMILIES, Case, Setup, build, family
from benchmarks.gains import GainStore
from lmc_fast import linear_sum_assignment
from lmc_fast.assignment import AssignmentSolver

said: list[str] = []


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> GainStore:
    folder = tmp_path_factory.mktemp("gains")
    rng = np.random.default_rng(0)
    labels = np.arange(300, dtype=np.uint8) % 3
    images = rng.integers(0, 60, (300, 4, 4), dtype=np.uint8) + 60 * labels[:, None, None]
    np.savez(folder / "tiny.npz", images=images, labels=labels)
    return GainStore(folder / "tiny.npz", folder / "cache", said.append, steps=9)


@pytest.fixture
def no_new_families(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(cases, "FAMILIES", dict(FAMILIES))
    yield


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FAMILIES)
def test_families_build_the_same_problem_each_time(name: str, dtype: str, store: GainStore) -> None:
    for n in (1, 12) if not name.startswith("gains") else (12,):
        problem = build(Case(name, n, dtype), store)
        assert problem.cost.shape == (n, n)
        assert problem.cost.dtype == dtype
        assert problem.cost.flags.c_contiguous
        assert np.isfinite(problem.cost).all()
        again = build(Case(name, n, dtype), store)
        np.testing.assert_array_equal(problem.cost, again.cost)
        linear_sum_assignment(problem.cost, problem.maximize)


def test_a_seed_makes_another_problem(store: GainStore) -> None:
    first, second = (build(Case("uniform", 8, seed=seed), store).cost for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_families_have_their_marks(store: GainStore) -> None:
    dead = build(Case("dead-units", 200), store).cost
    assert 0.2 < (dead == 0).all(axis=0).mean() < 0.4
    assert 0.2 < (dead == 0).all(axis=1).mean() < 0.4
    ties = build(Case("ties", 200), store).cost
    assert set(np.unique(ties)) == set(range(101))
    assert np.unique(build(Case("constant", 5), store).cost).size == 1


@pytest.mark.usefixtures("no_new_families")
def test_a_new_family_is_a_few_lines(store: GainStore) -> None:
    @family("stairs", "row plus column")
    def stairs(n: int, setup: Setup) -> np.ndarray:
        return np.add.outer(np.arange(n), np.arange(n))

    assert build(Case("stairs", 3), store).cost.tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]

    @family("flat", "of a wrong shape")
    def flat(n: int, setup: Setup) -> np.ndarray:
        return np.zeros(n)

    with pytest.raises(ValueError, match=r"'flat' must give a cost of shape \(3, 3\), got \(3,\)"):
        build(Case("flat", 3), store)


def test_gains_are_captured_in_order_and_kept(store: GainStore, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = store.run(12)
    assert len(said) == 1
    # Three hidden layers have a solver each.
    assert len({label for label, _ in problems}) >= 3
    matrices = [np.load(path) for _, path in problems]
    assert all(matrix.shape == (12, 12) and matrix.dtype == np.float32 for matrix in matrices)
    np.testing.assert_array_equal(store.at(12, 0.0), matrices[0])
    np.testing.assert_array_equal(store.at(12, 1.0), matrices[-1])
    assert json.loads((problems[0][1].parent / "run.json").read_text())["converged"]
    monkeypatch.setattr(GainStore, "_capture", None)
    assert store.run(12) == problems
    assert AssignmentSolver.solve.__name__ == "solve"


def test_a_capture_that_fails_leaves_nothing(tmp_path: Path, store: GainStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(np, "save", fail)
    broken = GainStore(store.data, tmp_path / "cache", said.append, steps=3)
    with pytest.raises(OSError, match="disk full"):
        broken.run(5)
    assert list((tmp_path / "cache").iterdir()) == []

"""What the demo claims, on the models that it trains."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from lmc_fast.experiments.demo import DemoResult, run_demo, standard_cases
from lmc_fast.experiments.models import MLP


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    """Of weight matching, undrawn: other methods, and what a run draws, are looked at in `test_cli.py`.

    Of half the demo's width, which takes less time; merging is harder there.
    """
    case = replace(standard_cases()[0], build=partial(MLP, 64, (256,) * 3, 10))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_draw", "_draw_alignment"):
            patch.setattr(f"lmc_fast.experiments.demo.{name}", lambda *_: None)
        folder = tmp_path_factory.mktemp("demo") / "out"
        return run_demo(folder, cases=[case], lambdas=3, methods=["wm"])


def test_matching_takes_the_barrier_away_and_little_of_the_distance(result: DemoResult) -> None:
    assert len(result.pairs) == 2
    for pair in result.pairs:
        ends = pair.after.loss[0], pair.after.loss[-1]
        assert pair.before.midpoint_loss > 5 * max(ends)
        assert pair.after.midpoint_loss < max(ends) + 0.03
        assert 0.05 < pair.match.l2_reduction < 0.30
        assert pair.match.converged


def test_permuted_models_compute_the_same(result: DemoResult) -> None:
    assert all(pair.output_change < 1e-5 for pair in result.pairs)
    assert all(pair.match.permutations.moved > 600 for pair in result.pairs)


def test_the_mean_of_matched_models_works(result: DemoResult) -> None:
    (merged,) = result.merged
    assert merged.accuracy is not None and merged.accuracy_unpermuted is not None
    assert merged.accuracy > 0.95 > merged.accuracy_unpermuted
    assert merged.loss < 0.2 < 1.0 < merged.loss_unpermuted


def test_the_numbers_are_written(result: DemoResult) -> None:
    written = json.loads((result.folder / "results.json").read_text())
    for pair, row in zip(result.pairs, written["pairs"], strict=True):
        assert row["curves"]["after"]["loss"] == pair.after.loss.tolist()
        assert row["l2_after"] == pair.match.l2_after


def test_a_run_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr("lmc_fast.experiments.demo.weight_matching", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        run_demo(tmp_path / "out", cases=standard_cases(quick=True)[:1])
    assert list(tmp_path.iterdir()) == []

"""The benchmark of transformers runs, small, and its rows hold what they say."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from benchmarks import transformers
from benchmarks.run import main
from lmc_fast.experiments.datasets import Dataset
from lmc_fast.experiments.transformer_ways import Setting
from lmc_fast.experiments.transformers import TransformerRecipe


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Narrow models, little data."""
    recipes = {
        kind: replace(recipe, width=8, layers=1, heads=2, passes=1, patch=4)
        for kind, recipe in transformers.RECIPES.items()
    }
    monkeypatch.setattr(transformers, "RECIPES", recipes)
    for name, value in (("TRAINED", 128), ("JUDGING", 32), ("CHUNKS", 64), ("JUDGING_CHUNKS", 8)):
        monkeypatch.setattr(transformers, name, value)
    monkeypatch.setattr(transformers, "GOALS", dict.fromkeys(transformers.GOALS, (1.0, -1.0, 99.0)))


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "transformers.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_rows_are_of_pairs_and_their_mean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["transformers", "--cache", str(tmp_path / "cache"), "--out", str(tmp_path), "--pairs", "2"]
    ways = ["nothing", "heads turned too, activations", "learned", "three learned"]
    # A mean of a barrier is never below -1.
    assert main([*common, "--models", "vit-rms", "--steps", "2", "--methods", *ways]) == 1
    found = rows(tmp_path)
    pairs = ["0,1", "0,2", "mean"]
    assert [row["seeds"] for row in found[:9]] == pairs * 3
    assert [row["seeds"] for row in found[9:]] == ["0,1 of 0,1,2", "0,2 of 0,1,2", "1,2 of 0,1,2", "mean"]
    assert found[8]["status"] == "above -1.0" and {row["status"] for row in found[:8]} == {"ok"}
    barriers = [float(row["barrier"]) for row in found[:3]]
    assert barriers[2] == pytest.approx(sum(barriers[:2]) / 2, rel=1e-4)
    assert float(found[2]["deviation"]) == pytest.approx(abs(barriers[0] - barriers[1]) / 2**0.5, rel=1e-3, abs=1e-6)
    assert 0.0 <= float(found[2]["accuracy"]) <= 1.0 and found[0]["commit"] and found[0]["torch"]
    assert len(list((tmp_path / "cache").iterdir())) == 3
    assert main([*common, "--models", "lm-pos", "--methods", "nothing", "--shifts", "1", "--append"]) == 0
    assert [row["model"] for row in rows(tmp_path)[13:]] == ["lm-pos"] * 3
    assert rows(tmp_path)[13]["accuracy"] == ""
    # Images move where that is asked, texts cannot.
    assert [row["shifts"] for row in rows(tmp_path)] == ["0"] * 16
    assert "barrier" in capsys.readouterr().out


def test_bad_options_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transformers", "--pairs", "0"]) == 2
    assert capsys.readouterr().err == "benchmarks: --pairs must be 1 at least, got 0\n"
    assert main(["transformers", "--data", "missing.npz"]) == 2
    assert main(["transformers", "--shifts", "-1"]) == 2
    assert capsys.readouterr().err.endswith("benchmarks: --shifts must be 0 or more, got -1\n")


class Untrained:
    """Models as they are made, in the place of the cache of trained ones."""

    def __init__(self, *_: object) -> None:
        pass

    def get(self, recipe: TransformerRecipe, data: Dataset, seed: int) -> nn.Module:
        return recipe.build(data).eval()


def test_images_of_steps_move_as_far_as_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def laid_over(method: str, a: nn.Module, b: nn.Module, setting: Setting) -> tuple[nn.Module, nn.Module, None]:
        asked.append(setting.shifts)
        return a, b, None

    monkeypatch.setattr(transformers, "laid_over", laid_over)
    monkeypatch.setattr(transformers, "ModelCache", Untrained)
    common = ["transformers", "--out", str(tmp_path), "--pairs", "1", "--methods", "nothing"]
    assert main([*common, "--models", "vit-ln", "--shifts", "2"]) == 0
    found = rows(tmp_path)
    assert asked == [2] and [row["shifts"] for row in found] == ["2", "2"]
    assert all(0.0 <= float(row["processor_seconds"]) < 60.0 for row in found)

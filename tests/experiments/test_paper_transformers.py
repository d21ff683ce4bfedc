"""The paper's part on transformers: what is measured, what it comes to, and the page that tells it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from matplotlib.figure import Figure

import lmc_fast as lmc
from lmc_fast.cli import cli
from lmc_fast.experiments import paper
from lmc_fast.experiments.datasets import Dataset
from lmc_fast.experiments.paper import Network, PaperResult, Settings, Sweep, Transformers, run_paper
from lmc_fast.experiments.paper.claims import BEYOND
from lmc_fast.experiments.paper.results import Results, Trials
from lmc_fast.experiments.paper.settings import quick_settings
from lmc_fast.experiments.paper.transformers import rank_correlation, recipe_for, remark
from lmc_fast.experiments.recipes import Recipe
from lmc_fast.experiments.transformer_ways import WAYS, Setting, held_out, laid_over
from lmc_fast.report.figures import svg_text

from ..report.test_page import Reader
from .test_paper import write_stripes

MLP = Recipe("mlp", 12, (2,), steps=20, least_epochs=1, learning_rate=1e-2, weight_decay=0.1)
PART = Transformers(
    pairs=1,
    width=8,
    layers=1,
    least_passes=1,
    steps=2,
    ways=("nothing", "permutations, weights", "learned"),
    judging=40,
)
SMALL = Settings(
    seed=0,
    networks=(Network("MLP", MLP, 1, ("wm", "am", "ste"), ste_epochs=1),),
    sweeps=(Sweep("width", (12.0,), 1),),
    lambdas=3,
    landscape=0,
    test_examples=24,
    transformers=PART,
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stripes(tmp_path_factory.mktemp("data") / "stripes.npz")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, data: Path) -> PaperResult:
    def draw(figure: Figure, folder: Path, name: str) -> str:
        """Only what this part adds: drawing takes longer than all else here."""
        return svg_text(figure, name) if name.startswith("transformer") else "<svg ></svg>"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmc_fast.experiments.paper.writing.save_figure", draw)
        return run_paper(tmp_path_factory.mktemp("paper") / "out", SMALL, data=data)


def measured(result: PaperResult) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((result.folder / "stages" / "vit-0.json").read_text())["numbers"]["ways"]
    return found


@pytest.mark.slow
def test_numbers_are_those_of_the_ways(result: PaperResult, data: Path) -> None:
    from lmc_fast.experiments.cache import ModelCache
    from lmc_fast.experiments.datasets import load_dataset

    whole = load_dataset(data).thinned(None, 24)
    rest, judging = held_out(whole, 40)
    recipe = recipe_for(PART, rest)
    cache = ModelCache(result.folder / "models")
    a, b = (cache.get(recipe, rest, seed) for seed in (0, 1))
    setting = Setting(rest, judging, learning={"steps": 2})
    a2, b2, match = laid_over("learned", a, b, setting)
    found = measured(result)["learned"]
    assert match is not None and match.l2_after is not None
    assert found["distance"] == pytest.approx(match.l2_after, rel=1e-4)
    curve = lmc.loss_barrier(a2, b2, whole.test_batches(), lambdas=3)
    assert found["loss"] == pytest.approx(curve.loss.tolist(), rel=1e-4)
    assert found["r"] == pytest.approx(lmc.spectral_alignment(a2, b2, gammas=SMALL.gammas).overall, abs=1e-4)
    # Distances and R of every way are of pure form.
    pure = [lmc.fold_norms(model, setting.spec("learned", a)) for model in (a, b)]
    square = sum(float((x - y).detach().square().sum()) for x, y in zip(*(m.parameters() for m in pure), strict=True))
    nothing = measured(result)["nothing"]
    assert nothing["distance"] == pytest.approx(square**0.5, rel=1e-4)
    assert nothing["r"] == pytest.approx(lmc.spectral_alignment(*pure, gammas=SMALL.gammas).overall, abs=1e-4)
    permuted = measured(result)["permutations, weights"]
    assert permuted["distance"] < nothing["distance"] and permuted["loss"][0] == pytest.approx(nothing["loss"][0])


@pytest.mark.slow
def test_the_page_has_the_part_and_its_verdict(result: PaperResult) -> None:
    text = result.page.read_text(encoding="utf-8")
    reader = Reader(text)
    assert {"claim-10", "figure-transformer-curves", "figure-transformer-distances", "table-transformers"} <= set(
        reader.ids
    )
    assert "ViT, learned rotations" in text and "1 triple of MLP, 1 pair of ViT" in text and "Theus et al." in text
    assert [verdict.network for verdict in result.verdicts[10]] == ["ViT"]
    rows = (result.folder / "tables" / "transformers.csv").read_text().splitlines()
    assert len(rows) == 1 + len(PART.ways)


@pytest.mark.slow
def test_layers_have_names_and_not_numbers_alone(result: PaperResult) -> None:
    text = (result.folder / "tables" / "alignment-by-layer.csv").read_text()
    names = [line.split(",")[1] for line in text.splitlines()[1:]]
    assert names == ["hidden layer 1 (1)", "hidden layer 2 (3)", "output layer (5)"]


@pytest.mark.slow
def test_a_column_of_nothing_is_left_out(result: PaperResult) -> None:
    (barriers,) = [table for table in result.tables if table.name == "barriers"]
    assert "with BatchNorm statistics interpolated" not in barriers.columns and len(barriers.rows[0]) == 5


def test_data_are_thinned_evenly(data: Path) -> None:
    whole = Dataset("d", *(torch.arange(n).float().reshape(n, 1, 1, 1) for n in (10,)), torch.arange(10), *whole_test())
    few = whole.thinned(4, 3)
    assert few.train_targets.tolist() == [0, 2, 5, 7] and few.test_targets.tolist() == [0, 1, 3]
    assert few.train_inputs.flatten().tolist() == [0.0, 2.0, 5.0, 7.0] and len(few.test_inputs) == 3
    same = whole.thinned(None, 50)
    assert same.fingerprint == whole.fingerprint != few.fingerprint


def whole_test() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(5).float().reshape(5, 1, 1, 1), torch.arange(5)


@pytest.mark.parametrize(("side", "patch"), [(28, 7), (8, 2), (32, 8), (6, 2), (9, 3), (5, 1)])
def test_patches_are_about_four_a_side(side: int, patch: int) -> None:
    images = torch.zeros(3, 1, side, side)
    recipe = recipe_for(PART, Dataset("d", images, torch.zeros(3).long(), images, torch.zeros(3).long()))
    assert recipe.patch == patch and recipe.width == 8 and recipe.layers == 1


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((300, 1, 4, 6), "must have square images for transformers, got 4 x 6"),
        ((103, 1, 4, 4), "must have 104 images to train transformers on at least, got 103"),
    ],
    ids=["oblong", "few"],
)
def test_images_that_will_not_do_are_refused_before_any_work(
    shape: tuple[int, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = torch.zeros(shape), torch.zeros(shape[0]).long()
    monkeypatch.setattr(
        "lmc_fast.experiments.paper.run.load_dataset", lambda data: Dataset("mine", images, labels, images, labels)
    )
    with pytest.raises(ValueError, match=message):
        run_paper(tmp_path / "out", SMALL)
    assert not (tmp_path / "out").exists()


def way(barrier: float, distance: float, r: float) -> dict[str, Any]:
    return {"barrier": barrier, "distance": distance, "r": [r / 2, r]}


def made_up(**changed: dict[str, Any]) -> Results:
    trials = []
    for noise in (-0.01, 0.0, 0.02):
        ways = {
            "nothing": way(2.3 + noise, 30.0, 0.0),
            "permutations, weights": way(1.4 + noise, 26.0, 0.16),
            "stream turned, weights": way(1.5, 24.0, 0.23),
            "learned": way(0.02, 27.0 + noise, 0.09 + noise),
        }
        trials.append({"ways": {name: {**numbers, **changed.get(name, {})} for name, numbers in ways.items()}})
    settings = replace(quick_settings(), networks=(), sweeps=(), transformers=PART)
    pairs = Trials("ViT", trials, tuple(trials[0]["ways"]))
    return Results(settings, "digits", [Trials("MLP", [], ("none",))], {}, 1.0, pairs)


@pytest.mark.parametrize(
    ("changed", "state"),
    [
        ({}, "yes"),
        ({"learned": {"barrier": 1.45}}, "no"),
        ({"learned": {"r": [0.0, -0.1]}}, "no"),
        ({"learned": {"distance": 20.0}}, "no"),
    ],
    ids=["as-found", "barrier-stays", "r-falls", "nearest-merges"],
)
def test_the_verdict_falls_with_its_numbers(changed: dict[str, Any], state: str) -> None:
    results = made_up(**changed)
    assert results.transformers is not None
    parts = BEYOND.parts(results, results.transformers)
    assert [part.right for part in parts].count(False) == (state == "no")
    assert all(part.holds for part in parts) is (state == "yes")


@pytest.mark.slow
def test_it_is_judged_where_it_was_measured(result: PaperResult) -> None:
    assert list(result.verdicts) == list(range(1, 11))


def test_ranks_tell_what_is_a_guide() -> None:
    pytest.importorskip("scipy.stats")
    from scipy.stats import spearmanr

    (trial, *_) = made_up().transformers.trials  # type: ignore[union-attr]
    barriers, distances = ([w[key] for w in trial["ways"].values()] for key in ("barrier", "distance"))
    expected = spearmanr(barriers, distances).statistic
    assert rank_correlation(trial, lambda w: float(w["distance"])) == pytest.approx(float(expected))
    tied = {"ways": {str(k): way(b, d, 0.0) for k, (b, d) in enumerate([(1, 5), (1, 7), (2, 7), (3, 6)])}}
    expected = spearmanr([1, 1, 2, 3], [5, 7, 7, 6]).statistic
    assert rank_correlation(tied, lambda w: float(w["distance"])) == pytest.approx(float(expected))
    assert rank_correlation(tied, lambda w: 1.0) == 0.0
    results = made_up()
    assert results.transformers is not None
    text = remark(results, results.transformers)
    assert text.startswith("Over the ways the rank correlation of the barrier is 0.2 with the distance and -0.2 with R")


def test_without_the_part_nothing_is_said_of_it() -> None:
    results = replace(made_up(), transformers=None, networks=[])
    assert BEYOND.remark(results) == ""


@pytest.mark.parametrize("asked", [False, True])
def test_the_command_asks_for_it(asked: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[Settings] = []

    def run(out: Path, settings: Settings, **_: Any) -> PaperResult:
        given.append(settings)
        return PaperResult(out, {}, [], 1.0)

    monkeypatch.setattr(paper, "run_paper", run)
    options = ["--transformers"] if asked else []
    for quick in ([], ["--quick"]):
        done = CliRunner().invoke(cli, ["paper", "--out", str(tmp_path / "out"), *quick, *options])
        assert done.exit_code == 0, done.output
    assert [settings.transformers is not None for settings in given] == [asked, asked]
    if asked:
        assert all(s.transformers is not None and s.transformers.pairs >= 3 for s in given)
        assert all(s.transformers is not None and s.transformers.ways == WAYS for s in given)
    # The small sample keeps a large data set to its time.
    assert given[1].examples is not None and given[0].examples is None

"""The demo of transformers: what it writes, and that its ways are what their names say."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import lmc_fast as lmc
from lmc_fast.checkpoints import load_checkpoint
from lmc_fast.cli.main import cli
from lmc_fast.experiments import demo_transformers
from lmc_fast.experiments.datasets import Dataset, digits
from lmc_fast.experiments.demo_tables import show, ways_table
from lmc_fast.experiments.demo_transformers import TransformersResult, Way, run_transformers
from lmc_fast.experiments.transformer_ways import WAYS, Setting, held_out, laid_over
from lmc_fast.experiments.transformers import TransformerRecipe

TINY = TransformerRecipe("vit-ln", 8, 1, heads=2, passes=1, learning_rate=1e-2, patch=4)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> TransformersResult:
    return run_transformers(tmp_path_factory.mktemp("demo") / "out", recipe=TINY, lambdas=5, steps=4)


def test_every_way_is_measured_and_written(result: TransformersResult) -> None:
    assert [way.way for way in result.ways] == list(WAYS)
    written = json.loads((result.folder / "results.json").read_text())
    for way, row in zip(result.ways, written["ways"], strict=True):
        assert row["barrier"] == way.barrier == row["curve"]["barrier"]
        assert row["curve"]["loss"][2] == way.loss and row["curve"]["accuracy"][2] == way.accuracy
        # No way changes a model.
        assert [row["curve"]["loss"][k] for k in (0, -1)] == pytest.approx(result.ends, rel=1e-4)
    assert result.ways[0].l2_after is None and all(way.l2_after for way in result.ways[1:])
    assert written["recipe"]["width"] == 8 and written["versions"]["torch"] == torch.__version__
    assert (result.folder / "barrier_vit.png").stat().st_size > 10_000


def test_the_models_that_were_laid_over_each_other_are_kept(result: TransformersResult) -> None:
    models = []
    data, _ = held_out(digits(), 180)
    for name in ("vit_seed0_pure", "vit_seed1_turned", "vit_seed0"):
        model = TINY.build(data)
        model.load_state_dict(load_checkpoint(result.folder / f"{name}.safetensors"))
        models.append(model.eval())
    pure, turned, trained = models
    inputs = data.test_inputs[:32]
    assert torch.allclose(pure(inputs), trained(inputs), atol=1e-4)
    curve = lmc.loss_barrier(pure, turned, data.test_batches(), lambdas=5)
    assert curve.loss.tolist() == pytest.approx(
        json.loads((result.folder / "results.json").read_text())["ways"][-1]["curve"]["loss"], rel=1e-4
    )


@pytest.mark.usefixtures("forked_workers")
def test_processes_side_by_side_train_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_transformers, "save_png", lambda *_: None)
    alone, beside = (
        run_transformers(tmp_path / str(n), recipe=TINY, lambdas=3, processes=n, ways=["nothing"]) for n in (1, 2)
    )
    assert alone.ways[0].barrier == beside.ways[0].barrier and alone.ends == beside.ends


def test_a_run_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(demo_transformers, "laid_over", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        run_transformers(tmp_path / "out", recipe=TINY)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def setting() -> Setting:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(48, 1, 4, 4, generator=generator)
    classes = (images.mean(dim=(1, 2, 3)) > 0).long()
    data, judging = held_out(Dataset("toy", images, classes, images, classes), 16)
    return Setting(data, judging, batch=16, learning={"steps": 2})


def test_what_is_held_out_is_in_no_training(setting: Setting) -> None:
    whole = torch.cat([setting.data.train_inputs, *[inputs for inputs, _ in setting.judging]])
    assert len(setting.data.train_inputs) == 32 and torch.equal(whole, setting.data.test_inputs)
    assert [len(inputs) for inputs, _ in setting.training] == [16, 16]


@pytest.mark.parametrize("way", WAYS)
def test_ways_move_what_they_say(way: str, setting: Setting) -> None:
    recipe = TransformerRecipe("vit-rms", 8, 1, heads=2, patch=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        models = [recipe.build(setting.data).eval() for _ in range(2)]
    a, b, match = laid_over(way, *models, setting)
    for before, after in zip(models, (a, b), strict=True):
        assert torch.allclose(before(setting.data.test_inputs), after(setting.data.test_inputs), atol=1e-5)
    if way == "nothing":
        assert (a, b, match) == (*models, None)
        return
    assert match is not None
    kinds = {group.kind for group in match.choice.spec.groups.values()}
    turns = {"orthogonal"} if not way.startswith("permutations") else set()
    assert kinds == {"permutation"} | turns
    inside = {g.kind for g in match.choice.spec.groups.values() if g.owner is not None}
    assert inside == ({"orthogonal"} if way.startswith(("heads", "learned")) else {"permutation"})
    by = {"weights": "weight", "activations": "activation", "learned": "learned"}[way.rpartition(", ")[2]]
    assert match.method.startswith(by) or by == "weight"
    # Found once for all pairs.
    assert setting.spec(way, models[0]) is setting.spec(way, models[1])
    assert match.verified is not None


def made_up() -> TransformersResult:
    ways = tuple(Way(way, 1.25, 2.5, 0.5, None if way == "nothing" else 31.25, 2.0) for way in WAYS)
    return TransformersResult(Path("there"), (0, 1), (0.25, 0.75), (0.5, 1.0), ways, 12.0)


def test_the_table_fits_a_terminal_and_says_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    show(ways_table(made_up()))
    lines = out.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    text = out.getvalue()
    assert all(way in text for way in WAYS) and "75.0%" in text and "1.250" in text and "31.25" in text


@pytest.mark.parametrize("quick", [False, True])
def test_the_command_runs_it(quick: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[Any, dict[str, Any]]] = []

    def run(folder: Path, **options: Any) -> TransformersResult:
        asked.append((folder, options))
        return made_up()

    monkeypatch.setattr(demo_transformers, "run_transformers", run)
    options = ["--quick"] if quick else []
    out = tmp_path / "out"
    done = CliRunner().invoke(cli, ["demo", "--transformers", "--seed", "3", "--out", str(out), *options])
    assert done.exit_code == 0 and "heads turned too" in done.output and "are in there/" in done.output
    ((folder, given),) = asked
    assert folder == out and given["seed"] == 3 and given["steps"] == (10 if quick else 300)
    assert given["recipe"].width == (16 if quick else 64)

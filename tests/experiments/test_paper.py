"""A whole run of the paper's measurements, on models that train in a blink; resuming it; what goes wrong."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from matplotlib.figure import Figure

import lmc_fast as lmc
from lmc_fast.cli import cli
from lmc_fast.experiments import paper
from lmc_fast.experiments.paper import Network, PaperResult, Settings, Sweep, run_paper, stages
from lmc_fast.experiments.paper.settings import METHODS
from lmc_fast.experiments.paper.store import ResultsFolder
from lmc_fast.experiments.recipes import Recipe
from lmc_fast.report.figures import save_figure

from ..report.test_page import Reader

MLP = Recipe("mlp", 12, (2,), steps=20, least_epochs=1, learning_rate=1e-2, weight_decay=0.1)
RESNET = Recipe("resnet", 2, (1, 1), steps=4, least_epochs=1, learning_rate=1e-2, weight_decay=0.1)
SMALL = Settings(
    seed=0,
    networks=(
        Network("MLP", MLP, 2, tuple(METHODS), ste_epochs=1, sinkhorn_steps=2),
        Network("ResNet", RESNET, 2, ("wm", "am", "ste"), ste_epochs=1),
    ),
    sweeps=(Sweep("width", (4, 12), 2), Sweep("weight_decay", (0.0, 0.1), 1), Sweep("width", (2,), 1, "ResNet")),
    lambdas=3,
    landscape=3,
)
STAGES = 2 + 2 + 2 * 2 + 2 + 1


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """For models this small, threads cost more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_stripes(path: Path) -> Path:
    """Small images of three classes that are easily learned, in a file."""
    rng = np.random.default_rng(0)
    labels = np.arange(240, dtype=np.uint8) % 3
    images = rng.integers(0, 60, (240, 6, 6), dtype=np.uint8)
    images[np.arange(240), labels * 2] += 150
    np.savez(path, images=images, labels=labels)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stripes(tmp_path_factory.mktemp("data") / "stripes.npz")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, data: Path) -> PaperResult:
    return run_paper(tmp_path_factory.mktemp("paper") / "out", SMALL, data=data)


def test_every_table_figure_and_stage_is_written(result: PaperResult) -> None:
    assert len(list((result.folder / "stages").iterdir())) == STAGES
    tables = {path.stem for path in (result.folder / "tables").iterdir()}
    assert tables == {table.name for table in result.tables} and len(tables) == 11
    figures = {path.name for path in (result.folder / "figures").iterdir()}
    stems = {path.rpartition(".")[0] for path in figures}
    assert len(stems) == 10 and figures == {f"{stem}.{kind}" for stem in stems for kind in ("svg", "png")}
    assert not [path for path in result.folder.rglob("*") if path.name.startswith(".")]


def test_the_page_holds_every_figure_table_and_verdict(result: PaperResult) -> None:
    text = result.page.read_text(encoding="utf-8")
    reader = Reader(text)
    assert len(reader.ids) == len(set(reader.ids))
    for path in (result.folder / "figures").glob("*.svg"):
        assert f"figure-{path.stem}" in reader.ids
    for table in result.tables:
        assert f"table-{table.name}" in reader.ids
    links = {address for _, _, address in reader.addresses}
    assert {f"tables/{table.name}.csv" for table in result.tables} <= links
    assert all((result.folder / link).is_file() for link in links if not link.startswith(("#", "data:", "http")))
    for verdicts in result.verdicts.values():
        for verdict in verdicts:
            assert all(escape(part.text) in text for part in verdict.parts)
    outside = {address for _, _, address in reader.addresses if address.startswith("http")}
    assert outside and all(address.startswith("https://arxiv.org/abs/") for address in outside)
    assert lmc.__version__ in text


def test_numbers_are_those_that_the_library_gives(result: PaperResult, data: Path) -> None:
    from lmc_fast.experiments.cache import ModelCache
    from lmc_fast.experiments.datasets import load_dataset

    images = load_dataset(data)
    cache = ModelCache(result.folder / "models")
    a, b = (cache.get(MLP, images, seed) for seed in (3, 4))
    match = lmc.weight_matching(a, b, MLP.spec(a))
    found = json.loads((result.folder / "stages" / "mlp-1.json").read_text())["numbers"]["methods"]["wm"]
    curve = lmc.loss_barrier(a, b, images.test_batches(), match, lambdas=3)
    assert found["curve"]["loss"] == pytest.approx(curve.loss.tolist())
    assert found["l2_reduction"] == pytest.approx(match.l2_reduction)
    assert found["r"]["overall"] == pytest.approx(lmc.spectral_alignment(a, b, match).overall, abs=1e-5)
    merged = lmc.interpolate(a, b, 0.5, match)
    with_b = lmc.spectral_alignment(merged, b, match).overall
    assert found["merged_r"][1] == pytest.approx(with_b, abs=1e-5)
    rows = list(csv.DictReader((result.folder / "tables" / "alignment.csv").open()))
    (row,) = [r for r in rows if r["network"] == "MLP" and r["permutations"] == METHODS["wm"]]
    values = [
        json.loads((result.folder / "stages" / f"mlp-{t}.json").read_text())["numbers"]["methods"]["wm"]["r"]["overall"]
        for t in range(2)
    ]
    assert float(row["R(0.3) mean"]) == pytest.approx((values[0][1] + values[1][1]) / 2)


def test_a_second_run_does_nothing_again(result: PaperResult, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All is as it was, and so is what is drawn: the first figure is, the others are taken from where they lie."""
    page = result.page.read_text(encoding="utf-8")
    drawn: list[str] = []

    def draw(figure: Figure, folder: Path, name: str) -> str:
        drawn.append(name)
        if len(drawn) == 1:
            return save_figure(figure, folder, name)
        there = (folder / f"{name}.svg").read_text(encoding="utf-8")
        return re.sub("<style>.*?</style>", "", there, count=1, flags=re.DOTALL)

    monkeypatch.setattr("lmc_fast.experiments.paper.writing.save_figure", draw)
    monkeypatch.setattr(stages, "measure_trial", None)
    monkeypatch.setattr(stages, "measure_pair", None)
    again = run_paper(result.folder, SMALL, data=data)
    assert again.seconds == result.seconds
    assert len(drawn) == 10 and again.page.read_text(encoding="utf-8") == page


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take longer to draw than all else here; one run that draws them is enough."""
    monkeypatch.setattr("lmc_fast.experiments.paper.writing.save_figure", lambda figure, folder, name: "<svg ></svg>")


ONE = replace(
    SMALL, networks=(replace(SMALL.networks[0], methods=("wm", "am", "ste"), trials=1),), sweeps=SMALL.sweeps[:2]
)


def test_an_interrupted_run_goes_on_where_it_was(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None
) -> None:
    measured: list[int] = []
    measure = stages.measure_pair

    def interrupted(trial: Any) -> Any:
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(1)
        return measure(trial)

    monkeypatch.setattr(stages, "measure_pair", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_paper(tmp_path / "out", ONE, data=data)
    assert len(list((tmp_path / "out" / "stages").iterdir())) == 3
    assert not (tmp_path / "out" / "report.html").exists()
    monkeypatch.setattr(stages, "measure_pair", lambda trial: measured.append(1) or measure(trial))
    monkeypatch.setattr(stages, "measure_trial", None)
    whole = run_paper(tmp_path / "out", ONE, data=data)
    assert len(measured) == 6 and whole.page.is_file()


def test_a_damaged_stage_is_done_again_with_a_note(tmp_path: Path) -> None:
    notes: list[str] = []
    store = ResultsFolder(tmp_path / "out", {"x": 1}, notes.append)
    store.keep("a", {"y": 2}, 1.5)
    assert store.read("a") == {"stage": "a", "seconds": 1.5, "numbers": {"y": 2}}
    assert store.read("b") is None and notes == []
    for content in ('{"stage": "a", "numb', '{"stage": "b", "numbers": {}}', "[]"):
        (tmp_path / "out" / "stages" / "a.json").write_text(content)
        assert store.read("a") is None
    assert notes == ["a.json is damaged, and its stage is done again"] * 3
    with pytest.raises(ValueError, match="Out of range float"):
        store.keep("c", {"y": float("nan")}, 0.0)
    assert not (tmp_path / "out" / "stages" / "c.json").exists()


def test_other_settings_in_the_same_folder_are_an_error(tmp_path: Path) -> None:
    settings = {"seed": 0, "networks": [{"width": 4}], "t": (1, 2)}
    ResultsFolder(tmp_path / "out", settings)
    ResultsFolder(tmp_path / "out", settings)
    with pytest.raises(FileExistsError, match=r"belongs to other settings \(networks\[0\].width was 4, is 5\)"):
        ResultsFolder(tmp_path / "out", {**settings, "networks": [{"width": 5}]})
    with pytest.raises(FileExistsError, match=r"\(seed was 0, is 7\)"):
        ResultsFolder(tmp_path / "out", {**settings, "seed": 7})


def test_folders_that_are_no_results(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert ResultsFolder(tmp_path / "empty", {}).path.is_dir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="holds other things"):
        ResultsFolder(tmp_path / "other", {})
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.tex"]
    with pytest.raises(FileExistsError, match="is a file"):
        ResultsFolder(tmp_path / "other" / "thesis.tex", {})
    with pytest.raises(FileNotFoundError, match="the folder of output"):
        ResultsFolder(tmp_path / "no" / "such", {})
    (tmp_path / "empty" / "settings.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        ResultsFolder(tmp_path / "empty", {})


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


@pytest.fixture
def small_cli(monkeypatch: pytest.MonkeyPatch, undrawn: None) -> Iterator[None]:
    monkeypatch.setattr(paper, "quick_settings", lambda seed, transformers: replace(ONE, seed=seed))
    yield


def test_the_command_says_every_verdict_and_goes_on(tmp_path: Path, data: Path, small_cli: None) -> None:
    arguments = (
        "paper",
        "--quick",
        "--processes",
        "1",
        "--data",
        str(data),
        "--out",
        str(tmp_path / "out"),
        "--cache",
        str(tmp_path / "c"),
    )
    first = run(*arguments)
    assert first.exit_code == 0, first.output
    assert [line.partition(",")[0] for line in first.stdout.splitlines()[:9]] == [f"claim {n}" for n in range(1, 10)]
    assert "report.html" in first.stdout and "0 stages left" in first.stderr
    assert list((tmp_path / "c").glob("*.safetensors")) and not (tmp_path / "out" / "models").exists()
    again = run(*arguments)
    assert again.stdout == first.stdout and again.stderr == ""
    other = run(*arguments, "--seed", "1")
    assert other.exit_code == 2 and "belongs to other settings" in other.stderr and other.stderr.count("\n") == 1


def test_an_interruption_is_said_in_one_line(
    tmp_path: Path, data: Path, small_cli: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "measure_trial", interrupt)
    arguments = ("--processes", "1", "--data", str(data), "--out", str(tmp_path / "out"))
    result = run("paper", "--quick", *arguments)
    assert result.exit_code == 130
    assert result.stderr == "lmc-fast: interrupted; the same command goes on from here\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "nowhere"), "data 'nowhere' does not exist"),
        (("--data", "."), "Looked for: train-images-idx3-ubyte"),
        (("--out", "no/such/folder"), "the folder of output 'no/such/folder' does not exist"),
        (("--out", "file"), "output 'file' is a file"),
    ],
    ids=["no-data", "empty-data", "no-folder", "file"],
)
def test_bad_input_is_one_line_and_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    result = run("paper", "--quick", *arguments)
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_standard_and_quick_settings_are_sound() -> None:
    for settings in (paper.standard_settings(3), paper.quick_settings(3)):
        assert settings.seed == 3 and json.dumps(settings.described())
        assert all({"wm", "am", "ste"} <= set(network.methods) and network.trials >= 3 for network in settings.networks)
        assert {sweep.name for sweep in settings.sweeps} == {"width", "weight_decay", "learning_rate"}
        recipes = {network.name: network.recipe for network in settings.networks}
        for sweep in settings.sweeps:
            base = recipes[sweep.network or settings.networks[0].name]
            assert list(sweep.values) == sorted(sweep.values) and getattr(base, sweep.name) in sweep.values
            assert getattr(sweep.recipe(base, sweep.values[0]), sweep.name) == sweep.values[0]

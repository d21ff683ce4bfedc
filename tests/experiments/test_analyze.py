"""`lmc-fast analyze`: any two checkpoints, with and without a matching."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

import lmc_fast as lmc
from benchmarks import models
from lmc_fast.checkpoints import save_checkpoint
from lmc_fast.cli import cli
from lmc_fast.experiments.analyze import analyze_checkpoints


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Model a, a permuted copy of it as b, their spec, and the matching that undoes it."""
    monkeypatch.chdir(tmp_path)
    model = models.randomise(models.ConvNet(), seed=1)
    spec = lmc.architectures.vgg(model)
    state = model.state_dict()
    other = lmc.Permutations.random(spec, 3).inverse().apply(state)
    save_checkpoint("a.safetensors", state)
    torch.save(other, "b.pt")
    spec.to_json("spec.json")
    lmc.weight_matching(state, other, spec).save("match.safetensors")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ("analyze", "a.safetensors", "b.pt", *arguments))


@pytest.mark.parametrize("how", [("--match", "match.safetensors"), ("--spec", "spec.json")], ids=["match", "spec"])
def test_a_permuted_copy_is_found_out(folder: Path, how: tuple[str, str]) -> None:
    result = run(*how, "--out", "out")
    assert result.exit_code == 0, result.output
    assert "over all" in result.output and "wrote out/" in result.output
    rows = list(csv.DictReader((folder / "out" / "alignment.csv").open()))
    assert all(float(row["R(0) after"]) == pytest.approx(1.0, abs=1e-5) for row in rows)
    assert float(rows[-1]["R(0) before"]) < 0.5
    assert float(rows[-1]["L2 after"]) == 0.0 < float(rows[-1]["L2 distance"])
    names = {path.name for path in (folder / "out").iterdir()}
    assert names == {"alignment.csv", "singular-values.csv"} | {
        f"{stem}.{kind}" for stem in ("alignment", "singular-values") for kind in ("svg", "png")
    }


def test_without_a_matching_the_models_are_compared_as_they_are(folder: Path) -> None:
    analysis = analyze_checkpoints(Path("a.safetensors"), Path("b.pt"), gamma=0.5)
    assert analysis.after is None and analysis.match is None
    assert analysis.before.gammas == (0.0, 0.5)
    result = run()
    assert result.exit_code == 0 and "L2 after" not in result.output
    assert sorted(path.name for path in folder.iterdir()) == ["a.safetensors", "b.pt", "match.safetensors", "spec.json"]


def test_singular_values_are_those_of_the_weights(folder: Path) -> None:
    assert run("--out", "out").exit_code == 0
    rows = list(csv.DictReader((folder / "out" / "singular-values.csv").open()))
    name = rows[0]["weight"]
    weight = lmc.checkpoints.load_checkpoint("a.safetensors")[name]
    found = [float(row["a"]) for row in rows if row["weight"] == name]
    assert found == pytest.approx(torch.linalg.svdvals(weight.flatten(1)).tolist(), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--match", "match.safetensors", "--spec", "spec.json"), "match and spec must not be given together"),
        (("--match", "nowhere.safetensors"), "matching 'nowhere.safetensors' does not exist"),
        (("--out", "a.safetensors"), "output folder 'a.safetensors' exists already"),
        (("--out", "no/such/folder"), "the folder of output 'no/such/folder' does not exist"),
    ],
    ids=["both", "no-match", "exists", "no-folder"],
)
def test_bad_input_is_one_line_and_code_2(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    before = {path.name for path in folder.iterdir()}
    result = run(*arguments)
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1
    assert {path.name for path in folder.iterdir()} == before

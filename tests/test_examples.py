"""The examples, run as they are; models of torchvision and timm where these are installed."""

from __future__ import annotations

import importlib
import json
import os
import runpy
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import matplotlib as mpl
import pytest
import torch

FOLDER = Path(__file__).parent.parent / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch):
    """Imports an example by its name, with what stands beside it."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def of(name: str) -> ModuleType:
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return of


def test_the_list_names_every_example() -> None:
    told = (FOLDER / "README.md").read_text()
    files = [path.name for path in FOLDER.iterdir() if path.is_file() and path.name != "README.md"]
    assert len(files) >= 7
    assert [name for name in files if name not in told] == []


def test_a_client_has_a_share_of_each_class(example) -> None:
    federated = example("federated")
    targets = torch.arange(200) % 10
    parts = federated.shares(targets, clients=4, concentration=1.0, seed=3)
    assert torch.cat(parts).sort().values.tolist() == list(range(200))
    # The smaller the concentration, the fewer classes has a client.
    few = federated.shares(targets, clients=4, concentration=0.01, seed=3)
    assert sum(len(targets[part].unique()) for part in few) < sum(len(targets[part].unique()) for part in parts)


def test_clients_that_are_matched_average_to_a_better_model(example, capsys: pytest.CaptureFixture[str]) -> None:
    found = example("federated").main(["--clients", "3", "--rounds", "2", "--steps", "60", "--width", "256"])
    assert found["matched, averaged"] > found["averaged"] + 0.05
    assert list(found)[-1] == "matched, averaged, round 2"
    assert f"{found['averaged']:.3f}" in capsys.readouterr().out


def test_a_bert_is_matched(example, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    match = example("bert").main([])
    said = capsys.readouterr().out
    assert f"{len(match.choice)} of {len(match.choice)} groups are back" in said
    with pytest.raises(SystemExit):
        example("bert").main(["--a", "somewhere"])
    assert "--a and --b go together" in capsys.readouterr().err


def test_a_llama_is_merged_on_disk(example, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    result = example("llama").main(["--out", str(tmp_path / "merged")])
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    assert result.matches[0].l2_after < result.matches[0].l2_before / 5
    assert float(capsys.readouterr().out.rsplit(" ", 1)[1]) > 0.98


@pytest.mark.parametrize("name", ["resnet50", "timm_vit"])
def test_models_of_vision_libraries_are_matched(name: str, example, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip({"resnet50": "torchvision", "timm_vit": "timm"}[name], exc_type=ImportError)
    example(name).main([])
    said = capsys.readouterr().out
    assert "37 of 37 groups are back" in said or "turned back" in said


@pytest.mark.slow
def test_the_notebook_runs_from_its_first_cell_to_its_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cells = json.loads((FOLDER / "digits.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    # It has been run as it stands: what readers see on the web is what it says.
    assert all(cell["outputs"] for cell in cells if cell["cell_type"] == "code")
    mpl.use("Agg")
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "cells.py"
    script.write_text("\n\n".join(code))
    names = runpy.run_path(str(script))
    assert names["after"].barrier < names["before"].barrier / 5
    assert names["accuracy"] > 0.9


@pytest.mark.slow
def test_the_commands_merge_and_verify(example, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    a, b = example("llama").write_pair(tmp_path)
    # `lmc-fast` is this package's, wherever it is installed.
    command = tmp_path / "bin" / "lmc-fast"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lmc_fast "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IEXEC)
    given = {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}"}
    run = [shutil.which("sh") or "sh", str(FOLDER / "merge.sh"), str(a), str(b), str(tmp_path / "out")]
    done = subprocess.run(run, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert (tmp_path / "out-aligned").is_dir()
    refused = subprocess.run(run[:3], env=given, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and refused.stderr.startswith("usage")

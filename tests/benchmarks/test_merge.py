"""The benchmark of merging on disk, on a small pair."""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import merge, merging, run
from benchmarks.checkpoint_pairs import SIZES, make_pair
from benchmarks.merging import CONTENDERS, MERGEKIT, OURS, PLAIN, agree
from benchmarks.solvers import Unavailable

from .. import forked


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "merge.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_planted_pair_is_recovered_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = SimpleNamespace(
        PIPE=forked.PIPE, Popen=lambda command, text, **options: forked.start(command[1:], **options)
    )
    monkeypatch.setattr(merge, "subprocess", begun)
    (tmp_path / "pairs").mkdir()
    words = ["merge", "--sizes", "1m", "--folder", str(tmp_path / "pairs"), "--out", str(tmp_path)]
    assert run.main([*words, "--against", PLAIN, "--rounds", "1"]) == 0
    told = capsys.readouterr().err
    for what in ("1m: making A/model-00001-of-00001.safetensors", "1m: making B/", "settling groups", "writing"):
        assert what in told
    ours, plain = rows_of(tmp_path)
    assert (ours["contender"], ours["size"], ours["found"], ours["status"]) == (OURS, "1m", "9/9", "ok")
    assert int(ours["parameters"]) == 497_280
    assert float(ours["ratio"]) > 1
    assert float(ours["ratio"]) == pytest.approx(float(ours["match_s"]) / float(ours["products_s"]), rel=1e-4)
    assert float(ours["on_disk_s"]) >= float(ours["seconds"]) >= float(ours["match_s"])
    assert float(ours["own_mib"]) > 20
    assert (plain["contender"], plain["status"], plain["ratio"]) == (PLAIN, "ok", "")
    assert list((tmp_path / "pairs").iterdir()) == []


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    make_pair(folder, SIZES["1m"])
    return folder


@pytest.mark.parametrize(("said", "status"), [("no luck\n\n", "failed: no luck"), ("", "failed: exit 3")], ids=str)
def test_a_case_that_fails_has_a_row_that_says_why(
    said: str, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / f"out {OURS}").mkdir()
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\nimport sys\nsys.stderr.write({said!r})\nsys.exit(3)\n", encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    assert merge._in_a_process(OURS, tmp_path, argparse.Namespace(site=None)) == {"status": status}
    assert capsys.readouterr().err == said
    assert not (tmp_path / f"out {OURS}").exists()


def test_a_mean_is_told_from_anything_else(pair: Path, tmp_path: Path) -> None:
    assert CONTENDERS[PLAIN](pair, None)["status"] == "ok"
    out = pair / f"out {PLAIN}"
    assert agree(pair, out)
    assert not agree(pair, pair / "A")
    shutil.rmtree(out)
    out.mkdir()
    assert not agree(pair, out)
    shutil.rmtree(out)


def stand_in(patch: pytest.MonkeyPatch, write: Any) -> dict[str, Any]:
    """A mergekit whose merge is this function; what it was told."""
    told: dict[str, Any] = {}

    class MergeConfiguration:
        @staticmethod
        def model_validate(config: dict[str, Any]) -> dict[str, Any]:
            told["config"] = config
            return config

    def run_merge(config: dict[str, Any], out_path: str, options: Any) -> None:
        write([model["model"] for model in config["models"]], out_path)

    for name, held in {
        "mergekit": {},
        "mergekit.config": {"MergeConfiguration": MergeConfiguration},
        "mergekit.merge": {"MergeOptions": dict, "run_merge": run_merge},
    }.items():
        module = types.ModuleType(name)
        module.__dict__.update(held)
        patch.setitem(sys.modules, name, module)
    patch.setattr(merging.metadata, "version", lambda name: "0.1.5")
    patch.setenv("HF_HUB_OFFLINE", os.environ.get("HF_HUB_OFFLINE", "0"))
    patch.setattr(sys, "path", list(sys.path))
    return told


def test_mergekit_is_told_the_same_merge(pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(models: list[str], out: str) -> None:
        merging.merge_checkpoints(*models, out=out, method="none")

    told = stand_in(monkeypatch, write)
    row = CONTENDERS[MERGEKIT](pair, tmp_path)
    assert (row["status"], row["version"]) == ("ok", "0.1.5")
    assert sys.path[0] == str(tmp_path)
    assert told["config"]["merge_method"] == "linear"
    assert [model["parameters"]["weight"] for model in told["config"]["models"]] == [0.5, 0.5]
    assert agree(pair, pair / f"out {MERGEKIT}")
    shutil.rmtree(pair / f"out {MERGEKIT}")


def test_where_mergekit_is_missing_its_row_says_so(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mergekit", None)
    monkeypatch.setenv("HF_HUB_OFFLINE", os.environ.get("HF_HUB_OFFLINE", "0"))
    with pytest.raises(Unavailable, match="mergekit is not installed"):
        CONTENDERS[MERGEKIT](pair, None)

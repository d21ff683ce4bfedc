"""The one command for a GPU runs from end to end without one, and its rows are judged by what they say."""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import lmc_fast as lmc
from benchmarks import gpu, gpu_pairs
from benchmarks.gains import by_torch
from benchmarks.gpu import ALL_COLUMNS
from benchmarks.gpu_goals import GOALS, ON_CPU, ON_GPU, judged
from benchmarks.gpu_matching import syncs_of, where_time_goes
from benchmarks.run import main

pytest.importorskip("triton", reason="Triton is not installed: pip install 'lmc_fast[triton]'")

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
MATCHED = {"mlp-2048", "vgg16", "resnet20-4", "transformer, 2 layers of 1024"}


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "gpu.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_dry_run_goes_from_end_to_end(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", str(ROOT / "benchmarks" / "gpu.sh"), "--dry-run"],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": sys.executable, "OUT": str(tmp_path / "rows"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    rows = rows_of(tmp_path / "rows")
    assert not [row["status"] for row in rows if row["status"].startswith(("wrong", "failed"))]
    families = {row["family"] for row in rows}
    assert {"variants: interpolation", "variants: gain matrix, units on rows", "matching", "goal"} <= families
    variants = [row for row in rows if row["solver"].startswith(("tiles", "library", "halves,"))]
    # What is added to a gain that grows has no error of its own.
    exact = [row for row in variants if "correction" not in row["family"] or not row["solver"].startswith("halves")]
    assert len(exact) > 20 and all(float(row["relative_error"]) < 1e-6 for row in exact)
    assert all(row["commit"] and float(row["p50_ms"]) > 0 for row in variants)
    assert [row["label"] for row in rows if row["family"] == "goal"] == [goal.name for goal in GOALS]
    assert {row["label"] for row in rows if row["part"] in ("assignments", "sweeps in the core")} == MATCHED


def test_matchings_and_goals_are_written_one_behind_the_other(tmp_path: Path) -> None:
    for section in ("matchings", "goals"):
        dry = ["gpu", "--dry-run", "--seconds", "0.001", "--section", section, "--out", str(tmp_path)]
        assert main(dry) == 0
    rows = rows_of(tmp_path)
    assert not [row["status"] for row in rows if row["status"].startswith(("wrong", "failed"))]
    assert {row["label"] for row in rows if row["part"] in ("assignments", "sweeps in the core")} == MATCHED
    assert [row["label"] for row in rows if row["family"] == "goal"] == [goal.name for goal in GOALS]


def test_an_option_that_it_lacks_is_refused() -> None:
    done = subprocess.run(
        ["bash", str(ROOT / "benchmarks" / "gpu.sh"), "--hours"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "--minutes" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpu", "--out", str(tmp_path)]) == 2
    assert "no GPU that torch can use" in capsys.readouterr().err


def test_nothing_is_begun_after_its_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for section in ("kernels", "matchings"):
        assert main(["gpu", "--dry-run", "--section", section, "--until", "1", "--out", str(tmp_path)]) == 0
    assert rows_of(tmp_path) == []
    told = capsys.readouterr().out
    assert "out of time before gain matrix" in told and "no time for mlp-2048" in told


def test_a_variant_that_fails_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise RuntimeError("no such shape\nand more")

    works = list(gpu._works(CPU, True))[:1]
    works[0] = gpu.replace(works[0], contenders={**works[0].contenders, "another": fails})
    monkeypatch.setattr(gpu, "_works", lambda *_: iter(works))
    assert main(["gpu", "--dry-run", "--seconds", "0.001", "--out", str(tmp_path)]) == 0
    statuses = {row["solver"]: row["status"] for row in rows_of(tmp_path)}
    assert statuses["another"] == "failed: RuntimeError: no such shape" and statuses["lmc_fast"] == "ok"


def test_goals_are_judged_by_the_last_rows() -> None:
    def row(solver: str, p50: float) -> dict[str, str]:
        fields = {"family": "matching", "label": "vgg16", "solver": solver, "p50_ms": str(p50)}
        return dict.fromkeys(ALL_COLUMNS, "") | fields

    rows = [row(ON_GPU, 5.0), row(ON_CPU, 90.0), row(ON_GPU, 10.0)]
    rows.append(row(ON_GPU, 1.0) | {"part": "assignments"})
    found = {goal.name: reached for goal, reached in judged(rows)}
    assert found.pop("matching of vgg16: times the CPU") == pytest.approx(9.0)
    assert len(found) == len(GOALS) - 1 and set(found.values()) == {None}


PAIRS: dict[str, Callable[[], tuple[gpu_pairs.Shapes, lmc.PermutationSpec]]] = {
    "mlp": lambda: gpu_pairs.mlp(64, 50),
    "vgg16": lambda: gpu_pairs.vgg16(8),
    "resnet20": lambda: gpu_pairs.resnet20(16),
    "transformer": lambda: gpu_pairs.transformer(2, 64, 4, 96, 200),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_are_permuted_copies_in_noise(name: str) -> None:
    """Matching finds more than half of what a perfect one is worth, far more than there is by chance."""
    shapes, spec = PAIRS[name]()
    pair = gpu_pairs.pair_of(name, shapes, spec, torch.float32, CPU)
    match = lmc.weight_matching(pair.a, pair.b, pair.spec)
    square = sum(float(tensor.double().square().sum()) for tensor in pair.a.values())
    assert 0.5 * gpu_pairs.ALIKE < match.objective / square < 2 * gpu_pairs.ALIKE
    assert {key: tuple(tensor.shape) for key, tensor in pair.to("cpu").b.items()} == shapes


def test_llama_has_its_sizes() -> None:
    shapes, _ = gpu_pairs.llama(32)
    assert sum(math.prod(shape) for shape in shapes.values()) == 6_738_415_616


@pytest.mark.parametrize("way", ["core", "torch"])
def test_parts_of_a_matching_add_up(way: str) -> None:
    pair = gpu_pairs.pair_of("mlp", *gpu_pairs.mlp(20, 9), torch.float32, CPU)
    with by_torch() if way == "torch" else nullcontext():
        spent = where_time_goes(pair)
    whole = spent.pop("whole")
    own = {"gains", "assignments"} if way == "torch" else {"sweeps in the core"}
    assert {*own, "objective", "all else"} <= set(spent)
    assert sum(spent.values()) == pytest.approx(whole) and min(spent.values()) >= 0
    assert syncs_of(lambda: None) == {}

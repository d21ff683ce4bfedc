"""`compile` writes a row for every kernel, with a verdict, and says which targets it leaves out."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed: pip install 'lmc_fast[triton]'")

from benchmarks import compile as compile_kernels
from benchmarks.compile import LIMITS, Compiled, Variant, missing
from benchmarks.run import main

from ..forked import fork_context


def test_rows_hold_what_the_compiler_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Spawned, it would import torch and Triton again.
    context = fork_context(monkeypatch)
    monkeypatch.setattr(compile_kernels, "get_context", lambda method: context)
    command = ["compile", "--targets", "cuda 80", "--kernel", "overlap", "--processes", "1", "--out", str(tmp_path)]
    assert main(command) == 0
    with (tmp_path / "compile.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {(row["kernel"], row["target"], row["status"]) for row in rows} == {("overlap_kernel", "cuda 80", "ok")}
    for row in rows:
        assert 0 < int(row["registers"]) < 256 and 0 < int(row["shared"]) <= LIMITS["cuda 80"]
        assert row["triton"] and row["commit"]


@pytest.mark.parametrize(("shared", "spills", "status"), [(0, 8, "spills"), (1 << 20, 0, "too much shared memory")])
def test_what_does_not_fit_is_told(shared: int, spills: int, status: str) -> None:
    variant = Variant("module:kernel", "label", "cuda 80", {}, {}, (), 4, 2)
    assert compile_kernels._row(Compiled(variant, 10, shared, spills))["status"] == status


def test_a_target_younger_than_triton_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import triton

    monkeypatch.setattr(triton, "__version__", "3.2.0")
    assert missing("cuda 90") is None and missing("cuda 100") == "triton 3.3"
    assert main(["compile", "--targets", "cuda 100", "--processes", "1", "--out", str(tmp_path)]) == 0
    assert "cuda 100: not compiled, it takes triton 3.3" in capsys.readouterr().out

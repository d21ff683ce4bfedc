"""`kernels` writes rows with rates and a verdict, and a wrong result is one."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from benchmarks import kernel_works, kernels
from benchmarks.kernel_works import Work, resnet50_shapes, transformer_shapes, works
from benchmarks.kernels import KERNEL_COLUMNS, measure
from benchmarks.report import COLUMNS, Report
from benchmarks.run import main

CPU = torch.device("cpu")
LIMITS = {"GB/s": 10.0, "float32 TFLOP/s": 0.1, "bfloat16 TFLOP/s": 0.1}


@pytest.fixture(autouse=True)
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_works, "resnet50_shapes", lambda: [(8, 3, 7, 7), (8,), (6, 8)])
    monkeypatch.setattr(kernels, "COPIED", 1 << 16)
    monkeypatch.setattr(kernels, "SIDE", 32)


@pytest.mark.slow
def test_rows_hold_times_rates_and_verdicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernels", "--device", "cpu", "--sizes", "65", "--seconds", "0.01", "--out", str(tmp_path)]) == 0
    with (tmp_path / "kernels-cpu.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["family"] for row in rows} == {work.family for work in works([65], CPU)}
    for row in rows:
        assert row["status"] == "ok" and float(row["p20_ms"]) <= float(row["p50_ms"]) <= float(row["p80_ms"])
        assert float(row["gb_s"]) > 0 and float(row["tflop_s"]) > 0
    assert (tmp_path / "kernels-cpu.png").exists()
    assert "GPU: not measured" in capsys.readouterr().out


@pytest.mark.parametrize("error", [1e-3, float("nan")], ids=str)
def test_a_wrong_result_is_told(error: float, tmp_path: Path) -> None:
    work = Work("wrong", 2, torch.float32, 8, 8, {"lmc_fast": lambda: None, "other": lambda: None}, lambda: error)
    with Report(tmp_path, "kernels-cpu", (*COLUMNS, *KERNEL_COLUMNS)) as report:
        measure(work, CPU, 0.001, LIMITS, report)
    assert [row["status"][:5] for row in report.rows] == ["wrong", "ok"]


def test_shapes_have_the_models_sizes() -> None:
    def total(shapes: list[tuple[int, ...]]) -> int:
        return sum(torch.Size(shape).numel() for shape in shapes)

    statistics = sum(shape[0] for shape in resnet50_shapes() if len(shape) == 1 and shape != (1000,)) // 2
    assert total(resnet50_shapes()) - statistics == 25_557_032
    assert len(transformer_shapes(32, 4096)) == 2 + 9 * 32
    assert 6.4e9 < total(transformer_shapes(32, 4096)) < 6.8e9

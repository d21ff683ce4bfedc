"""`spectral` on small matrices: both ways to R(0) at every size and dtype that is asked for, checked by each other."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from benchmarks import spectral
from benchmarks.run import main


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "spectral.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_r_at_zero_is_measured_both_ways(tmp_path: Path) -> None:
    sizes = ["--polar-size", "16", "24", "--dtype", "float32", "float64"]
    assert main(["spectral", "--only-polar", "--processor", *sizes, "--seconds", "0", "--out", str(tmp_path)]) == 0
    rows = _rows(tmp_path)
    assert [(row["n"], row["dtype"], row["solver"]) for row in rows] == [
        (n, dtype, solver)
        for n in ("16", "24")
        for dtype in ("float32", "float64")
        for solver in ("svd", "polar", "svd", "polar")
    ]
    assert sum("tall" in row["family"] for row in rows) == 8
    assert {row["status"] for row in rows} == {"ok"} and all(float(row["relative_error"]) < 1e-5 for row in rows)


def test_all_of_it_runs_and_tells_what_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = ["spectral", "--size", "12", "--polar-size", "12", "--seconds", "0", "--out", str(tmp_path)]
    assert main(chosen) == 0
    assert [row["solver"] for row in _rows(tmp_path)] == [
        *("its SVD", "R, the first time", "R, new permutation", "svd", "polar", "svd", "largest values"),
    ]
    monkeypatch.setattr(spectral, "TOLERANCE", -1.0)
    assert main(chosen) == 1
    assert {row["status"] for row in _rows(tmp_path)} == {"ok", "wrong"}

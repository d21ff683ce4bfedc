"""`startup` on processes that import no torch: its rows, and what fails in one of them."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from benchmarks import startup
from benchmarks.run import main


def test_rows_say_what_is_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    works = {
        "python -c ''": ("print(0)", None),
        "told": ("print(0.002)", 60.0),
        "lmc-fast --version": (["--version"], None),
    }
    monkeypatch.setattr(startup, "WORKS", works)
    assert main(["startup", "--runs", "2", "--out", str(tmp_path)]) == 0
    with (tmp_path / "startup.csv").open(newline="") as file:
        rows = {row["what"]: row for row in csv.DictReader(file)}
    assert {name: row["status"] for name, row in rows.items()} == {
        "python -c ''": "",
        "told": "met",
        "lmc-fast --version": "",
    }
    # A process tells its own seconds; of others the whole is counted.
    assert float(rows["told"]["p50_ms"]) == 2.0
    assert float(rows["python -c ''"]["p50_ms"]) > 1.0


def test_a_process_that_fails_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(startup, "WORKS", {"broken": ("raise SystemExit('no such thing')", None)})
    assert main(["startup", "--runs", "2", "--out", str(tmp_path)]) == 2
    assert "no such thing" in capsys.readouterr().err

"""`lmc-fast merge`, and how it tells of itself."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from lmc_fast.cli import cli
from lmc_fast.large.reports import reporter

from . import models


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    a = models.weights(0)
    models.write_directory(tmp_path / "A", a)
    for name, seed in (("B", 1), ("C", 2)):
        models.write_directory(tmp_path / name, models.planted(a, seed)[0])
    models.spec().to_json("spec.json")
    return tmp_path


def merge(*words: str) -> Result:
    return CliRunner().invoke(cli, ["merge", *words, "--spec", "spec.json"])


def test_three_models_with_all_options(folder: Path) -> None:
    options = ["--weights", "0.5,0.25,0.25", "--freeze", "F0", "--dtype", "bfloat16", "--shard-size", "1KB"]
    done = merge("A", "B", "C", "-o", "out", *options, "--max-sweeps", "7", "--search", "coordinate_descent")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("weight matching: ") == 2
    assert "wrote out in" in done.stdout
    found = models.read_directory(folder / "out")
    assert set(found) == set(models.shapes())
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    card = (folder / "out" / "README.md").read_text(encoding="utf-8")
    assert "| C | 0.25 |" in card
    assert "at most 7 sweeps" in card
    assert "in place: F0" in card


def test_json_events_are_lines_of_their_own(folder: Path) -> None:
    done = merge("A", "B", "-o", "out", "--log", "json", "--lambda", "0.25")
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [event["event"] for event in events][-1] == "done"
    assert {event["phase"] for event in events} >= {"reading", "settling groups", "objective", "writing"}
    assert all(event["seconds_left"] >= 0 for event in events)


def test_off_says_nothing(folder: Path) -> None:
    assert merge("A", "B", "-o", "out", "--log", "off").stderr == ""


def test_notes_are_told(folder: Path) -> None:
    models.write_directory(folder / "half", models.weights(0, torch.bfloat16))
    done = merge("A", "half", "-o", "out", "--log", "off")
    assert done.stderr.startswith("lmc-fast: 'A' holds float32; 'half' holds bfloat16: sums are taken in float32")


def test_the_plan_is_printed_and_nothing_is_written(folder: Path) -> None:
    done = merge("A", "B", "--dry-run", "--ranks", "3")
    assert done.exit_code == 0, done.output
    assert "on 3 ranks" in done.stdout
    assert sorted(path.name for path in folder.iterdir()) == ["A", "B", "C", "spec.json"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["A", "-o", "out"], "two models at least are merged, got 1"),
        (["A", "B"], "an output is needed"),
        (["A", "B", "-o", "A"], "must lie apart from the inputs"),
        (["A", "B", "-o", "out", "--weights", "a,b"], "--weights takes numbers with commas between, got 'a,b'"),
        (["A", "B", "-o", "out", "--shard-size", "much"], "--shard-size takes bytes"),
        (["A", "B", "-o", "out", "--method", "am"], "method must be one of"),
        (["A", "none", "-o", "out"], "does not exist"),
    ],
    ids=["one model", "no output", "an input", "weights", "size", "method", "none"],
)
def test_bad_input_is_one_line_and_exit_code_2(folder: Path, words: list[str], message: str) -> None:
    done = merge(*words)
    assert done.exit_code == 2
    assert done.stderr.startswith("lmc-fast: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (folder / "out").exists()


def event(name: str, seconds: float, **fields: Any) -> dict[str, Any]:
    plain = {"event": name, "phase": "sweep 1", "seconds": seconds, "seconds_left": 100.0, "share": 0.5}
    return {**plain, "bytes_read": 2_500_000_000, "bytes_written": 0, **fields}


def test_lines_of_a_log_keep_apart() -> None:
    stream = io.StringIO()
    tell = reporter("text", stream)
    assert tell is not None
    tell(event("phase", 1.0))
    for second in range(2, 60):
        tell(event("progress", float(second), groups_settled=3, groups=5, units_moved=7, objective=1.25))
    tell(event("done", 60.0, bytes_written=10**9, seconds_left=0.0))
    lines = stream.getvalue().splitlines()
    assert lines == [
        "    1.0 s  sweep 1, 2.50 GB read, about 2 min left",
        "   31.0 s  sweep 1, 3 of 5 groups, 7 units moved, objective 1.25, 2.50 GB read, about 2 min left",
        "   60.0 s  sweep 1, 2.50 GB read, 1.00 GB written",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_one_line_that_is_written_over() -> None:
    stream = Terminal()
    tell = reporter("text", stream)
    assert tell is not None
    tell(event("phase", 1.0, seconds_left=20000.0))
    tell(event("progress", 2.0, seconds_left=30.0))
    tell(event("done", 3.0, seconds_left=0.0))
    first, second, last = stream.getvalue().split("\r")[1:]
    assert "about 5.5 h left" in first
    assert "about 30 s left" in second
    assert len(second) == len(first)
    assert last.endswith("\n")

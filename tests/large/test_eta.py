"""The time that is left, over whole runs on a clock that goes by the work that is done."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import run as benchmarks
from benchmarks.eta import GOAL, largest_errors
from lmc_fast.large import merge_checkpoints
from lmc_fast.large import run as runs
from lmc_fast.large.watch import Rates, Watch
from lmc_fast.large.writing import written_a_second
from lmc_fast.matching.engine import terms

from . import models

# Seconds that a run spends reading, writing and multiplying, and how many times too high the rates of reading and
# multiplying were guessed; that of writing is known by nothing but the guess until it begins.
MACHINES = {
    "slow products": ({"read": 10.0, "written": 10.0, "operations": 180.0}, 3.0),
    "fast products": ({"read": 60.0, "written": 30.0, "operations": 30.0}, 0.5),
    "slow disk": ({"read": 10.0, "written": 150.0, "operations": 20.0}, 2.0),
}


class Counting(Watch):
    """What is done, by its kind."""

    amounts: dict[str, float]

    def did(self, kind: str, amount: float, **fields: Any) -> None:
        self.amounts[kind] = self.amounts.get(kind, 0.0) + amount
        super().did(kind, amount, **fields)


def on(seconds: dict[str, float], amounts: dict[str, float], too_high: float) -> type[Watch]:
    """A watch that goes by the work, in turn a tenth slower and faster, on a machine that is other than was thought."""
    now, count = [0.0], [0]
    rates = {kind: amount / seconds[kind] for kind, amount in amounts.items()}

    class OnMachine(Watch):
        def __init__(self, tell: Any, _: Rates) -> None:
            guess = {kind: rate * (1.0 if kind == "written" else too_high) for kind, rate in rates.items()}
            super().__init__(tell, replace(Rates(), **guess), clock=lambda: now[0])

        def did(self, kind: str, amount: float, **fields: Any) -> None:
            count[0] += 1
            now[0] += amount / rates[kind] * (1.1 if count[0] % 2 else 0.9)
            super().did(kind, amount, **fields)

    return OnMachine


def events_of(
    folder: Path, paths: list[Path], machine: tuple[dict[str, float], float], patch: pytest.MonkeyPatch, **options: Any
) -> list[dict[str, Any]]:
    Counting.amounts = {}
    events: list[dict[str, Any]] = []
    for turn in range(2):
        patch.setattr(runs, "Watch", on(machine[0], Counting.amounts, machine[1]) if turn else Counting)
        merge_checkpoints(*paths, out=folder / f"out{turn}", listener=events.append if turn else None, **options)
    return events


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES.keys())
def test_it_is_right_within_its_goal_from_a_third_of_the_run_on(
    tmp_path: Path, machine: tuple[dict[str, float], float], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = [models.weights(0), *(models.planted(models.weights(0), seed)[0] for seed in range(1, count))]
    paths = [models.write_directory(tmp_path / str(k), state) for k, state in enumerate(states)]
    events = events_of(tmp_path, paths, machine, monkeypatch, spec=models.spec())
    assert len(events) > 20
    assert events[-1]["seconds"] > 100
    left, whole = largest_errors(events)
    assert left <= GOAL
    assert whole <= GOAL


def test_without_alignment_it_is_right_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [models.write_directory(tmp_path / str(k), models.weights(k)) for k in range(2)]
    machine = ({"written": 100.0}, 1.0)
    assert max(largest_errors(events_of(tmp_path, paths, machine, monkeypatch, method="none"))) <= GOAL


@pytest.mark.parametrize("least", [0, 1 << 26], ids=["tried", "too small for that"])
def test_how_fast_the_disk_is_is_tried_before_a_large_run(
    tmp_path: Path, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "WORTH_A_TRIAL", least)
    monkeypatch.setattr(runs, "written_a_second", lambda folder: written_a_second(folder) and 123.0)
    given: list[Rates] = []

    class Noting(Watch):
        def __post_init__(self) -> None:
            given.append(self.rates)
            super().__post_init__()

    monkeypatch.setattr(runs, "Watch", Noting)
    paths = [models.write_directory(tmp_path / str(k), models.weights(k)) for k in range(2)]
    merge_checkpoints(*paths, out=tmp_path / "out", method="none")
    assert [rates.written for rates in given] == [123.0 if least == 0 else Rates().written]
    assert "trial.safetensors" not in models.contents(tmp_path / "out")


def test_a_trial_of_the_disk_leaves_nothing(tmp_path: Path) -> None:
    assert 1e5 < written_a_second(tmp_path) < 1e12
    assert list(tmp_path.iterdir()) == []


def line(seconds: float, left: float, event: str = "progress") -> str:
    return json.dumps({"event": event, "seconds": seconds, "seconds_left": left})


def test_the_largest_error_is_of_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["lmc-fast: a note", line(10, 500), line(40, 75), line(80, 20), line(100, 0, "done")]
    log = tmp_path / "log"
    log.write_text("\n".join(lines), encoding="utf-8")
    assert largest_errors([json.loads(text) for text in lines[1:]]) == (pytest.approx(0.25), pytest.approx(0.15))
    assert benchmarks.main(["eta", str(log)]) == 0
    assert "off by 25% at most, 15% of all" in capsys.readouterr().out
    log.write_text(log.read_text(encoding="utf-8").replace("75", "90"), encoding="utf-8")
    assert benchmarks.main(["eta", str(log)]) == 1
    assert "off by 50% at most" in capsys.readouterr().out


def test_near_the_end_a_tenth_of_the_run_is_not_told_apart() -> None:
    events = [{"event": "progress", "seconds": 99.0, "seconds_left": 3.0}, {"event": "done", "seconds": 100.0}]
    events[1]["seconds_left"] = 0.0
    assert largest_errors(events)[0] == pytest.approx(0.2)


def test_a_log_of_a_run_that_broke_off_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log").write_text(line(1, 2), encoding="utf-8")
    assert benchmarks.main(["eta", str(tmp_path / "log")]) == 2
    assert "must be of a run that is done" in capsys.readouterr().err


def test_a_long_group_tells_of_its_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "PIECE", 16)
    monkeypatch.setattr(terms, "COLUMNS", 1)
    state = models.weights(0)
    paths = [models.write_directory(tmp_path / str(k), x) for k, x in enumerate((state, models.planted(state, 1)[0]))]
    machine = ({"read": 1.0, "written": 1.0, "operations": 1000.0}, 1.0)
    events = events_of(tmp_path, paths, machine, monkeypatch, spec=models.spec())
    # Between the end of one group and that of the next.
    settling = [event.get("groups_settled") for event in events if event["phase"] == "settling groups"]
    assert settling.count(None) > 3 * len(set(settling))
    assert max(largest_errors(events)) <= GOAL


def test_what_was_done_before_says_nothing_of_the_rest() -> None:
    now, told = [0.0], list[dict[str, Any]]()
    watch = Watch(told.append, Rates(operations=1e3), clock=lambda: now[0])
    watch.expect(operations=1e6)
    watch.begin("settling groups")
    for _ in range(9):
        now[0] += 0.1
        watch.skip("operations", 1e5, group="a")
    assert watch.seconds_left == pytest.approx(1e5 / 1e3)
    assert told[-1]["group"] == "a"
    for _ in range(50):
        now[0] += 1.0
        watch.did("operations", 1e3)
    assert watch.seconds_left == pytest.approx(5e4 / 1e3)

"""Timing takes turns, checking catches wrong answers, adapters solve, commands write rows and figures."""

from __future__ import annotations

import csv
import mmap
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import checking, fuzz, gains, lap, lap_batch, report, timing
from benchmarks.cases import Case, Problem
from benchmarks.checking import optimum_of, relative_error
from benchmarks.problems import KINDS, random_problem
from benchmarks.run import main
from benchmarks.solvers import OURS, SOLVERS, Solver, Unavailable
from benchmarks.timing import Timing, alternate

RNG = np.random.default_rng(0)
COST = RNG.random((9, 9), dtype=np.float32)


class Clock:
    """Seconds pass only while a contender runs."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, []  # type: ignore[var-annotated]

    def contender(self, name: str, seconds: float) -> Any:
        def call() -> None:
            self.now += seconds
            self.calls.append(name)

        return call


def test_contenders_take_turns_and_drop_out() -> None:
    clock = Clock()
    contenders = {"slow": clock.contender("slow", 1.0), "fast": clock.contender("fast", 0.1)}
    times = alternate(contenders, seconds=1.0, least=2, most=6, clock=lambda: clock.now)
    assert clock.calls == ["slow", "fast", *["slow", "fast", "fast", "slow"], *["fast"] * 4]
    assert times["slow"].samples == pytest.approx((1.0, 1.0))
    assert times["fast"].samples == pytest.approx((0.1,) * 6)
    assert alternate({}) == {}


def test_percentiles() -> None:
    samples = Timing(tuple(float(k) for k in range(101)))
    assert [samples.percentile(p) for p in (20, 50, 80)] == [20, 50, 80]


def test_the_peak_counts_what_was_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    timing.forget_peak()
    before = timing.resident_bytes()
    # Of the system's own: an array may be laid where the heap has room that counts already.
    with mmap.mmap(-1, 50 << 20) as block:
        for _ in range(50):
            block.write(bytes(1 << 20))
    assert 45 << 20 < timing.peak_bytes() - before < 80 << 20
    monkeypatch.setattr(timing, "_status", lambda field: None)
    assert timing.peak_bytes() == timing.resident_bytes() > before


def test_the_optimum_is_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    for maximize in (False, True):
        optimum = optimum_of(COST, maximize)
        assert optimum.gap < 1e-12
        assert optimum.scale == pytest.approx(optimum.total)
    monkeypatch.setattr(checking, "assignment_gap", lambda *given: 1.0)
    with pytest.raises(AssertionError, match="not proven"):
        optimum_of(COST, False)


def test_wrong_answers_are_seen() -> None:
    optimum = optimum_of(COST, False)
    right = SOLVERS[OURS](COST, False)()
    assert relative_error(COST, right, optimum) < 1e-15
    assert relative_error(COST, np.roll(right, 1), optimum) > 1e-3
    for wrong in (np.zeros(9, int), right[:-1], right - 1):
        assert relative_error(COST, wrong, optimum) == float("inf")


@pytest.mark.parametrize("maximize", [False, True], ids=["min", "max"])
@pytest.mark.parametrize("name", SOLVERS)
def test_adapters_that_are_installed_solve(name: str, maximize: bool) -> None:
    before = COST.copy()
    try:
        solve = SOLVERS[name](COST, maximize)
    except Unavailable as reason:
        assert SOLVERS[name].distribution in str(reason)
        assert not name.startswith((OURS, "scipy"))
        return
    assert relative_error(COST, solve(), optimum_of(COST, maximize)) <= 1e-9
    np.testing.assert_array_equal(COST, before)


@pytest.mark.parametrize("name", lap_batch.SOLVERS)
def test_batch_adapters_that_are_installed_solve(name: str) -> None:
    costs = np.random.default_rng(1).standard_normal((5, 6, 6), np.float32)
    try:
        columns = lap_batch.SOLVERS[name](costs)()
    except (ImportError, Unavailable):
        assert name not in (OURS, "scipy loop")
        return
    expected = [optimum_of(cost, False).total for cost in costs]
    assert lap_batch._totals(costs, columns) == pytest.approx(expected)


def test_a_batch_that_is_no_permutation_is_seen() -> None:
    assert np.isnan(lap_batch._totals(np.ones((2, 3, 3)), np.zeros((2, 3), int))).all()


def missing(cost: np.ndarray, maximize: bool) -> Any:
    raise ImportError("No module named 'nowhere'")


def test_compare_gives_no_time_without_a_right_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOLVERS, "liar", Solver("liar", "liar", lambda cost, maximize: lambda: np.arange(len(cost))))
    monkeypatch.setitem(SOLVERS, "absent", Solver("absent", "absent", missing))
    out: dict[str, str] = {}
    names = dict.fromkeys([OURS, "liar", "absent", "scipy"])
    rows = {row["solver"]: row for row in lap.compare(Problem(Case("uniform", 9), COST, False), names, out, 0.01, 30.0)}
    assert rows["liar"]["status"].startswith("wrong")
    assert rows["absent"]["status"] == "skipped: absent is not installed (No module named 'nowhere')"
    assert "p50_ms" not in rows["liar"]
    assert "p50_ms" not in rows["absent"]
    for name in (OURS, "scipy"):
        assert rows[name]["status"] == "ok"
        assert rows[name]["p20_ms"] <= rows[name]["p50_ms"] <= rows[name]["p80_ms"]
    assert rows[OURS]["ratio"] == 1
    assert list(out) == ["absent"]
    (line,) = lap.summary(list(rows.values()))
    assert line["fastest_peer"] == "scipy"


def test_a_slow_solver_skips_what_is_larger() -> None:
    out: dict[str, str] = {}
    problem = Problem(Case("uniform", 9), COST, False)
    names = dict.fromkeys([OURS, "scipy"])
    assert [row["status"] for row in lap.compare(problem, names, out, 0.01, 0.0)] == ["ok", "ok"]
    assert "took" in out["scipy"]
    rows = list(lap.compare(problem, names, out, 0.01, 0.0))
    assert rows[1]["status"].startswith("skipped: took")


def run(folder: Path, *arguments: str) -> list[dict[str, str]]:
    assert main([*arguments, "--out", str(folder)]) == 0
    with (folder / f"{arguments[0]}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert tuple(row) == report.COLUMNS
        assert row["commit"]
        assert row["numpy"] == np.__version__
        assert int(row["threads"]) >= 1
    return rows


def test_lap_writes_rows_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--quick", "--seconds", "0.01", "--solvers", "scipy")
    rows = run(tmp_path, "lap", "--sizes", "4", "9", "--families", "uniform", "constant", "gains-last", *options)
    # --quick leaves out what takes long.
    assert {(row["family"], row["n"]) for row in rows} == {("uniform", "4"), ("uniform", "9")}
    assert {row["status"] for row in rows} == {"ok"}
    assert "times_faster" in capsys.readouterr().out
    assert main(["plot", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.glob("*.png")} == {"lap-times.png", "lap-ratios.png"}


def test_lap_batch_writes_rows(tmp_path: Path) -> None:
    rows = run(tmp_path, "lap-batch", "--batch", "6", "--size", "5", "--seconds", "0.01")
    ours = next(row for row in rows if row["solver"] == OURS)
    assert (ours["status"], ours["batch"], ours["n"], ours["ratio"]) == ("ok", "6", "5", "1")


def test_lap_sequence_writes_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = []
    for k in range(4):
        np.save(tmp_path / f"{k}.npy", COST + np.float32(0.01 * k))
        problems.append((str(k % 2), tmp_path / f"{k}.npy"))
    monkeypatch.setattr(gains.GainStore, "run", lambda self, width: problems)
    rows = run(tmp_path / "out", "lap-sequence", "--width", "9")
    assert [row["position"] for row in rows] == [str(k) for k in range(4) for _ in range(3)]
    assert all(float(row["reads"]) > 0 for row in rows)


def test_lap_candidates_writes_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = []
    for k in range(4):
        np.save(tmp_path / f"{k}.npy", COST + np.float32(0.01 * k))
        problems.append((str(k % 2), tmp_path / f"{k}.npy"))
    monkeypatch.setattr(gains.GainStore, "run", lambda self, width: problems)
    rows = run(tmp_path / "out", "lap-candidates", "--widths", "9", "--columns", "2", "4")
    names = [f"{OURS} warm", f"{OURS} warm, 2 candidates", f"{OURS} warm, 4 candidates"]
    assert [(row["position"], row["solver"]) for row in rows] == [(k, name) for k in "23" for name in names]
    assert all(float(row["ratio"]) > 0 and row["status"] == "ok" for row in rows)
    assert "late_ratio" in capsys.readouterr().out


@pytest.mark.slow
def test_lap_memory_measures_in_a_process_of_its_own(tmp_path: Path) -> None:
    rows = run(tmp_path, "lap-memory", "--sizes", "1200", "--families", "uniform", "--solvers", OURS, "scipy")
    peaks = {row["solver"]: float(row["peak_over_matrix"]) for row in rows}
    # scipy's own float64 copy of a float32 matrix is twice its size.
    assert peaks["scipy"] > 2.5
    assert 1 <= peaks[OURS] < 2
    assert main(["plot", str(tmp_path)]) == 0
    assert (tmp_path / "lap-growth.png").exists()


def test_lap_memory_says_why_a_case_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.CompletedProcess([], 1, "", "Traceback\nMemoryError: too much\n")
    monkeypatch.setattr(subprocess, "run", lambda *given, **named: done)
    monkeypatch.setattr(report, "_commit", lambda: "here")
    assert main(["lap-memory", "--sizes", "5", "--families", "uniform", "--out", str(tmp_path)]) == 1
    with (tmp_path / "lap-memory.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["status"] == "failed: MemoryError: too much"


@pytest.mark.parametrize(
    "arguments",
    [("lap", "--data", "/nowhere.npz"), ("plot", "/nowhere"), ("lap-sequence", "--data", "/nowhere.npz")],
    ids=lambda arguments: arguments[0],
)
def test_bad_files_are_one_line(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("benchmarks: ")
    assert error.count("\n") == 1


def test_a_row_with_an_unknown_column_is_refused(tmp_path: Path) -> None:
    with report.Report(tmp_path, "lap") as rows, pytest.raises(ValueError, match="colour"):
        rows.add(colour="blue")


def test_a_run_in_pieces_keeps_its_rows(tmp_path: Path) -> None:
    for n in (1, 2):
        with report.Report(tmp_path, "lap", append=True) as rows:
            rows.add(n=n)
        assert len(rows.rows) == 1
    with (tmp_path / "lap.csv").open(newline="", encoding="utf-8") as file:
        assert [row["n"] for row in csv.DictReader(file)] == ["1", "2"]
    with pytest.raises(ValueError, match="other columns"), report.Report(tmp_path, "lap", ("n",), append=True):
        pass


def test_fuzz_draws_every_kind_and_finds_wrong_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    drawn = [random_problem(rng) for _ in range(6000)]
    assert set(KINDS) <= {problem.kind for problem in drawn}
    long = [problem.cost.shape for problem in drawn if max(problem.cost.shape) > 512]
    assert any(n == m for n, m in long)
    assert any(n < m for n, m in long)
    assert any(n > m for n, m in long)
    seen = fuzz.check_seed((0, 0), 50)
    assert sum(seen.values()) == 50
    solve = fuzz.linear_sum_assignment

    def wrong(cost: np.ndarray, maximize: bool) -> Any:
        rows, columns = solve(cost, maximize)
        return rows, np.roll(columns, 1)

    monkeypatch.setattr(fuzz, "linear_sum_assignment", wrong)
    with pytest.raises(AssertionError, match=r"seed \(0, 0\), problem \d+: .*maximize="):
        fuzz.check_seed((0, 0), 50)


@pytest.mark.slow
def test_lap_fuzz_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lap-fuzz", "--count", "1500", "--processes", "2"]) == 0
    assert "2000 problems right" in capsys.readouterr().out

"""`growth`: powers that are known come out of the fit, and the command tells and draws what it measured."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import growth
from benchmarks.growth import SERIES, Series, fitted
from benchmarks.run import main


@pytest.mark.parametrize("power", [0.0, 1.0, 2.5, -1.0])
def test_a_known_power_comes_out_exactly(power: float) -> None:
    sizes = [4, 9, 100, 1000]
    fit = fitted(sizes, [3e-4 * n**power for n in sizes])
    assert fit.exponent == pytest.approx(power, abs=1e-12) and fit.standard_error < 1e-12
    assert fit.factor == pytest.approx(3e-4)


def test_the_standard_error_is_that_of_noisy_powers() -> None:
    """Over many draws of noise exponents deviate as the errors say in the mean, and their mean is the power."""
    rng = np.random.default_rng(0)
    sizes = np.array([2.0**k for k in range(4, 12)])
    fits = [fitted(sizes, sizes**2 * np.exp(0.2 * rng.standard_normal(8))) for _ in range(2000)]
    deviation = float(np.std([fit.exponent for fit in fits]))
    assert np.mean([fit.exponent for fit in fits]) == pytest.approx(2, abs=4 * deviation / 2000**0.5)
    assert math.sqrt(np.mean([fit.standard_error**2 for fit in fits])) == pytest.approx(deviation, rel=0.05)


@pytest.mark.parametrize("sizes", [[4, 8], [4, 4, 4]], ids=str)
def test_too_few_points_are_refused(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="sizes must be three or more and not all equal"):
        fitted(sizes, [1.0] * len(sizes))


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "growth.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_every_series_runs_at_its_small_sizes(tmp_path: Path) -> None:
    assert main(["growth", "--quick", "--out", str(tmp_path)]) == 0
    assert {row["series"] for row in _rows(tmp_path) if row["exponent"]} == set(SERIES)


@pytest.mark.slow
def test_rows_hold_points_and_the_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["wm, 128 wide", "lap, planted", "merge, Llama 128 wide", "derive, nn.TransformerEncoder", "R(0), polar"]
    chosen = ["growth", "--quick", "--note", "busy", "--most", "16", "--out", str(tmp_path), "--series", *names]
    monkeypatch.setitem(SERIES, names[0], Series("layers", SERIES[names[0]].prepare, (2, 4), (1, 2, 3, 32)))
    for name in names[2:4]:
        monkeypatch.setitem(SERIES, name, Series("layers", SERIES[name].prepare, (2, 4), (1,)))
    assert main(chosen) == 0
    rows = _rows(tmp_path)
    points = [(row["series"], row["size"]) for row in rows if row["p50_ms"]]
    # Sizes above the most are left out, and two points make no line.
    assert points == [
        *((names[0], size) for size in "123"),
        (names[2], "1"),
        (names[3], "1"),
        (names[4], "16"),
    ]
    (fit,) = (row for row in rows if row["exponent"])
    assert fit["series"] == names[0] and fit["points"] == "3" and (fit["from_size"], fit["size"]) == ("1", "3")
    times = [float(row["p50_ms"]) for row in rows if row["series"] == names[0] and row["p50_ms"]]
    assert float(fit["exponent"]) == pytest.approx(fitted([1, 2, 3], times).exponent, rel=1e-3)
    assert {row["status"] for row in rows} == {"ok, busy"} and all(float(row["p50_ms"] or 1) > 0 for row in rows)
    assert (tmp_path / "growth.png").stat().st_size > 1000
    assert "exponent" in capsys.readouterr().out


def test_a_series_ends_where_a_call_took_longer_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {1: 0.5, 2: 5.0, 3: 20.0, 4: 40.0}
    monkeypatch.setattr(growth, "_timed", lambda call: call())
    series = Series("units", lambda n: lambda: seconds[n], (1, 2, 3, 4), ())
    found = list(growth._measured(series, series.sizes, 2.0, 12.0))
    assert found == [(1, [0.5] * 4), (2, [5.0] * 1), (3, [20.0])]

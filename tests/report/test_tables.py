"""Means with their spread, and tables as CSV."""

from __future__ import annotations

import csv
import io
import math
import statistics

import pytest

from lmc_fast.report.tables import Stat, Table


def test_spread_is_that_of_the_statistics_module() -> None:
    values = [0.3, 1.7, 0.2, 5.0]
    stat = Stat.of(values)
    assert stat.mean == pytest.approx(statistics.mean(values))
    assert stat.deviation == pytest.approx(statistics.stdev(values))
    assert stat.error == pytest.approx(statistics.stdev(values) / 2) and stat.n == 4


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1.0, 3.0], "2.0 ± 1.4"),
        ([0.01, 0.012], "0.0110 ± 0.0014"),
        ([100.0, 300.0], "200 ± 141"),
        ([2.0, 2.0], "2"),
        ([1e-7, 3e-7], "2e-07"),
        ([0.5], "0.5"),
    ],
)
def test_it_prints_digits_that_mean_something(values: list[float], text: str) -> None:
    assert str(Stat.of(values)) == text


def test_one_value_has_no_spread() -> None:
    stat = Stat.of([2.0])
    assert stat.mean == 2.0 and math.isnan(stat.error) and math.isnan(stat.deviation)


@pytest.mark.parametrize("values", [[], [math.nan], [1.0, math.inf]], ids=["none", "nan", "inf"])
def test_what_is_no_number_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="values must be finite, one at least"):
        Stat.of(values)


def test_csv_has_mean_deviation_error_and_count() -> None:
    table = Table("t", "T", ("name", "x", "y"), (('a, "b"', Stat.of([1.0, 2.0]), 3), ("c", "", 4)))
    first, second = csv.DictReader(io.StringIO(table.csv()))
    assert first["name"] == 'a, "b"' and float(first["x mean"]) == 1.5 and first["x n"] == "2" and first["y"] == "3"
    assert float(first["x error"]) == pytest.approx(0.5) and float(first["x deviation"]) == pytest.approx(0.5**0.5)
    assert second["x mean"] == "" and second["y"] == "4"


def test_a_short_row_is_refused() -> None:
    with pytest.raises(ValueError, match="2 cells for 1 columns"):
        Table("t", "T", ("x",), ((1, 2),))

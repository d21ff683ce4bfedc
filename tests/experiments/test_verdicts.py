"""Comparisons by Student's t: what scipy says of the same samples, and the words that follow."""

from __future__ import annotations

import math

import pytest

from lmc_fast.experiments.paper.verdicts import LEVEL, Part, Verdict
from lmc_fast.report.tables import Stat

SAMPLES = {
    "three-near": [1.0, 2.0, 3.0],
    "three-far": [1.9, 2.0, 2.1],
    "five": [0.3, 1.7, 0.2, 5.0, 2.2],
    "two": [0.4, 0.6],
    "negative": [-0.1, -0.2, -0.4, -0.15],
}


@pytest.mark.parametrize("above", [True, False], ids=["above", "below"])
@pytest.mark.parametrize("threshold", [-0.2, 0.0, 1.0])
@pytest.mark.parametrize("values", SAMPLES.values(), ids=SAMPLES.keys())
def test_p_is_that_of_the_t_test(values: list[float], threshold: float, above: bool) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.ttest_1samp(values, threshold, alternative="greater" if above else "less").pvalue
    part = Part("x", Stat.of(values), threshold, above)
    assert part.p == pytest.approx(float(expected), rel=1e-9)
    assert part.holds is bool(expected < LEVEL)
    mean = sum(values) / len(values)
    assert part.right is (mean > threshold if above else mean < threshold)


def test_three_trials_need_more_than_two_standard_errors() -> None:
    """The mean lies 3.5 of them beyond: with three trials chance does that in 3.6 % of all cases, with six in 0.9 %."""
    few, more = ([7.0 + step for step in steps] for steps in ([-2, 0, 2], [-2.738613, 0, 2.738613] * 2))
    for values, holds in ((few, False), (more, True)):
        stat = Stat.of(values)
        part = Part("x", stat, stat.mean - 3.5 * stat.error)
        assert part.holds is holds and part.right


@pytest.mark.parametrize(("threshold", "p"), [(1.0, 0.0), (2.0, 1.0), (3.0, 1.0)])
def test_equal_values_leave_no_doubt(threshold: float, p: float) -> None:
    part = Part("x", Stat.of([2.0, 2.0]), threshold)
    assert part.p == p and part.holds is (p == 0.0)


def part(*values: float, threshold: float = 0.0) -> Part:
    return Part("x", Stat.of(values), threshold)


@pytest.mark.parametrize(
    ("parts", "state", "said"),
    [
        ((part(1.0, 1.1, 0.9), part(2.0, 2.1, 2.2)), "yes", "MLP: holds (weakest part p = 0.002, 3 trials)"),
        ((part(1.0, 1.1, 0.9), part(-0.5, 1.0, 1.5)), "open", "MLP: is not settled here (weakest part p = 0."),
        ((part(1.0, 1.1, 0.9), part(-1.0, -1.1, 0.5)), "no", "MLP: does not hold here (weakest part p = 0.79"),
        ((part(1.0),), "open", "MLP: is not settled here (weakest part one trial settles nothing, 1 trial)"),
        ((part(-1.0),), "no", "MLP: does not hold here (weakest part one trial settles nothing, 1 trial)"),
        ((part(1.0, 1.0),), "yes", "MLP: holds (weakest part p < 0.001, 2 trials)"),
        ((), "no", "MLP: does not hold here (nothing was measured)"),
    ],
    ids=["every-part", "too-few-trials", "wrong-side", "one-trial", "one-trial-wrong", "equal", "nothing"],
)
def test_verdicts(parts: tuple[Part, ...], state: str, said: str) -> None:
    verdict = Verdict("MLP", parts)
    assert verdict.state == state and verdict.holds is (state == "yes")
    assert verdict.line.startswith(said)


def test_a_part_says_where_its_threshold_comes_from() -> None:
    text = str(Part("share", Stat.of([0.1, 0.2, 0.3]), 0.9, False, "table 1"))
    assert text == "share: 0.20 ± 0.10, must be below 0.9 (table 1); p = 0.003"
    assert math.isnan(part(1.0).p) and str(part(1.0)).endswith("; one trial settles nothing")

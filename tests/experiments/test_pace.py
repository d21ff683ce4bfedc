"""What is told of the time left: by the pace of stages of each sort, to the end of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmc_fast.experiments.datasets import digits
from lmc_fast.experiments.paper import quick_settings, standard_settings
from lmc_fast.experiments.paper.stages import Stage, Workshop
from lmc_fast.experiments.paper.terminal import Pace, _said


def stage(name: str, sort: str, cost: float) -> Stage:
    return Stage(name, name, sort, cost, lambda hook: {})


class Clock:
    """Goes as it is told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_nothing_is_told_before_anything_is_done() -> None:
    pace = Pace(Clock())
    first = stage("a", "x", 1.0)
    pace.begin(first)
    assert pace.left([first]) is None


@pytest.mark.parametrize("beside", [1, 2], ids=["alone", "side-by-side"])
def test_sorts_keep_their_own_pace(beside: int) -> None:
    """Stages of one sort take twice what they were thought to cost, of the other a tenth: no third of a run is off."""
    clock = Clock()
    pace = Pace(clock)
    stages = [stage(f"big{k}", "big", 10.0) for k in range(4)] + [stage(f"small{k}", "small", 5.0) for k in range(40)]
    taken = {"big": 2.0, "small": 0.1}
    whole = sum(each.cost * taken[each.sort] for each in stages) / beside
    left = list(stages)
    while left:
        now = left[:beside]
        for each in now:
            pace.begin(each)
        clock.now += now[0].cost * taken[now[0].sort]
        for each in now:
            assert pace.end(each) == pytest.approx(each.cost * taken[each.sort])
        left = left[beside:]
        if len(left) < 38:
            told = pace.left(left)
            assert told is not None and told == pytest.approx(whole - (clock.now - 100.0), abs=1e-6)


def test_what_a_stage_has_done_of_its_work_counts() -> None:
    clock = Clock()
    pace = Pace(clock)
    done, open_ = stage("a", "x", 4.0), stage("b", "x", 4.0)
    pace.begin(done)
    clock.now += 8.0
    pace.end(done)
    pace.begin(open_)
    clock.now += 3.0
    assert pace.left([open_]) == pytest.approx(5.0)
    clock.now += 30.0
    assert pace.left([open_]) == 0.0


def test_many_beside_each_other_take_as_long_as_the_longest() -> None:
    clock = Clock()
    pace = Pace(clock)
    both = [stage("a", "x", 1.0), stage("b", "x", 1.0)]
    for each in both:
        pace.begin(each)
    clock.now += 1.0
    for each in both:
        pace.end(each)
    assert pace.left([stage("c", "x", 10.0), stage("d", "x", 1.0)]) == pytest.approx(10.0)


def test_what_is_said() -> None:
    assert _said(None) == _said(0.0) == ""
    assert _said(40.4) == ", about 40 s" and _said(190.0) == ", about 3 min"


@pytest.mark.parametrize("settings", [quick_settings, standard_settings], ids=["quick", "standard"])
def test_models_are_trained_once(settings: object, tmp_path: Path) -> None:
    """A sweep passes through the first network's own recipe: its models are there by then, and cost nothing more."""
    stages = Workshop(settings(0, True), digits(), tmp_path).stages  # type: ignore[operator]
    assert all(each.cost > 0 for each in stages.values())
    base = max(float(name.split("-")[1]) for name in stages if name.startswith("width-") and name.endswith("-0"))
    trained, known = stages["learning_rate-0.0005-0"].cost, stages["learning_rate-0.002-0"].cost
    assert known < trained / 3 and base >= 256
    assert {each.sort for each in stages.values()} >= {"MLP", " pair", "transformers"}

"""Work that is counted, and the time that is left."""

from __future__ import annotations

from typing import Any

import pytest

from lmc_fast.large.watch import Rates, Watch


class Clock:
    """Time that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_time_left_follows_what_the_run_does() -> None:
    clock, told = Clock(), list[dict[str, Any]]()
    watch = Watch(told.append, Rates(read=1e9, written=1e9, operations=1e12), clock=clock)
    watch.expect(operations=1e14, read=1e9)
    watch.begin("products", groups=3)
    assert watch.seconds_left == pytest.approx(101)
    # Ten times as slow as was thought.
    for _ in range(100):
        clock.now += 1.0
        watch.did("operations", 1e11, group="a")
    assert watch.seconds_left == pytest.approx(9e13 / (1.1e13 / 101) + 1)
    assert 0.8 * 900 < watch.seconds_left < 1.2 * 900
    watch.end(out="x")
    assert watch.seconds_left == 0
    assert [event["event"] for event in told] == ["phase", *["progress"] * 100, "done"]
    assert told[0]["groups"] == 3
    assert told[50]["group"] == "a"
    assert told[50]["seconds"] == 50
    assert told[-1]["out"] == "x"
    assert told[-1]["share"] == 1.0


def test_reports_keep_apart() -> None:
    clock, told = Clock(), list[dict[str, Any]]()
    watch = Watch(told.append, clock=clock)
    watch.begin("reading")
    for _ in range(100):
        clock.now += 0.1
        watch.did("read", 1000)
    assert 15 < len(told) < 25
    assert told[-1]["bytes_read"] > 90_000


def test_more_work_than_was_known_of_is_no_time_gained() -> None:
    watch = Watch()
    watch.expect(written=10)
    watch.did("written", 100)
    assert watch.seconds_left == 0

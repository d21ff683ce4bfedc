"""What is around every test: what its worker tells, the seed, and what is looked through for what has gone."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from . import conftest

TOLD: dict[str, tuple[str, dict[str, Any], bool]] = {
    "begun": ("logstart", {"nodeid": "x"}, False),
    "set up": ("testreport", {"when": "setup"}, False),
    "cleaned up after": ("testreport", {"when": "teardown"}, False),
    "passed": ("testreport", {"when": "call"}, True),
    "skipped": ("testreport", {"when": "setup", "outcome": "skipped"}, True),
    "not cleaned up after": ("testreport", {"when": "teardown", "outcome": "failed"}, True),
    "set up slowly": ("testreport", {"when": "setup", "duration": conftest.SLOW}, True),
    "set up with words": ("testreport", {"when": "setup", "sections": [("out", "words")]}, True),
    "ended": ("logfinish", {"nodeid": "x"}, True),
}


@pytest.mark.parametrize(("name", "data", "sent"), TOLD.values(), ids=TOLD.keys())
def test_workers_tell_what_counts(name: str, data: dict[str, Any], sent: bool) -> None:
    said: list[tuple[str, dict[str, Any]]] = []
    interactor = SimpleNamespace(sendevent=lambda name, **told: said.append((name, told)))
    manager = SimpleNamespace(get_plugins=lambda: [object(), interactor])
    conftest.pytest_sessionstart(SimpleNamespace(config=SimpleNamespace(pluginmanager=manager)))  # type: ignore[arg-type]
    told = {"data": {"outcome": "passed", "duration": 0.0, "sections": [], **data}} if name == "testreport" else data
    interactor.sendevent(name, **told)
    assert said == ([(name, told)] if sent else [])


@pytest.mark.parametrize("again", [1, 2])
def test_each_test_draws_the_same(again: int) -> None:
    assert torch.initial_seed() == 0
    assert torch.equal(torch.randn(3), torch.randn(3, generator=torch.Generator().manual_seed(0)))


def test_what_the_tests_leave_is_looked_through() -> None:
    """Not while they are collected, and all the same afterwards."""
    assert gc.isenabled() and gc.get_threshold() == conftest.COLLECTED and gc.get_freeze_count() > 10_000

"""Of many cases of one kind: the few that every run tries. The others take long, and show up with --slow."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

__all__ = ["slow_but"]


def slow_but(cases: Iterable[Any], quick: Callable[[Any], bool]) -> list[Any]:
    """All of these, for `parametrize`, the slow ones marked: those that are not `quick`.

    Tuples are the values of several arguments.
    """
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=[] if quick(case) else [pytest.mark.slow])
        for case in cases
    ]

"""The caller's modes: a public function gives the same result under any of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["as_caller", "neutral"]

F = TypeVar("F", bound=Callable[..., object])


def neutral(function: F) -> F:
    """Let a public function run with gradients on, no autocast, and torch's own defaults, whatever the caller's."""
    return function


@contextmanager
def as_caller() -> Iterator[None]:
    """Around a call of the caller's own code (a forward pass, a loss): the caller's default dtype and device."""
    yield

"""Argument checks with one voice: every message names the argument, what it takes, and what it got."""

from __future__ import annotations

import math
from typing import Any, NoReturn

__all__ = ["check_finite", "check_floats", "check_int", "check_type", "describe", "fail_type", "fail_value"]


def describe(value: object) -> str:
    """Say in a few words what `value` is: its shape for arrays, its repr for small things, else its type."""
    kind = type(value).__name__
    # Of these torch tells no shape.
    if getattr(value, "is_nested", False):
        return f"a nested {kind}"
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        return f"a {kind} of shape {tuple(shape)} and dtype {dtype}"
    if isinstance(value, (str, int, float, bool, type(None))):
        text = repr(value)
        return text if len(text) <= 80 else f"a {kind} of length {len(text)}"
    return f"a {kind}"


def fail_type(argument: str, takes: str, got: object) -> NoReturn:
    """Raise the TypeError for an argument of the wrong kind."""
    raise TypeError(f"{argument} must be {takes}, got {describe(got)}")


def fail_value(argument: str, takes: str, got: object) -> NoReturn:
    """Raise the ValueError for an argument of the right kind and a wrong shape or value."""
    raise ValueError(f"{argument} must be {takes}, got {describe(got)}")


def check_type(argument: str, value: object, types: type | tuple[type, ...], takes: str) -> None:
    """Raise TypeError unless `value` is an instance of `types`."""
    if not isinstance(value, types):
        fail_type(argument, takes, value)


def check_int(argument: str, value: Any, minimum: int) -> int:
    """Return `value` as an int; TypeError unless it is a whole number (no bool), ValueError below `minimum`."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        fail_type(argument, f"a whole number of at least {minimum}", value)
    number = int(value.__index__())
    if number < minimum:
        fail_value(argument, f"a whole number of at least {minimum}", number)
    return number


def check_finite(argument: str, value: Any) -> float:
    """Return `value` as a float; TypeError unless it is a real number, ValueError if it is nan or infinite."""
    if isinstance(value, bool) or not (hasattr(value, "__float__") or hasattr(value, "__index__")):
        fail_type(argument, "a finite number", value)
    try:
        number = float(value)
    except OverflowError:
        fail_value(argument, "a finite number", "a number beyond the range of float64")
    if not math.isfinite(number):
        fail_value(argument, "a finite number", number)
    return number


def check_floats(argument: str, values: Any) -> list[float]:
    """Return a sequence, an array or a tensor of one dimension as finite floats; TypeError for anything else."""
    takes = "a sequence of finite numbers"
    if isinstance(values, (str, bytes, dict)) or not hasattr(values, "__iter__") or not hasattr(values, "__len__"):
        fail_type(argument, takes, values)
    if getattr(values, "ndim", 1) != 1:
        fail_value(argument, takes, values)
    return [check_finite(f"{argument}[{i}]", value) for i, value in enumerate(values)]

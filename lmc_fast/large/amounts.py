"""Amounts as people read them."""

from __future__ import annotations

import math

__all__ = ["duration", "in_bytes", "short"]


def short(number: float) -> str:
    """A number with the letter of its thousands, before a unit."""
    for step, name in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= step:
            return f"{number / step:.3g} {name}"
    return f"{number:.3g} "


def in_bytes(count: float) -> str:
    """A number of bytes."""
    size = float(count)
    for name in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.3g} {name}"
        size /= 1024
    return f"{size:.4g} TiB"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 90:
        return f"{max(1, math.ceil(seconds))} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"

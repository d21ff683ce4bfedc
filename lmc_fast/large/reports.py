"""How a long run tells of itself: lines of text, one that is written over on a terminal, or JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TextIO

__all__ = ["reporter"]

# Seconds between two lines of text within a phase, where a line stays.
PAUSE = 30.0


def reporter(kind: str, stream: TextIO) -> Callable[[dict[str, Any]], None] | None:
    """A listener for a run's events.

    Args:
        kind: "text", "json" (one object a line) or "off".
        stream: where it writes.
    """
    if kind == "off":
        return None
    if kind == "json":
        return lambda event: print(json.dumps(event), file=stream, flush=True)
    return _Text(stream)


class _Text:
    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.over = stream.isatty()
        self.told = -PAUSE
        self.width = 0

    def __call__(self, event: dict[str, Any]) -> None:
        line = _line(event)
        is_done = event["event"] == "done"
        if self.over:
            self._write("\r" + line.ljust(self.width) + ("\n" if is_done else ""))
            self.width = len(line)
        elif event["event"] != "progress" or event["seconds"] - self.told >= PAUSE:
            self.told = event["seconds"]
            self._write(line + "\n")

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


def _line(event: dict[str, Any]) -> str:
    parts = [f"{event['seconds']:7.1f} s  {event['phase']}"]
    if "groups_settled" in event:
        parts.append(f"{event['groups_settled']} of {event['groups']} groups")
    if event.get("units_moved"):
        parts.append(f"{event['units_moved']} units moved")
    if "objective" in event:
        parts.append(f"objective {event['objective']:.6g}")
    parts.append(f"{event['bytes_read'] / 1e9:.2f} GB read")
    if event["bytes_written"]:
        parts.append(f"{event['bytes_written'] / 1e9:.2f} GB written")
    if event["seconds_left"] >= 1:
        parts.append(f"about {_duration(event['seconds_left'])} left")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{round(seconds)} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"

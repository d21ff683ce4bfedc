"""`eta`: how far the times that a run expected were from what it took, by its log (`lmc-fast merge --log json`)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["largest_errors", "register"]

# From this share of the run on times are to be right, to within `GOAL` of what is left.
FROM, GOAL = 1 / 3, 0.3
# Less than this share of the run is not told apart.
LEAST = 0.1


def register(commands: argparse._SubParsersAction) -> None:
    """Add `eta`."""
    parser = commands.add_parser("eta", help=__doc__)
    parser.add_argument("logs", nargs="+", type=Path, metavar="LOG", help="a log, one event a line; - for the input")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `eta`; 1 if a time was further off than it may be."""
    worst = 0.0
    for path in arguments.logs:
        lines = sys.stdin if str(path) == "-" else path.read_text(encoding="utf-8").splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{")]
        left, whole = largest_errors(events)
        total = events[-1]["seconds"]
        print(f"{path}: {total:.1f} s; from a third on the time left was off by {left:.0%} at most, {whole:.0%} of all")
        worst = max(worst, left)
    return int(worst > GOAL)


def largest_errors(events: Iterable[Mapping[str, Any]], since: float = FROM) -> tuple[float, float]:
    """The largest error of the time left, as a share of that (or of a tenth of the run), and as a share of the run.

    Args:
        events: of one run, to its end.
        since: from this share of the run on.
    """
    every = list(events)
    if not every or every[-1]["event"] != "done":
        raise ValueError("events must be of a run that is done")
    total = every[-1]["seconds"]
    errors = [
        (abs(event["seconds_left"] - (total - event["seconds"])), total - event["seconds"])
        for event in every
        if event["seconds"] >= since * total
    ]
    return (
        max(error / max(left, LEAST * total, 1e-9) for error, left in errors),
        max(error / max(total, 1e-9) for error, _ in errors),
    )

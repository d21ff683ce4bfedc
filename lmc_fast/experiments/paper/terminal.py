"""What a person at a terminal sees of a run: two bars, or lines in a log."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from .stages import Hook, Stage

__all__ = ["Pace", "Watch"]


class Pace:
    """Tells how long is left from how long stages of each sort took for what they were thought to cost.

    Args:
        clock: in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began: dict[str, float] = {}
        self._beside = 1
        # By sort: how many seconds were taken, and what they were thought to be.
        self._taken: dict[str, tuple[float, float]] = {}

    def begin(self, stage: Stage) -> None:
        """A stage is worked on from now on, beside those that are open."""
        self._began[stage.name] = self._clock()
        self._beside = max(self._beside, len(self._began))

    def end(self, stage: Stage) -> float:
        """A stage is done; returns how long it took."""
        seconds = self._clock() - self._began.pop(stage.name)
        before = self._taken.get(stage.sort, (0.0, 0.0))
        self._taken[stage.sort] = before[0] + seconds, before[1] + stage.cost
        return seconds

    def left(self, stages: Sequence[Stage]) -> float | None:
        """Seconds until all of these are done, open ones included; None while nothing is done."""
        if not self._taken:
            return None
        taken, cost = (sum(part) for part in zip(*self._taken.values(), strict=True))
        paces = {sort: of[0] / of[1] for sort, of in self._taken.items()}
        now = self._clock()
        each: list[float] = []
        for stage in stages:
            whole = stage.cost * paces.get(stage.sort, taken / cost)
            each.append(max(0.0, whole - (now - self._began.get(stage.name, now))))
        # No shorter than the longest, however many are worked on side by side.
        return max(math.fsum(each) / self._beside, max(each, default=0.0))


def _said(seconds: float | None) -> str:
    if not seconds:
        return ""
    return f", about {seconds / 60:.0f} min" if seconds >= 90 else f", about {seconds:.0f} s"


class Watch:
    """Bars on stderr for all stages and for the work at hand; where that is no terminal, a line for each stage."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._is_terminal = sys.stderr.isatty()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            transient=True,
            disable=not self._is_terminal,
        )
        self._pace = Pace()
        self._spent = 0.0
        self._first = 0.0
        self._all = self._bar.add_task("starting", total=None, left="")

    def __enter__(self) -> Watch:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, note: str) -> None:
        """A line above the bars."""
        self._console.print(note, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, stage: Stage, left: Sequence[Stage]) -> Iterator[Hook]:
        """Show one stage; `left` holds all that are not done: at first it as well, at the end not any more."""
        self._first = self._first or sum(each.cost for each in left)
        eta = _said(self._pace.left(left))
        self._bar.update(
            self._all, total=self._first, completed=self._spent, description=stage.title, left=f"{len(left)} left{eta}"
        )
        task = self._bar.add_task("", total=None, left="")
        self._pace.begin(stage)
        try:
            yield lambda work: self._hook(task, work)
        finally:
            self._bar.remove_task(task)
        seconds = self._pace.end(stage)
        self._spent += stage.cost
        if not self._is_terminal:
            eta = _said(self._pace.left(left))
            self.say(f"{stage.title}: {seconds:.0f} s; {len(left)} stages left{eta}")

    def _hook(self, task: object, work: str) -> Callable[[str, int, int], None]:
        self._bar.reset(task, total=None, description=f"  {work}")  # type: ignore[arg-type]

        def hook(description: str, done: int, total: int) -> None:
            self._bar.update(task, completed=done, total=total or None)  # type: ignore[arg-type]

        return hook

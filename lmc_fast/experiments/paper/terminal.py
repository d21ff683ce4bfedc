"""What a person at a terminal sees of a run: two bars, or lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from .stages import Hook, Stage

__all__ = ["Watch", "remaining"]


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
        self._began = time.perf_counter()
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
        costs = sum(each.cost for each in left)
        self._first = self._first or costs
        eta = remaining(time.perf_counter() - self._began, self._spent, costs)
        self._bar.update(
            self._all, total=self._first, completed=self._spent, description=stage.title, left=f"{len(left)} left{eta}"
        )
        began, task = time.perf_counter(), self._bar.add_task("", total=None, left="")
        try:
            yield lambda work: self._hook(task, work)
        finally:
            self._bar.remove_task(task)
        self._spent += stage.cost
        if not self._is_terminal:
            eta = remaining(time.perf_counter() - self._began, self._spent, sum(each.cost for each in left))
            self.say(f"{stage.title}: {time.perf_counter() - began:.0f} s; {len(left)} stages left{eta}")

    def _hook(self, task: object, work: str) -> Callable[[str, int, int], None]:
        self._bar.reset(task, total=None, description=f"  {work}")  # type: ignore[arg-type]

        def hook(description: str, done: int, total: int) -> None:
            self._bar.update(task, completed=done, total=total or None)  # type: ignore[arg-type]

        return hook


def remaining(seconds: float, spent: float, left: float) -> str:
    """How long `left` of the cost takes, as `spent` of it took `seconds`; nothing before anything is done."""
    if spent <= 0 or left <= 0:
        return ""
    about = seconds / spent * left
    return f", about {about / 60:.0f} min" if about >= 90 else f", about {about:.0f} s"

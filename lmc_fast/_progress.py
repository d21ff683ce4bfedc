"""Progress of long work: one argument, `progress=`, that means the same everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from ._checks import fail_type
from ._extras import require

__all__ = ["Logger", "Progress", "tracking"]


@runtime_checkable
class Logger(Protocol):
    """What keeps the numbers of long work: anything with this method may be given as `progress=`."""

    def on_step(self, work: str, step: int, total: int, values: Mapping[str, float]) -> None:
        """Called after every step.

        Args:
            work: what is done ("weight matching", "straight-through", "Sinkhorn", "learning", "barrier", ...). One
                call may do several things, each of which counts its own steps.
            step: how many steps are done, from 1.
            total: of how many at most; 0 where that is not known.
            values: numbers by name, such as "loss", "moved" or "lambda"; empty where there are none to tell.
        """


# False: silent. True: a bar on stderr (needs rich). A function: called with (what is done, steps done, steps in all).
# A `Logger` gets the numbers; one that can be called as well is told both.
Progress = bool | Callable[[str, int, int], None] | Logger


class Advance(Protocol):
    """Tells that a step is done, with a note for a person and numbers for a logger."""

    def __call__(self, note: str, **values: float) -> None: ...


@contextmanager
def tracking(progress: Progress, description: str, total: int) -> Iterator[Advance]:
    """Yield `advance(note, **values)`, to be called after every step of `total`.

    Raises:
        TypeError: `progress` is neither a bool nor callable nor a `Logger`.
        ImportError: True without rich; the message names the extra that brings it.
    """
    if callable(progress) or isinstance(progress, Logger):
        yield _Counter(progress, description, total)
    elif progress is True:
        console = require("rich.console", "cli").Console(stderr=True)
        with require("rich.progress", "cli").Progress(console=console, transient=True) as bar:
            task = bar.add_task(description, total=total)
            yield lambda note, **_: bar.update(task, advance=1, description=f"{description} {note}".rstrip())
    elif progress is False:
        yield lambda note, **_: None
    else:
        takes = "a bool or a function (description, done, total), or a Logger (with a method on_step)"
        fail_type("progress", takes, progress)


class _Counter:
    def __init__(self, hook: Callable[[str, int, int], None] | Logger, description: str, total: int) -> None:
        self.hook, self.description, self.total, self.done = hook, description, total, 0

    def __call__(self, note: str, **values: float) -> None:
        self.done += 1
        if isinstance(self.hook, Logger):
            self.hook.on_step(self.description, self.done, self.total, values)
        if callable(self.hook):
            self.hook(f"{self.description} {note}".rstrip(), self.done, self.total)

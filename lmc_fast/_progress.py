"""Progress of long work: one argument, `progress=`, that means the same everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ._checks import fail_type
from ._extras import require

__all__ = ["Progress", "tracking"]

# False: silent. True: a bar on stderr (needs rich). A function: called with (what is done, steps done, steps in all).
Progress = bool | Callable[[str, int, int], None]


@contextmanager
def tracking(progress: Progress, description: str, total: int) -> Iterator[Callable[[str], None]]:
    """Yield `advance(note)`, to be called after every step of `total`.

    Raises:
        TypeError: `progress` is neither a bool nor callable.
        ImportError: True without rich; the message names the extra that brings it.
    """
    if callable(progress):
        yield _Counter(progress, description, total)
    elif progress is True:
        console = require("rich.console", "cli").Console(stderr=True)
        with require("rich.progress", "cli").Progress(console=console, transient=True) as bar:
            task = bar.add_task(description, total=total)
            yield lambda note: bar.update(task, advance=1, description=f"{description} {note}".rstrip())
    elif progress is False:
        yield lambda note: None
    else:
        fail_type("progress", "a bool or a function (description, done, total)", progress)


class _Counter:
    def __init__(self, hook: Callable[[str, int, int], None], description: str, total: int) -> None:
        self.hook, self.description, self.total, self.done = hook, description, total, 0

    def __call__(self, note: str) -> None:
        self.done += 1
        self.hook(f"{self.description} {note}".rstrip(), self.done, self.total)

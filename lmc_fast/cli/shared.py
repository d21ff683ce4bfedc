"""What commands have in common: errors in one line, bars, and errors that name the file they are of."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .._signals import stop_of, tell

if TYPE_CHECKING:
    from torch import Tensor

    from ..symmetry import PermutationSpec

__all__ = ["Stages", "naming_the_spec", "one_line_errors"]


@contextmanager
def one_line_errors(if_stopped: str = "") -> Iterator[None]:
    """Turn what bad input raises into one line on stderr and exit code 2, and a signal to stop into another.

    Args:
        if_stopped: what is said in addition where the command was stopped.
    """
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        click.echo(f"lmc-fast: {_line(error)}", err=True)
        sys.exit(2)
    except KeyboardInterrupt as error:
        sys.exit(tell(stop_of(error), if_stopped))


def _line(error: Exception) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.filename!r}: {error.strerror}"
    return " ".join(text.split())


@contextmanager
def naming_the_spec(path: Path, spec: PermutationSpec, tensors: dict[str, Tensor]) -> Iterator[None]:
    """Have an error that is the spec's name its file."""
    try:
        yield
    except ValueError as error:
        try:
            spec.bind(tensors)
        except ValueError as of_spec:
            if str(of_spec) == str(error):
                raise ValueError(f"spec {str(path)!r}: {error}") from None
        raise


class Stages:
    """One progress bar a piece of work, on stderr; finished ones go away."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            # Lines of a log file are no place for a bar.
            disable=not sys.stderr.isatty(),
        )

    def __enter__(self) -> Stages:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, case: str, work: str) -> Callable[[str, int, int], None]:
        """A hook that shows one piece of work."""
        for task in self._bar.task_ids:
            self._bar.remove_task(task)
        task = self._bar.add_task(f"{case}: {work}", total=None)

        def hook(description: str, done: int, total: int) -> None:
            self._bar.update(task, completed=done, total=total or None, description=f"{case}: {work}: {description}")

        return hook

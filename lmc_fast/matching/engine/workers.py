"""A few threads for work that gives up the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["SideBySide"]

T = TypeVar("T")


class SideBySide:
    """As many workers as torch has threads, started when they are first needed."""

    def __init__(self) -> None:
        self.threads = torch.get_num_threads()
        self._pool: ThreadPoolExecutor | None = None

    def share(self, tasks: int) -> int:
        """How many threads each of so many tasks may use."""
        return max(1, self.threads // max(1, tasks))

    def run(self, tasks: Sequence[Callable[[], T]]) -> list[T]:
        """The results of all tasks, in their order. What a task raises is raised here."""
        if len(tasks) == 1 or self.threads == 1:
            return [task() for task in tasks]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="lmc_fast")
        return [future.result() for future in [self._pool.submit(task) for task in tasks]]

    def __enter__(self) -> SideBySide:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            # An interrupt does not wait for what is still being solved; that ends by itself, and is thrown away.
            self._pool.shutdown(wait=False, cancel_futures=True)

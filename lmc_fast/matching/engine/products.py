"""Products that gains are summed from, on a CPU: by torch, or by a few threads of one's own that then rest.

Threads among which torch shares out a product stay on their cores for milliseconds after it, in case there is more to
do. Where a machine has few cores, what lays out the next operands (see `ops.laid_out`) finds them taken, and does by
one thread what is work for all; and where others want the cores too, each small operation waits until all of torch's
threads have had their turn. Threads that wait for the next product asleep leave the cores free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

__all__ = ["Products", "at_most", "threads_for"]

# Of fewer units for each of its threads than this, a product on a CPU comes out by how many threads there are.
UNITS_A_THREAD = 64
# To wake more threads than these, one after another, takes longer than they save.
FEW = 4
# Operations that end before another thread is awake.
SMALL = 2e7


class Products:
    """Adds products of matrices to a sum, by as many threads as torch has.

    Args:
        by_rows: whether a few threads take some rows of a sum each; else torch shares out each operation.
    """

    def __init__(self, by_rows: bool = False) -> None:
        self.by_rows = by_rows
        self._pool: ThreadPoolExecutor | None = None

    def add(self, gain: Tensor, a: Tensor, b: Tensor, is_new: bool) -> None:
        """Put A B^T in the place of what `gain` holds, if that is new, or add it.

        Args:
            gain: [units of a, units of b], is written to.
            a, b: [units, entries], of the dtype of `gain`.
        """
        work = 2.0 * len(a) * len(b) * a.shape[1]
        self.over_rows(gain, partial(_add, gain, a, b, 0 if is_new else 1), work)

    def over_rows(self, tensor: Tensor, task: Callable[[slice], None], work: float) -> None:
        """Do a task on all rows of a tensor, some by each of a few threads, or all at once.

        Args:
            tensor: what is written to.
            task: called with rows; operations of torch's are done by one thread in it, where there are several calls.
            work: operations that it takes for all rows.

        Raises:
            what the task raises, when all calls have ended.
        """
        threads = torch.get_num_threads()
        if not self.by_rows or not 1 < threads <= FEW or tensor.device.type != "cpu":
            task(slice(None))
            return
        # Whole numbers of UNITS_A_THREAD each, but for the last.
        rows = max(UNITS_A_THREAD, len(tensor) // threads // UNITS_A_THREAD * UNITS_A_THREAD)
        starts = [0] if work < SMALL else list(range(0, len(tensor), rows))[:threads]
        parts = [slice(start, None if start == starts[-1] else start + rows) for start in starts]
        under_way: list[Future[None]] = []
        with at_most(1):
            try:
                under_way += (self._threads().submit(_by_one, task, some) for some in parts[1:])
                task(parts[0])
            finally:
                # What they write to must be there until they end.
                wait(under_way)
        for each in under_way:
            each.result()

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(FEW - 1, "lmc_fast products")
        return self._pool


@contextmanager
def at_most(threads: int) -> Iterator[None]:
    """No more threads of torch's than these; others are affected as well, in what they begin meanwhile."""
    found = torch.get_num_threads()
    if found <= threads:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(found)


def threads_for(units: int) -> int:
    """How many threads a product of so many units may have at most to come out the same by any number of them."""
    return max(1, units // UNITS_A_THREAD)


def _by_one(task: Callable[[slice], None], rows: slice) -> None:
    # How many threads share out an operation is each thread's own, at first what the machine has.
    torch.set_num_threads(1)
    task(rows)


def _add(gain: Tensor, a: Tensor, b: Tensor, beta: int, rows: slice) -> None:
    gain[rows].addmm_(a[rows], b.T, beta=beta)

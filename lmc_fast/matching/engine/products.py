"""Products that gains are summed from, on a CPU: by torch, or by a few threads of one's own that then rest.

Threads among which torch shares out a product stay on their cores for milliseconds after it, in case there is more to
do. Where a machine has few cores, what lays out the next operands (see `ops.laid_out`) finds them taken, and does by
one thread what is work for all. Threads that wait for the next product asleep leave the cores free.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait

import torch
from torch import Tensor

__all__ = ["UNITS_A_THREAD", "Products"]

# Of fewer units for each of its threads than this, a product on a CPU comes out by how many threads there are.
UNITS_A_THREAD = 64
# To wake more threads than these, one after another, takes longer than they save.
FEW = 4
# Operations of products that end before another thread is awake.
SMALL = 2e7


class Products:
    """Adds products of matrices to a sum, by as many threads as torch has.

    Args:
        by_rows: whether a few threads take some rows of the sum each; else torch shares it out.
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
        beta, threads = 0 if is_new else 1, torch.get_num_threads()
        if not self.by_rows or not 1 < threads <= FEW or gain.device.type != "cpu":
            gain.addmm_(a, b.T, beta=beta)
            return
        # Whole numbers of UNITS_A_THREAD each, but for the last.
        rows = max(UNITS_A_THREAD, len(gain) // threads // UNITS_A_THREAD * UNITS_A_THREAD)
        starts = range(0, len(gain), rows)[:threads]
        if 2.0 * len(a) * len(b) * a.shape[1] < SMALL:
            starts = starts[:1]
        parts = [slice(k * rows, None if k == len(starts) - 1 else (k + 1) * rows) for k in range(len(starts))]
        under_way: list[Future[None]] = []
        torch.set_num_threads(1)
        try:
            under_way += (self._threads().submit(_add, gain[rows], a[rows], b, beta) for rows in parts[1:])
            _add(gain[parts[0]], a[parts[0]], b, beta)
        finally:
            # What they write to must be there until they end, and torch's number of threads is everyone's.
            wait(under_way)
            torch.set_num_threads(threads)
        for each in under_way:
            each.result()

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(FEW - 1, "lmc_fast products", initializer=torch.set_num_threads, initargs=(1,))
        return self._pool


def _add(gain: Tensor, a: Tensor, b: Tensor, beta: int) -> None:
    gain.addmm_(a, b.T, beta=beta)

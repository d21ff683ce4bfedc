"""Whether all ranks of a run still live, and whether one has met with something that ends it.

Each rank has a thread that says "I live" in the store that all can reach, and looks after others: after those of its
own machine by their process, which tells at once; after the next rank, where that is on another machine, by what it
says. What is found first is the one reason why the run ends, for all.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .._files import has_ended
from .._signals import explain, interrupt
from .faults import Fault, died, sentence_of

__all__ = ["Pulse"]

# Seconds between two looks, and between two signs of life.
LOOK, BEAT = 0.2, 2.0
# Seconds without a sign of life after which a rank of another machine is dead.
SILENCE = 30.0
# Seconds that work at hand has to come to where it looks by itself.
PATIENCE = 0.2

FAILED = "failed"


class Pulse(threading.Thread):
    """The thread of one rank.

    Args:
        store: of its own: with `get`, `set`, `check` and `compare_set`.
        rank: whose thread it is.
        ranks: who all of them are, as `Ranks` has it.
        is_main: whether the work at hand is the main thread's, which can be interrupted.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        ranks: Sequence[Mapping[str, Any]],
        *,
        is_main: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(daemon=True, name="lmc_fast pulse")
        self.store, self.rank, self.ranks, self.is_main, self.clock = store, rank, ranks, is_main, clock
        self.fault: Fault | None = None
        self.over = threading.Event()
        self._lock = threading.Lock()
        # Of the next rank: what it said last, and when that was new.
        self._heard: tuple[bytes, float] = b"", clock()
        self._said = -BEAT
        self._count = 0

    def run(self) -> None:
        """Look and be heard until the run is over, or has failed."""
        while not self.over.wait(LOOK):
            fault = self.look()
            if fault is not None:
                self.fault = fault
                explain(*sentence_of(fault))
                if not self.over.wait(PATIENCE):
                    with self._lock:
                        if self.is_main and not self.over.is_set():
                            interrupt()
                return

    def look(self) -> Fault | None:
        """What has ended the run, if anything."""
        dead = self.dead_here()
        # Whoever has the store takes it along.
        if 0 in dead and not self._is_apart():
            return self.death_of(0)
        try:
            now = self.clock()
            if now - self._said >= BEAT:
                self._said, self._count = now, self._count + 1
                self.store.set(f"beat/{self.rank}", str(self._count))
            if self.store.check([FAILED]):
                found: Fault = json.loads(self.store.get(FAILED))
                return found
            if self._is_silent(now):
                dead.append((self.rank + 1) % len(self.ranks))
            for rank in dead:
                if not self.store.check([f"left/{rank}"]):
                    return self.publish(self.death_of(rank))
        except RuntimeError:
            return self.without_store()
        return None

    def publish(self, fault: Fault) -> Fault:
        """Say why the run ends; returns why it does, which may have been said before."""
        found: Fault = json.loads(self.store.compare_set(FAILED, "", json.dumps(fault)))
        return found

    def dead_here(self) -> list[int]:
        """The ranks of this machine whose process has ended."""
        return [
            rank
            for rank, who in enumerate(self.ranks)
            if rank != self.rank and has_ended(who["machine"], who["process"], who["started"])
        ]

    def without_store(self) -> Fault:
        """What it means that the store cannot be reached."""
        if self._is_apart():
            text = "the launcher's store has gone; resume=True (--resume) goes on from what was done"
            return {"kind": "ConnectionAbortedError", "text": text}
        return self.death_of(0)

    def stop(self) -> None:
        """End the thread; nothing is interrupted from here on."""
        with self._lock:
            self.over.set()

    def _is_apart(self) -> bool:
        """Whether the store outlives rank 0."""
        return bool(self.ranks[0]["apart"])

    def _is_silent(self, now: float) -> bool:
        after = (self.rank + 1) % len(self.ranks)
        if self.ranks[after]["machine"] == self.ranks[self.rank]["machine"] != "0":
            return False
        key = f"beat/{after}"
        said = self.store.get(key) if self.store.check([key]) else b""
        if said != self._heard[0]:
            self._heard = said, now
        return now - self._heard[1] > SILENCE

    def death_of(self, rank: int) -> Fault:
        """That a rank is no more."""
        who = self.ranks[rank]
        return died(rank, len(self.ranks), f"process {who['process']} on {who['host']}")

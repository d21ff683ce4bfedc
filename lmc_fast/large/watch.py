"""How far a long run is: bytes read and written, groups settled, the objective, and when it will end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Rates", "Watch", "Work"]

# Seconds between two reports of one phase.
PAUSE = 0.5


@dataclass(frozen=True)
class Rates:
    """What this machine does in a second, as far as is known: bytes read, bytes written, operations of products."""

    read: float = 1.5e9
    written: float = 4e8
    operations: float = 1e11


@dataclass
class Work:
    """An amount of work: bytes read, bytes written, operations of products."""

    read: float = 0.0
    written: float = 0.0
    operations: float = 0.0

    def seconds(self, rates: Rates) -> float:
        """How long it takes."""
        return self.read / rates.read + self.written / rates.written + self.operations / rates.operations


@dataclass
class Watch:
    """Counts work as it is done, and tells a listener.

    The time that is left is that of the work left, at the rates that this run has had so far: those of the plan until
    enough of each kind has been done. What later sweeps will have to do is known only when something moves, and is
    added then.

    Attributes:
        tell: called with each event: a dict with "event" ("phase", "progress", "done"), "phase", "seconds",
            "seconds_left", "share", and what the phase counts; None: nobody listens.
        rates: to begin with.
        left: work that is known of and not done.
    """

    tell: Callable[[dict[str, Any]], None] | None = None
    rates: Rates = field(default_factory=Rates)
    left: Work = field(default_factory=Work)
    clock: Callable[[], float] = time.perf_counter

    def __post_init__(self) -> None:
        self.began = self.clock()
        self.phase = ""
        self._told = -PAUSE
        self._last = self.began
        self._done = dict.fromkeys(("read", "written", "operations"), 0.0)
        self._spent = dict(self._done)
        self._total = 0.0
        self._gone = 0.0

    def expect(self, read: float = 0.0, written: float = 0.0, operations: float = 0.0) -> None:
        """Work has come to be known of."""
        self.left.read += read
        self.left.written += written
        self.left.operations += operations

    def begin(self, phase: str, **fields: Any) -> None:
        """A phase begins."""
        self.phase = phase
        self._last = self.clock()
        self._report("phase", fields)

    def did(self, kind: str, amount: float, **fields: Any) -> None:
        """Some work of one kind ("read", "written", "operations") is done; the time since the last is its own."""
        now = self.clock()
        self._done[kind] += amount
        self._spent[kind] += now - self._last
        self._last = now
        setattr(self.left, kind, max(0.0, getattr(self.left, kind) - amount))
        if now - self.began - self._told >= PAUSE:
            self._report("progress", fields)

    def skip(self, kind: str, amount: float, **fields: Any) -> None:
        """Some work need not be done: it says nothing of how long the rest takes."""
        self._last = self.clock()
        setattr(self.left, kind, max(0.0, getattr(self.left, kind) - amount))
        if self._last - self.began - self._told >= PAUSE:
            self._report("progress", fields)

    def end(self, **fields: Any) -> None:
        """All is done."""
        self.phase = "done"
        self.left = Work()
        self._report("done", fields)

    @property
    def seconds_left(self) -> float:
        """How long the work that is left will take."""
        return self.left.seconds(self.measured)

    @property
    def measured(self) -> Rates:
        """Rates of this run; the first guesses count as a second of each kind."""
        found = {}
        for kind, done in self._done.items():
            guess = getattr(self.rates, kind)
            found[kind] = (done + guess) / (self._spent[kind] + 1.0)
        return Rates(**found)

    def _report(self, event: str, fields: dict[str, Any]) -> None:
        now = self.clock() - self.began
        self._told = now
        if self.tell is None:
            return
        left = self.seconds_left
        self.tell(
            {
                "event": event,
                "phase": self.phase,
                "seconds": round(now, 3),
                "seconds_left": round(left, 3),
                "share": round(now / (now + left), 4) if now + left > 0 else 1.0,
                "bytes_read": int(self._done["read"]),
                "bytes_written": int(self._done["written"]),
                **fields,
            }
        )

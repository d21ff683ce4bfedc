"""Times of contenders that take turns, and the peak memory of a process."""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmc_fast.large.memory import give_back

__all__ = ["Timing", "alternate", "forget_peak", "peak_bytes", "resident_bytes"]


@dataclass(frozen=True)
class Timing:
    """Seconds of every call but the warm-up."""

    samples: tuple[float, ...]

    def percentile(self, percent: float) -> float:
        """Seconds below which this share of the calls lies."""
        return float(np.percentile(self.samples, percent))


def alternate(
    contenders: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 2.0,
    least: int = 3,
    most: int = 200,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Call the contenders in turn, after a warm-up of one call each, the first of every round being another one.

    What disturbs the machine for a while so falls on all of them. A contender drops out when it has had `most`
    calls, or at least `least` that took `seconds` together.
    """
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    running = list(contenders)
    for name in running:
        contenders[name]()
    collecting = gc.isenabled()
    gc.disable()
    try:
        turn = 0
        while running:
            for k in range(len(running)):
                name = running[(turn + k) % len(running)]
                begin = clock()
                contenders[name]()
                samples[name].append(clock() - begin)
            turn += 1
            running = [
                name
                for name in running
                if len(samples[name]) < least or (len(samples[name]) < most and sum(samples[name]) < seconds)
            ]
    finally:
        if collecting:
            gc.enable()
    return {name: Timing(tuple(times)) for name, times in samples.items()}


def forget_peak() -> None:
    """Start the peak memory of this process anew, so that making the input does not count; Linux only.

    What was freed goes back to the system first: what is then laid there would count for nothing.
    """
    give_back()
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5", encoding="ascii")


def peak_bytes() -> int:
    """Largest resident memory of this process, since the last `forget_peak` where that works.

    Linux keeps for `getrusage` the peak of the process from which this one was started, so its own is read there.
    """
    own = _status("VmHWM")
    if own is not None:
        return own
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_bytes() -> int:
    """Resident memory of this process now; where the system does not tell, its peak so far."""
    now = _status("VmRSS")
    return peak_bytes() if now is None else now


def _status(field: str) -> int | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    for line in status.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None

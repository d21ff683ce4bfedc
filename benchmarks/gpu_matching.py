"""Whole matchings on a device: how long, where the time goes, and where the host waits for the device."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch

import lmc_fast as lmc
from lmc_fast.matching import weight
from lmc_fast.matching.engine import descent, gains, leading, small

from .gpu_pairs import DevicePair

__all__ = ["matched", "syncs_of", "timed", "where_time_goes"]

# What is timed apart: a name, and the functions that do it.
PARTS: tuple[tuple[str, Any, str], ...] = (
    ("gains", gains.GainCache, "_up_to_date"),
    ("gains", gains.GainCache, "_together"),
    ("gains", gains.GainCache, "gain_of"),
    ("leading parts: factors", leading, "_factors"),
    ("leading parts: gains", leading.LeadingGains, "_product"),
    ("leading parts: stand out", leading.LeadingGains, "stand_out"),
    ("gains to the host", descent.Leaving, "arrived"),
    ("candidates", descent, "gain_candidates"),
    ("assignments", descent, "best_choices"),
    ("sweeps in the core", small.SmallDescent, "anchor"),
    ("sweeps in the core", small.SmallDescent, "run"),
    ("objective", descent.CoordinateDescent, "objective"),
    ("overlaps at the start", weight, "overlaps"),
    ("finite weights", weight, "check_finite_weights"),
)


def matched(pair: DevicePair, **options: Any) -> lmc.Matching:
    """One weight matching, done when it returns."""
    match = lmc.weight_matching(pair.a, pair.b, pair.spec, **options)
    _wait(pair)
    return match


def timed(pair: DevicePair, seconds: float, most: int = 5) -> tuple[list[float], lmc.Matching]:
    """Seconds of every run, one at least, until so many have gone by; and what the last one found."""
    times: list[float] = []
    while True:
        began = time.perf_counter()
        match = matched(pair)
        times.append(time.perf_counter() - began)
        if len(times) >= most or sum(times) >= seconds:
            return times, match


def where_time_goes(pair: DevicePair) -> dict[str, float]:
    """Seconds by part of one matching, in which the host waits for the device before and after each part."""
    spent: Counter[str] = Counter()
    running: list[str] = []

    def measured(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **keywords: Any) -> Any:
            if running:
                # Inside another part, whose time it is.
                return function(*args, **keywords)
            running.append(name)
            _wait(pair)
            began = time.perf_counter()
            try:
                found = function(*args, **keywords)
                _wait(pair)
            finally:
                running.pop()
            spent[name] += time.perf_counter() - began
            return found

        return run

    with ExitStack() as stack:
        # Assignments side by side would be counted each.
        stack.enter_context(mock.patch.object(descent, "SIDE_BY_SIDE_FROM", 1 << 62))
        for name, where, function in PARTS:
            stack.enter_context(mock.patch.object(where, function, measured(name, getattr(where, function))))
        began = time.perf_counter()
        matched(pair)
        whole = time.perf_counter() - began
    return {**spent, "all else": whole - sum(spent.values()), "whole": whole}


def syncs_of(run: Callable[[], object]) -> Counter[str]:
    """By file and line of ours how often the host waited for the device; empty on a CPU."""
    with _warned() as told:
        run()
    return Counter(f"{where.rpartition('lmc_fast/')[2]}:{line}" for where, line in told)


@contextmanager
def _warned() -> Iterator[list[tuple[str, int]]]:
    """Collects where torch says that a call waits."""
    told: list[tuple[str, int]] = []
    if not torch.cuda.is_available():
        yield told
        return

    def show(message: Warning | str, category: type[Warning], filename: str, line: int, *rest: object) -> None:
        if "synchronizing" in str(message):
            told.append((filename, line))

    with warnings.catch_warnings(), mock.patch.object(warnings, "showwarning", show):
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield told
        finally:
            torch.cuda.set_sync_debug_mode("default")


def _wait(pair: DevicePair) -> None:
    if next(iter(pair.a.values())).device.type == "cuda":
        torch.cuda.synchronize()

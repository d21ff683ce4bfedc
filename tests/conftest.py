"""Seeds, poisoned memory, the gpu, slow and interpreter marks, and tests side by side.

torch is imported by what runs tests alone: the process that hands them to workers does without.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

# Of a process of tests: torch, Triton's compiler and the largest inputs.
BYTES_OF_A_WORKER = 2 << 30
MOST_WORKERS = 8
# Seconds from which --durations tells of a test, and of what is around it.
SLOW = 0.005
# How many new objects, and rounds of them, are looked through for what has gone: traces of graphs make millions.
COLLECTED = (20_000, 20, 20)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-gpu", action="store_true", help="fail, not skip, gpu tests without a device")
    parser.addoption(
        "--require-cross", action="store_true", help="fail, not skip, without a compiler and an emulator for AArch64"
    )
    parser.addoption("--slow", action="store_true", help="run the tests that are marked slow, too")
    parser.addoption("--modules", type=int, default=200, help="how many random modules are derived, with --slow")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """For `-n auto`: as many as there are cores to use and memory for; none, that is one process, for a single core."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    count = min(cores, MOST_WORKERS, memory // BYTES_OF_A_WORKER)
    return count if count > 1 else 0


def pytest_configure(config: pytest.Config) -> None:
    """Workers side by side, and the processes that they start, take one thread each, unless one says otherwise.

    Processes of tests hear signals to stop, also where the tests themselves run in a shell's background.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)
    if len(config.getoption("tx", None) or []) > 1:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    # What is imported to collect the tests stays: to look through it for what has gone took a third of the time.
    gc.disable()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Of a test that passes a worker tells once, and not also that it begins, is set up and is cleaned up after.

    Each message took as long as an empty test. What was slow, said something or went wrong is told of as ever.
    """
    for plugin in session.config.pluginmanager.get_plugins():
        if hasattr(plugin, "sendevent"):
            plugin.sendevent = partial(_send_what_counts, plugin.sendevent)


def _send_what_counts(send: Callable[..., None], name: str, **told: Any) -> None:
    data = told.get("data", {})
    around = name == "testreport" and data["when"] != "call" and data["outcome"] == "passed"
    if name != "logstart" and not (around and data["duration"] < SLOW and not data["sections"]):
        send(name, **told)


def pytest_runtest_setup(item: pytest.Item) -> None:
    import torch

    # pytest listens to each logger that hands nothing on; to this one torch then writes a stack for all that it traces.
    logging.getLogger("torch.__trace").propagate = True
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        if item.config.getoption("--require-gpu"):
            pytest.fail("--require-gpu: no GPU that torch can use")
        pytest.skip("needs a GPU")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is not to run here.

    Interpreted kernels are left to the processes that `tests/ops/test_kernels.py` starts for them: Triton decides when
    it is first imported, and everything else would be slow with it. Slow tests run with `--slow`, where `-m` speaks of
    them, or where tests are named one by one; first then, for no worker to be left alone with one at the end.
    """
    from lmc_fast._backend import interpreted

    asked = config.getoption("--slow") or "slow" in config.getoption("-m") or any("::" in part for part in config.args)

    def runs(item: pytest.Item) -> bool:
        if item.get_closest_marker("interpreter") and not interpreted():
            return False
        return asked or item.get_closest_marker("slow") is None

    left = [item for item in items if not runs(item)]
    if left:
        config.hook.pytest_deselected(items=left)
    items[:] = sorted(filter(runs, items), key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """To look through the tests and all that they have imported for what has gone took a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTED)
    gc.enable()


@pytest.fixture(scope="session")
def draws(request: pytest.FixtureRequest) -> Callable[[int, int], range]:
    """Random cases of one kind, by number: `few`, or `many`, the same and more of them, where slow tests run."""
    slow = request.config.getoption("--slow")
    return lambda few, many: range(many if slow else few)


@pytest.fixture(autouse=True)
def seeds() -> None:
    import torch

    torch.default_generator.manual_seed(0)
    # As torch.manual_seed, which leaves a note, and the way to it, for each kind of device that has not started.
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(0)


@pytest.fixture(autouse=True)
def no_tuning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels run as they do unasked, and what a test measures is not kept for anyone."""
    monkeypatch.delenv("LMC_FAST_AUTOTUNE", raising=False)
    monkeypatch.setenv("LMC_FAST_CACHE", os.devnull)


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What was not written reads as NaN (floats) or as a far-off number (integers)."""
    import numpy as np
    import torch

    plain_empty: Callable[..., Any] = np.empty

    def poisoned_empty(*args: Any, **kwargs: Any) -> Any:
        array = plain_empty(*args, **kwargs)
        if array.dtype.kind == "f":
            array.fill(np.nan)
        elif array.dtype.kind == "i":
            array.fill(np.iinfo(array.dtype).min)
        return array

    monkeypatch.setattr(np, "empty", poisoned_empty)
    was = torch.utils.deterministic.fill_uninitialized_memory
    # As `use_deterministic_algorithms` with `warn_only`, which imports torch's compiler first.
    torch.set_deterministic_debug_mode("warn")
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.set_deterministic_debug_mode("default")
    torch.utils.deterministic.fill_uninitialized_memory = was

"""Processes side by side for small models, whose work one thread does about as fast as several."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

__all__ = ["cores", "one_thread", "side_by_side"]

Common = TypeVar("Common")
Task = TypeVar("Task")
Result = TypeVar("Result")
Tell = Callable[[Any], None]

# How often progress is heard, and how long a process that is told to end may take for that.
EVERY = 0.1
PATIENCE = 5.0
# Exit status of a process that was told to end.
ENDED = 143


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch works on one thread inside, and on as many as before afterwards.

    The products of a small model are done before other threads have woken up; where processors are shared, waiting for
    these takes many times longer than the work.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def side_by_side(
    work: Callable[[Common, Task, Tell], Result],
    common: Common,
    tasks: Sequence[Task],
    *,
    processes: int = 1,
    begin: Callable[[int], None] = lambda place: None,
    hear: Callable[[int, Any], None] = lambda place, message: None,
) -> Generator[tuple[int, Result], None, None]:
    """Yield (place, result) of every task as they are done, each worked on by one thread.

    Results are those of ``work(common, task, tell)``, the same for any number of processes; only their order differs.
    With one process, or one task, they are worked on here and in order. An error or an interruption here, and leaving
    the iteration, end all processes before it goes on.

    Args:
        work: a function of a module.
        common: what all tasks need; goes to each process once. Like tasks and results, it must be picklable.
        tasks: in the order in which they are begun.
        processes: how many at most.
        begin: told the place of each task when it is begun.
        hear: told, here, what a task says with `tell`: its place and any picklable message.

    Raises:
        What `work` raises.
        ChildProcessError: a process was killed.
    """
    count = min(processes, len(tasks))
    if count <= 1:
        with one_thread():
            for place, task in enumerate(tasks):
                begin(place)
                yield place, work(common, task, lambda message, place=place: hear(place, message))  # type: ignore[misc]
        return
    # Plain pickles: those of multiprocessing would move tensors, the caller's too, to shared memory.
    kit = pickle.dumps((work, common))
    context = multiprocessing.get_context("spawn")
    said = context.SimpleQueue()
    others = _children()
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(kit, said))
    running: dict[Future[bytes], int] = {}
    started: set[int | None] = set()
    left = list(range(len(tasks)))

    def drain() -> None:
        while not said.empty():
            hear(*said.get())

    try:
        while left or running:
            # No more than are worked on at once: what waits in the pool could not be taken back.
            while left and len(running) < count:
                place = left.pop(0)
                begin(place)
                with _uninterrupted():
                    running[pool.submit(_run, place, pickle.dumps(tasks[place]))] = place
                started |= _children() - others
            done, _ = wait(running, EVERY, FIRST_COMPLETED)
            drain()
            # The pool does not hear of a process that dies before the pool next looks which it has.
            if not done and not started <= _children():
                raise BrokenProcessPool
            for future in done:
                yield running.pop(future), pickle.loads(future.result())
    except BrokenProcessPool:
        raise ChildProcessError(
            f"one of {count} processes ended before its work was done; fewer take less memory"
        ) from None
    finally:
        if running:
            for process in multiprocessing.active_children():
                if process.pid not in others:
                    process.terminate()
        pool.shutdown(cancel_futures=True)


def _children() -> set[int | None]:
    """The processes of this one that live."""
    return {process.pid for process in multiprocessing.active_children()}


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Processes that are started inside never see Ctrl-C, which a terminal sends to all; this one hears it later."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# Of a process that works: the function, what is common to its tasks, and where it says things.
_kit: tuple[Callable[[Any, Any, Tell], Any], Any, Any] | None = None


def _begin(kit: bytes, said: Any) -> None:
    global _kit
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _kit = (*pickle.loads(kit), said)


def _run(place: int, task: bytes) -> bytes:
    assert _kit is not None
    work, common, said = _kit
    try:
        return pickle.dumps(work(common, pickle.loads(task), lambda message: said.put((place, message))))
    except SystemExit:
        # The pool would hand it on, and wait for the next task.
        os._exit(ENDED)


def _end(*_: object) -> None:
    """As an exception, so that files that are half written go away; once, or a second would undo how that is met."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(ENDED)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(ENDED)

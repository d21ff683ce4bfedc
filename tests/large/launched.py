"""Several processes as a launcher starts them, forked: nothing is imported anew."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from lmc_fast.__main__ import main

from ..forked import ends_here

# Seconds after which a run has hung.
PATIENCE = 60.0


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (less than 0: the signal), and what it said."""

    code: int
    out: str
    err: str


def launched(count: int, work: Callable[[int], object], folder: Path, *, absent: tuple[int, ...] = ()) -> list[Ended]:
    """Run `work(rank)` in so many processes that are told of each other, and wait for them.

    Args:
        folder: for what they say.
        absent: ranks that never come.
    """
    port = _free_port()
    processes = {rank: _forked(rank, count, port, work, folder) for rank in range(count) if rank not in absent}
    codes = dict.fromkeys(absent, 0)
    until = time.monotonic() + PATIENCE
    try:
        while processes:
            for rank, process in list(processes.items()):
                ended, status = os.waitpid(process, os.WNOHANG)
                if ended:
                    codes[rank] = os.waitstatus_to_exitcode(status)
                    del processes[rank]
            assert time.monotonic() < until, f"ranks {list(processes)} have hung"
            time.sleep(0.01)
    finally:
        for process in processes.values():
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
    return [Ended(codes[rank], *(_said(folder, name, rank) for name in ("out", "err"))) for rank in range(count)]


def command(*words: object) -> Callable[[int], object]:
    """The command with these words, as every rank runs it."""

    def run(rank: int) -> object:
        sys.argv = ["lmc-fast", *map(str, words)]
        main()
        return None

    return run


@ends_here()
def _forked(rank: int, count: int, port: int, work: Callable[[int], object], folder: Path) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / f"{name}-{rank}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False, encoding="utf-8") for number in (1, 2))
        told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        os.environ |= {name: str(value) for name, value in told.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        # Threads of the process that was forked are not here.
        torch.set_num_threads(1)
        work(rank)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    # Whatever it is, this process is not the one that was forked.
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _said(folder: Path, name: str, rank: int) -> str:
    path = folder / f"{name}-{rank}"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

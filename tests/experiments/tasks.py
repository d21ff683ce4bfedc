"""Work for the processes of `test_processes.py`, which import this and little else."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmc_fast._files import write_aside

__all__ = ["divided", "scaled", "written"]

# Far longer than a test may take.
LONG = 600.0
Tell = Callable[[Any], None]


def scaled(common: Tensor, task: int, tell: Tell) -> tuple[Tensor, int, int]:
    """The product, with how many threads, and where."""
    tell(f"{task} begins")
    tell({"threads": torch.get_num_threads()})
    return common * task, torch.get_num_threads(), os.getpid()


def divided(common: None, task: int, tell: Tell) -> float:
    """What an error is made of."""
    return 1 / task


def written(folder: Path, task: int, tell: Tell) -> None:
    """Task 0 is wrong, 1 is killed; all others are half-way through a file for longer than the test lasts."""

    def slowly(part: Path) -> None:
        part.write_text("half")
        tell("half")
        time.sleep(LONG)

    if task == 0:
        raise ValueError("task 0 is wrong")
    if task == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    write_aside(folder / f"{task}", slowly)

"""What tests of work side by side share."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from multiprocessing import popen_fork
from typing import Any

import pytest
import torch


@pytest.fixture
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are forked from this process; that they may be spawned has tests of its own.

    To import torch takes a spawned one two seconds. All else is as it was: pipes, signals, pickles and how they end.
    With a GPU, gradients have threads of their own, which do not outlive a fork.
    """
    if sys.platform == "linux" and not torch.cuda.is_available():
        context = multiprocessing.get_context("fork")
        monkeypatch.setattr(multiprocessing, "get_context", lambda method: context)
        plain = popen_fork.Popen._launch

        def launch(self: popen_fork.Popen, process: Any) -> None:
            """What is raised as a worker ends, by a signal say, must not have it go on as what it was forked from."""
            here = os.getpid()
            try:
                plain(self, process)
            finally:
                if os.getpid() != here:
                    os.kill(os.getpid(), signal.SIGKILL)

        monkeypatch.setattr(popen_fork.Popen, "_launch", launch)

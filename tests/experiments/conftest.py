"""What tests of work side by side share."""

from __future__ import annotations

import multiprocessing
import sys

import pytest
import torch

from ..forked import fork_context


@pytest.fixture
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are forked from this process; that they may be spawned has tests of its own.

    To import torch takes a spawned one two seconds. All else is as it was: pipes, signals, pickles and how they end.
    With a GPU, gradients have threads of their own, which do not outlive a fork.
    """
    if sys.platform == "linux" and not torch.cuda.is_available():
        context = fork_context(monkeypatch)
        monkeypatch.setattr(multiprocessing, "get_context", lambda method: context)

"""What a run was made on."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import torch

from ..datasets import Dataset
from ..environment import versions
from .settings import Settings

__all__ = ["environment"]


def environment(settings: Settings, data: Dataset) -> dict[str, str]:
    """Versions, processor, seeds, data, and the commit where the package runs from a clone."""
    first, trials = settings.seed, max(network.trials for network in settings.networks)
    about = {
        **versions(),
        "processor": _processor(),
        "threads": str(torch.get_num_threads()),
        "data": f"{data.name}: {len(data.train_inputs)} to train on, {len(data.test_inputs)} to test with",
        "seeds": f"{first} to {first + 3 * trials - 1}",
    }
    commit = _commit()
    return {**about, "commit": commit} if commit else about


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the clone that this file is in; None elsewhere."""
    root = Path(__file__).resolve().parents[3]
    # A worktree has a file there, a clone a folder.
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None

"""What experiments are run with."""

from __future__ import annotations

import platform

import numpy as np
import torch

from .._version import __version__

__all__ = ["versions"]


def versions() -> dict[str, str]:
    """Of the package, and of what it computes with."""
    return {
        "lmc_fast": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }

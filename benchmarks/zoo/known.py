"""A model of the zoo, with what is in it by hand analysis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .hand import Hand

__all__ = ["Known", "Made", "image"]

Made = tuple[nn.Module, Any]


@dataclass(frozen=True)
class Known:
    """A model and what is in it.

    Attributes:
        make: builds it, and inputs for it.
        hand: the groups that there are by hand analysis.
        why: what is not found of them, and why; "" where all is.
    """

    make: Callable[[], Made]
    hand: Hand
    why: str = ""


def image(size: int = 16) -> torch.Tensor:
    """Random images: [2, 3, size, size]."""
    return torch.randn(2, 3, size, size)

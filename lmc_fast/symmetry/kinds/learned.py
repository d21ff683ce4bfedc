"""Elements that learn: a smooth way through a continuous kind's elements, with free numbers to steer by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Learned", "cayley"]


@dataclass(frozen=True)
class Learned:
    """An element as a function of free numbers, all 0 at the element that it starts from.

    Attributes:
        parameters: float32 leaves that want gradients.
        make: (dtype) -> the element there, in this dtype, with a gradient by the parameters.
    """

    parameters: tuple[Tensor, ...]
    make: Callable[[torch.dtype], Tensor]

    def element(self) -> Tensor:
        """The element as others have it: float64, on the CPU, without a gradient."""
        return self.make(torch.float64).detach().cpu()


def cayley(square: Tensor) -> Tensor:
    """(I + K)^-1 (I - K) of K = S - S^T for S [..., n, n]: orthogonal whatever S is, and I at 0.

    It reaches every rotation but those that turn some direction around (Cayley, 1846).
    """
    skew = square - square.mT
    eye = torch.eye(square.shape[-1], dtype=square.dtype, device=square.device)
    turn: Tensor = torch.linalg.solve(eye + skew, eye - skew)
    return turn

"""Inner products in plain torch, a piece of each tensor at a time.

Products are summed by torch.sum, which adds in a tree: the rounding of torch.dot grows with the entries that one thread
adds one after the other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..._chunks import Gathers, pairs, total

__all__ = ["overlap", "permuted_dot"]


def permuted_dot(a: Tensor, b: Tensor, gathers: Gathers) -> float:
    """<a, b gathered on every dimension>, multiplied and summed in float64."""
    return total(x.mul_(y).sum() for x, y in pairs(a, b, gathers))


def overlap(a: Tensor, b: Tensor) -> tuple[float, float, float]:
    """||a||^2, ||b||^2 and <a, b>, in one pass."""
    sums = torch.zeros(3, dtype=torch.float64, device=a.device)
    for x, y in pairs(a, b, (None,) * a.ndim):
        sums += torch.stack([x.square().sum(), y.square().sum(), x.mul_(y).sum()])
    square_a, square_b, product = sums.tolist()
    return square_a, square_b, product

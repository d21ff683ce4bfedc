"""Inner products in plain torch, a piece of each tensor at a time.

Products are summed by torch.sum, which adds in a tree: the rounding of torch.dot grows with the entries that one thread
adds one after the other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..._chunks import Gathers, pairs

__all__ = ["overlap", "permuted_dot"]


def permuted_dot(a: Tensor, b: Tensor, gathers: Gathers) -> Tensor:
    """<a, b gathered on every dimension>, multiplied and summed in float64; [] on their device."""
    total = torch.zeros((), dtype=torch.float64, device=a.device)
    for x, y in pairs(a, b, gathers):
        total += x.mul_(y).sum()
    return total


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """||a||^2, ||b||^2 and <a, b>, in one pass; [3] on their device."""
    sums = torch.zeros(3, dtype=torch.float64, device=a.device)
    for x, y in pairs(a, b, (None,) * a.ndim):
        sums += torch.stack([x.square().sum(), y.square().sum(), x.mul_(y).sum()])
    return sums

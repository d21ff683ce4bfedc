"""Inner products in plain torch, a piece of each tensor at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from ..._chunks import Gathers, pairs, total

__all__ = ["overlap", "permuted_dot"]


def permuted_dot(a: Tensor, b: Tensor, gathers: Gathers) -> float:
    """<a, b gathered on every dimension>, multiplied and summed in float64."""
    return total(torch.dot(x, y) for x, y in pairs(a, b, gathers))


def overlap(a: Tensor, b: Tensor) -> tuple[float, float, float]:
    """||a||^2, ||b||^2 and <a, b>, in one pass."""
    sums = torch.zeros(3, dtype=torch.float64, device=a.device)
    for x, y in pairs(a, b, (None,) * a.ndim):
        sums += torch.stack([torch.dot(x, x), torch.dot(y, y), torch.dot(x, y)])
    square_a, square_b, product = sums.tolist()
    return square_a, square_b, product

"""Contractions in plain torch, cast to float64 a piece at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from ..._chunks import rows_at_once

__all__ = ["over_others", "over_units"]


def over_units(tensor: Tensor, vector: Tensor) -> Tensor:
    """[before, units, after], [units] -> [before, after]."""
    before, _, after = tensor.shape
    if tensor.numel() == 0:
        # However many pieces of nothing there are.
        return vector.new_zeros(before, after)
    if before == 1:
        rows = rows_at_once(tensor[0])
        total = vector.new_zeros(after)
        for part, piece in zip(torch.split(tensor[0], rows), torch.split(vector, rows), strict=True):
            total += piece @ part.double()
        return total[None]
    # Room for the result first: what has none fails before any work.
    out = vector.new_empty(before, after)
    rows = rows_at_once(tensor)
    for start in range(0, before, rows):
        part = tensor[start : start + rows].double()
        out[start : start + rows] = (part[..., 0] @ vector)[:, None] if after == 1 else vector @ part
    return out


def over_others(tensor: Tensor, entries: Tensor) -> Tensor:
    """[before, units, after], [before, after] -> [units]."""
    before, units, after = tensor.shape
    if tensor.numel() == 0:
        return entries.new_zeros(units)
    factor = entries.reshape(before, after, 1)
    if before == 1:
        return torch.cat([part.double() @ factor[0, :, 0] for part in torch.split(tensor[0], rows_at_once(tensor[0]))])
    rows = rows_at_once(tensor)
    total = entries.new_zeros(units)
    for part, piece in zip(torch.split(tensor, rows), torch.split(factor, rows), strict=True):
        total += piece[:, 0, 0] @ part[..., 0].double() if after == 1 else (part.double() @ piece).sum((0, 2))
    return total

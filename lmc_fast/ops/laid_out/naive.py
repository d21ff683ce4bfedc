"""Operands in plain torch: gather, then cast."""

from __future__ import annotations

import torch
from torch import Tensor

from ..._chunks import Gathers

__all__ = ["laid_out"]


def laid_out(tensor: Tensor, gathers: Gathers, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """`tensor` gathered on every dimension, in `dtype`, in `out` if it is given; itself where it is that already."""
    for dim, index in enumerate(gathers):
        if index is not None:
            tensor = tensor.index_select(dim, index)
    return tensor.to(dtype) if out is None else out.copy_(tensor)

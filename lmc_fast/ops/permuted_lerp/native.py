"""Permuted interpolation in the compiled core: every tensor read once, gathered and summed in the cache.

A sum of two float32 tensors of n entries reads 8n bytes and writes 4n: memory is all that bounds it. How gathers keep
up with it is told at the top of csrc/permuted_lerp.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ... import _native

if TYPE_CHECKING:
    from ..._native import LerpPart

__all__ = ["TYPES", "permuted_lerp_many"]

TYPES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}


def permuted_lerp_many(
    tensors: Sequence[Sequence[Tensor]],
    weights: Sequence[Sequence[float]],
    gathers: Sequence[Sequence[tuple[Tensor | None, ...]]],
    out: Sequence[Sequence[Tensor]],
) -> None:
    """Write ``out[k][p] = sum_m weights[k][m] * tensors[p][m] gathered``.

    Args:
        tensors, gathers: as `permuted_lerp_many`'s, all on the CPU; the tensors of a part have one dtype.
        out: contiguous, of that dtype, apart from the tensors.
    """
    # What is made contiguous here has to live until the core is done.
    kept: list[Tensor] = []
    address = {id(None): 0}
    for part in gathers:
        for one in part:
            for index in one:
                if id(index) not in address and index is not None:
                    kept.append(index.contiguous())
                    address[id(index)] = kept[-1].data_ptr()
    parts: list[LerpPart] = [
        (
            TYPES[part[0].dtype],
            part[0].shape,
            [tensor.data_ptr() for tensor in part],
            [tensor.stride() for tensor in part],
            [[address[id(index)] for index in one] for one in indices],
            [row[position].data_ptr() for row in out],
        )
        for position, (part, indices) in enumerate(zip(tensors, gathers, strict=True))
    ]
    _native.permuted_lerp(parts, weights, threads=torch.get_num_threads())

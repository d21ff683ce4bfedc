"""Permuted interpolation in the compiled core: every tensor read once, gathered and summed in the cache.

A sum of two float32 tensors of n entries reads 8n bytes and writes 4n: memory is all that bounds it. How gathers keep
up with it is told at the top of csrc/permuted_lerp.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ... import _native
from ..._tensors import addresses, in_one_run
from .checks import Looked

if TYPE_CHECKING:
    from ..._native import LerpPart

__all__ = ["TYPES", "permuted_lerp_many"]

TYPES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}


def permuted_lerp_many(
    tensors: Sequence[Sequence[Tensor]],
    weights: Sequence[Sequence[float]],
    gathers: Sequence[Sequence[tuple[Tensor | None, ...]]],
    out: Sequence[Sequence[Tensor]],
    looked: Looked,
) -> None:
    """Write ``out[k][p] = sum_m weights[k][m] * tensors[p][m] gathered``.

    Args:
        tensors, gathers: as `permuted_lerp_many`'s, all on the CPU; the tensors of a part have one dtype.
        out: contiguous, of that dtype, apart from the tensors.
        looked: where tensors and results start, as far as it is known.
    """
    # What is made contiguous here has to live until the core is done.
    distinct = {id(index): index for part in gathers for one in part for index in one if index is not None}
    kept = [in_one_run("gathers", index) for index in distinct.values()]
    cpu = torch.device("cpu")
    places_of_indices = addresses("gathers", kept, cpu, (torch.int64,))
    address = {id(None): 0} | dict(zip(distinct, places_of_indices, strict=True))
    flat, models = list(chain.from_iterable(tensors)), len(weights[0])
    strides = list(map(Tensor.stride, flat))
    data = addresses("tensors", flat, cpu, TYPES) if looked.data is None else looked.data
    begins = addresses("out", list(chain.from_iterable(out)), cpu, TYPES) if looked.out is None else looked.out
    outs = zip(*(begins[k * len(tensors) : (k + 1) * len(tensors)] for k in range(len(out))), strict=True)
    parts: list[LerpPart] = [
        (
            TYPES[part[0].dtype],
            part[0].shape,
            data[p * models : (p + 1) * models],
            strides[p * models : (p + 1) * models],
            [[address[id(index)] for index in one] for one in indices],
            places,
        )
        for p, (part, indices, places) in enumerate(zip(tensors, gathers, outs, strict=True))
    ]
    _native.permuted_lerp(parts, weights, threads=torch.get_num_threads())

"""Contractions in the compiled core: every entry read once and multiplied in double, without a cast copy."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import _native
from ..._tensors import addresses, in_one_run
from ..permuted_lerp.native import TYPES

__all__ = ["over_others", "over_units", "why_not"]


def why_not(tensor: Tensor) -> str | None:
    """Why this tensor is none for the core, if so."""
    if tensor.dtype not in TYPES:
        return f"it takes float16 to float64, got {tensor.dtype}"
    inner = 2 if tensor.shape[2] > 1 else 1
    if tensor.stride(inner) != 1 and tensor.shape[inner] > 1:
        return f"it takes entries that lie in runs, got strides {tensor.stride()}"
    return None


def over_units(tensor: Tensor, vector: Tensor) -> Tensor:
    """[before, units, after], [units] -> [before, after]."""
    return _contracted(tensor, vector, (tensor.shape[0], tensor.shape[2]), True)


def over_others(tensor: Tensor, entries: Tensor) -> Tensor:
    """[before, units, after], [before, after] -> [units]."""
    return _contracted(tensor, entries, (tensor.shape[1],), False)


def _contracted(tensor: Tensor, vector: Tensor, shape: tuple[int, ...], units: bool) -> Tensor:
    cpu = torch.device("cpu")
    vector = in_one_run("vector", vector)
    out = torch.zeros(shape, dtype=torch.float64, device=cpu)
    (place,) = addresses("tensor", (tensor,), cpu, TYPES)
    of_vector, of_out = addresses("vector and out", (vector, out), cpu, (torch.float64,))
    if not tensor.numel():
        return out
    _native.contract(
        TYPES[tensor.dtype],
        place,
        tensor.shape,
        tensor.stride()[:2],
        of_vector,
        of_out,
        units,
        threads=torch.get_num_threads(),
    )
    return out

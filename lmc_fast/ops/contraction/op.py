"""Contractions with a vector: the choice of a backend."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..._backend import choose
from ..._checks import fail_type, fail_value
from ..._tensors import check_dense, seen
from . import naive, native

__all__ = ["over_others", "over_units"]


def over_units(tensor: Tensor, vector: Tensor, *, backend: str = "auto") -> Tensor:
    """The sum over u of vector[u] * tensor[:, u], each product and sum in float64.

    Args:
        tensor: real [before, units, after], any strides.
        vector: float64 [units], on the same device.
        backend: "auto", "torch" or "native" (CPU; float16 to float64, entries in runs).

    Returns:
        float64 [before, after].

    Raises:
        TypeError, ValueError: what does not fit the above.
        RuntimeError: a backend that cannot be used here; the message says why.
    """
    tensor, vector = _checked(tensor, "vector", vector, (1,))
    if _chosen(backend, "over_units", tensor) == "torch":
        _check_dense(tensor, vector)
        return naive.over_units(tensor, vector)
    return native.over_units(tensor, vector)


def over_others(tensor: Tensor, entries: Tensor, *, backend: str = "auto") -> Tensor:
    """The sum over all but u of tensor[b, u, a] * entries[b, a], each product and sum in float64.

    Args:
        tensor, backend: as `over_units` takes them.
        entries: float64 [before, after], on the same device.

    Returns:
        float64 [units].

    Raises:
        as `over_units`.
    """
    tensor, entries = _checked(tensor, "entries", entries, (0, 2))
    if _chosen(backend, "over_others", tensor) == "torch":
        _check_dense(tensor, entries)
        return naive.over_others(tensor, entries)
    return native.over_others(tensor, entries)


def _checked(tensor: Tensor, name: str, vector: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Both, as the backends take them."""
    tensor, vector = seen("tensor", tensor), seen(name, vector)
    if tensor.is_complex():
        fail_type("tensor", "a tensor of real numbers", tensor)
    if tensor.ndim != 3:
        fail_value("tensor", "a tensor of 3 dimensions", tensor)
    if vector.device != tensor.device:
        raise ValueError(f"{name} must be on the device of tensor, {tensor.device}, got {vector.device}")
    shape = tuple(tensor.shape[dim] for dim in dims)
    if vector.dtype != torch.float64 or vector.shape != shape:
        fail_value(name, f"float64 {list(shape)}", vector)
    return tensor, vector


def _check_dense(tensor: Tensor, vector: Tensor) -> None:
    check_dense("tensor", tensor)
    check_dense("the vector", vector)


def _chosen(backend: str, operation: str, tensor: Tensor) -> str:
    return choose(backend, operation, tensor.device, {"native": partial(native.why_not, tensor)}, tell=False)

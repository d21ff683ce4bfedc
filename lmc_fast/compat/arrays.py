"""Parameters and indices as scripts have them: torch tensors, numpy arrays, arrays that numpy can read, traced ones."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._checks import fail_type

__all__ = ["array_of", "check_array", "giver", "is_traced", "read_index", "taken", "tensor_of"]


def is_traced(value: object) -> bool:
    """Whether this stands for an array inside JAX's jit, vmap or grad: its shape is known, its numbers are not."""
    # Whoever holds one has imported JAX.
    core = getattr(sys.modules.get("jax"), "core", None)
    tracer = getattr(core, "Tracer", None)
    return isinstance(tracer, type) and isinstance(value, tracer)


def tensor_of(argument: str, w: Any) -> Tensor:
    """A torch tensor of a parameter's numbers: itself, or over the same memory where numpy allows it."""
    if isinstance(w, Tensor):
        return w.detach()
    array = array_of(argument, w)
    if array.dtype.kind not in "biufc":
        # bfloat16 and its like, which numpy knows from ml_dtypes only.
        array = array.astype(np.float32)
    elif array.dtype == np.longdouble:
        array = array.astype(np.float64)
    # Arrays read from files may have another machine's byte order.
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def array_of(argument: str, value: Any) -> NDArray[Any]:
    """A numpy array of a parameter's numbers."""
    check_array(argument, value)
    if is_traced(value):
        raise TypeError(
            f"{argument} must have its numbers at hand, but is traced by JAX: a search is not to be called inside jit, "
            "vmap or grad"
        )
    return np.asarray(value)


def check_array(argument: str, value: Any) -> None:
    """TypeError unless numpy could read this, were it not traced."""
    if not hasattr(value, "__array__") or not hasattr(value, "shape"):
        fail_type(argument, "a tensor or an array", value)


def read_index(argument: str, index: Any) -> Any:
    """Indices as int64, in numpy; traced ones as they are. Some ports keep them as floats."""
    if is_traced(index):
        if index.ndim != 1 or index.dtype.kind not in "iuf":
            fail_type(argument, "indices in one dimension", index)
        return index if index.dtype.kind in "iu" else index.astype(np.int32)
    if isinstance(index, Tensor):
        index = index.detach().cpu().numpy()
    array = np.asarray(index)
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        fail_type(argument, "indices in one dimension", index)
    whole = array.astype(np.int64)
    if array.dtype.kind == "f" and not np.array_equal(whole, array):
        raise ValueError(f"{argument} must hold whole numbers, and does not")
    return whole


def taken(argument: str, w: Any, index: Any, axis: int) -> Any:
    """A parameter's entries along one axis in the order of `index`, as `read_index` gives it; of the parameter's kind.

    A traced index takes a numpy array along into JAX.

    Args:
        argument: what the caller calls `index`.
    """
    if isinstance(w, Tensor):
        if is_traced(index):
            raise TypeError(f"{argument} must be known, but is traced by JAX: it cannot move a torch tensor")
        return w.index_select(axis, torch.from_numpy(index).to(w.device))
    if is_traced(index) and isinstance(w, np.ndarray):
        w = sys.modules["jax"].numpy.asarray(w)
    return w.take(index, axis=axis)


def giver(like: Any) -> Callable[[Tensor], Any]:
    """What turns int64 tensors into indices of the library that `like` is from."""
    if isinstance(like, Tensor):
        return lambda index: index
    namespace = getattr(like, "__array_namespace__", None)
    if isinstance(like, np.ndarray) or namespace is None:
        return lambda index: index.numpy()
    return lambda index: namespace().asarray(index.numpy())

"""Operands of matrix products: the choice of a backend."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..._backend import check_backend, choose
from ..._checks import fail_value
from ..._chunks import Gathers
from ..._models import accumulate_dtype
from ..._tensors import check_dense, check_indices, seen
from ..permuted_lerp.native import TYPES
from . import naive, native

__all__ = ["laid_out"]


def laid_out(
    tensor: Tensor, gathers: Gathers, dtype: torch.dtype, *, out: Tensor | None = None, backend: str = "auto"
) -> Tensor:
    """A tensor gathered on every dimension and cast, ready to be multiplied.

    Args:
        tensor: real, any strides.
        gathers: for every dimension int64 indices on the tensor's device, of any number, or None where all entries stay
            in order.
        dtype: what to cast to, float32 or float64.
        out: contiguous, of the result's shape and dtype, on the tensor's device and apart from it: is written to and
            returned. None: new memory, where any is needed.
        backend: "auto", "torch" or "native" (CPU; to the dtype that sums over the tensor are kept in).

    Returns:
        The entries in `dtype`, in the order of the gathers. Without `out` the tensor itself where nothing is gathered
        and it has that dtype; else a new one. Casts to wider numbers are exact.

    Raises:
        TypeError, ValueError: what does not fit the above.
        IndexError: indices beyond their dimension.
        RuntimeError: a backend that cannot be used here; the message says why.
    """
    check_backend(backend)
    tensor = seen("tensor", tensor)
    if len(gathers) != tensor.ndim:
        raise ValueError(f"gathers must have one entry for each of {tensor.ndim} dimensions, got {len(gathers)}")
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
    for d, index in enumerate(gathers):
        if index is not None and (index.dtype != torch.int64 or index.ndim != 1 or index.device != tensor.device):
            fail_value(f"gathers[{d}]", f"int64 indices on {tensor.device}", index)
    if out is not None:
        _check_out(out, tensor, gathers, dtype)
    elif tensor.dtype == dtype and all(index is None for index in gathers):
        return tensor
    able = {"native": partial(_no_native, tensor, dtype)}
    if choose(backend, "laid_out", tensor.device, able, tell=False) == "torch":
        check_dense("tensor", tensor)
        for d, index in enumerate(gathers):
            if index is not None:
                check_indices(f"gathers[{d}]", index, tensor.shape[d])
        return naive.laid_out(tensor, gathers, dtype, out)
    return native.laid_out(tensor, gathers, out)


def _check_out(out: Tensor, tensor: Tensor, gathers: Gathers, dtype: torch.dtype) -> None:
    check_dense("out", out)
    sizes = tuple(size if at is None else len(at) for size, at in zip(tensor.shape, gathers, strict=True))
    if out.dtype != dtype or out.shape != sizes or not out.is_contiguous() or out.device != tensor.device:
        fail_value("out", f"contiguous, {dtype}, of shape {sizes} and on {tensor.device}", out)


def _no_native(tensor: Tensor, dtype: torch.dtype) -> str | None:
    if tensor.dtype in TYPES and accumulate_dtype(tensor.dtype) == dtype:
        return None
    return f"it casts to the dtype that sums are kept in, got {tensor.dtype} for {dtype}"

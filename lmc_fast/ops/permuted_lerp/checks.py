"""What permuted interpolation takes, and the messages for what it does not."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, repeat
from operator import attrgetter

import torch
from torch import Tensor

from ..._checks import fail_type
from ..._models import FLOATS

__all__ = ["check"]

Gather = tuple[Tensor | None, ...]
_device, _dtype, _nbytes, _shape = (attrgetter(name) for name in ("device", "dtype", "nbytes", "shape"))


def check(
    tensors: Sequence[Sequence[Tensor]],
    weights: list[list[float]],
    gathers: Sequence[Sequence[Gather]],
    out: Sequence[Sequence[Tensor]] | None,
) -> None:
    """Raise for whatever `permuted_lerp_many` does not take.

    A model has hundreds of small tensors, and a look at each can cost more than its sum: all are looked at together,
    an attribute at a time, and one by one only where something does not fit.
    """
    if _fit(tensors, weights, gathers, out):
        return
    if len(gathers) != len(tensors):
        raise ValueError(f"gathers must have one entry for each of {len(tensors)} parts, got {len(gathers)}")
    models = len(tensors[0]) if tensors else 0
    for k, row in enumerate(weights):
        if tensors and len(row) != models:
            raise ValueError(f"weights[{k}] must have one entry for each of {models} tensors, got {len(row)}")
    for p, (part, indices) in enumerate(zip(tensors, gathers, strict=True)):
        if not part or len(part) != models:
            raise ValueError(f"tensors[{p}] must hold {max(models, 1)} tensors, got {len(part)}")
        if len(indices) != models:
            raise ValueError(f"gathers[{p}] must have one entry for each of {models} tensors, got {len(indices)}")
        for m, (tensor, index) in enumerate(zip(part, indices, strict=True)):
            _check_tensor(f"tensors[{p}][{m}]", tensor, part[0])
            _check_gather(f"gathers[{p}][{m}]", index, tensor.shape)
    if out is None:
        return
    if len(out) != len(weights) or any(len(row) != len(tensors) for row in out):
        raise ValueError(f"out must hold {len(weights)} rows of {len(tensors)} tensors")
    for k, places in enumerate(out):
        for p, place in enumerate(places):
            _check_out(k, p, place, tensors[p])


def _fit(
    tensors: Sequence[Sequence[Tensor]],
    weights: list[list[float]],
    gathers: Sequence[Sequence[Gather]],
    out: Sequence[Sequence[Tensor]] | None,
) -> bool:
    """True: nothing is wrong. False: something may be."""
    models = len(tensors[0]) if tensors else 0
    if len(gathers) != len(tensors) or {*map(len, tensors), *map(len, gathers), *map(len, weights)} != {models}:
        return False
    flat = list(chain.from_iterable(tensors))
    if not flat or not all(map(isinstance, flat, repeat(Tensor))):
        return False
    shapes = list(map(_shape, flat))
    return (
        set(map(_dtype, flat)).issubset(FLOATS)
        and set(map(attrgetter("layout"), flat)) == {torch.strided}
        and all(shapes[m::models] == shapes[::models] for m in range(1, models))
        and _gathers_fit(list(chain.from_iterable(gathers)), shapes)
        and (out is None or _out_fits(out, flat, shapes, len(weights), models))
    )


def _gathers_fit(gathers: list[Gather], shapes: list[torch.Size]) -> bool:
    if list(map(len, gathers)) != list(map(len, shapes)):
        return False
    entries = zip(chain.from_iterable(gathers), chain.from_iterable(shapes), strict=True)
    # Most tensors share their indices with others.
    distinct = {(id(one), size): one for one, size in entries if one is not None}
    return all(
        isinstance(one, Tensor) and one.dtype == torch.int64 and one.shape == (size,)
        for (_, size), one in distinct.items()
    )


def _out_fits(
    out: Sequence[Sequence[Tensor]], flat: list[Tensor], shapes: list[torch.Size], rows: int, models: int
) -> bool:
    parts = len(flat) // models
    if len(out) != rows or any(len(row) != parts for row in out):
        return False
    places = list(chain.from_iterable(out))
    if not all(map(isinstance, places, repeat(Tensor))) or not all(map(Tensor.is_contiguous, chain(flat, places))):
        return False
    lows, begins = list(map(Tensor.data_ptr, flat)), list(map(Tensor.data_ptr, places))
    sizes, spans = list(map(_nbytes, flat)), list(map(_nbytes, places))
    return (
        list(map(_shape, places)) == shapes[::models] * rows
        and list(map(_dtype, places)) == list(map(_dtype, flat[::models])) * rows
        and list(map(_device, places)) == list(map(_device, flat[::models])) * rows
        and not any(
            begin < low + size and low < begin + span
            for m in range(models)
            for begin, span, low, size in zip(
                begins, spans, lows[m::models] * rows, sizes[m::models] * rows, strict=True
            )
        )
    )


def _check_tensor(name: str, tensor: Tensor, first: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        fail_type(name, "a tensor", tensor)
    if tensor.dtype not in FLOATS or tensor.layout != torch.strided:
        fail_type(name, "a dense float16, bfloat16, float32 or float64 tensor", tensor)
    if tensor.shape != first.shape:
        raise ValueError(f"{name} must have the shape of the first, {tuple(first.shape)}, got {tuple(tensor.shape)}")


def _check_gather(name: str, index: Gather, shape: torch.Size) -> None:
    if len(index) != len(shape):
        raise ValueError(f"{name} must have one entry for each of {len(shape)} dimensions, got {len(index)}")
    for d, one in enumerate(index):
        if one is None:
            continue
        if not isinstance(one, Tensor) or one.dtype != torch.int64:
            fail_type(f"{name}[{d}]", "an int64 tensor or None", one)
        if one.shape != shape[d : d + 1]:
            raise ValueError(f"{name}[{d}] must have shape ({shape[d]},), got {tuple(one.shape)}")


def _check_out(k: int, p: int, place: Tensor, part: Sequence[Tensor]) -> None:
    first = part[0]
    if not isinstance(place, Tensor):
        fail_type(f"out[{k}][{p}]", "a tensor", place)
    if place.shape != first.shape or place.dtype != first.dtype or place.device != first.device:
        raise ValueError(
            f"out[{k}][{p}] must have shape {tuple(first.shape)}, dtype {first.dtype} and device {first.device}, "
            f"got {tuple(place.shape)}, {place.dtype} and {place.device}"
        )
    begin, end = _extent(place)
    for tensor in part:
        low, high = _extent(tensor)
        if begin < high and low < end and tensor.device == place.device:
            raise ValueError(f"out[{k}][{p}] must share no memory with the tensors that are summed")


def _extent(tensor: Tensor) -> tuple[int, int]:
    """Addresses between which a tensor's entries lie."""
    begin = tensor.data_ptr()
    if tensor.is_contiguous() or tensor.numel() == 0:
        return begin, begin + tensor.nbytes
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return begin, begin + (last + 1) * tensor.element_size()

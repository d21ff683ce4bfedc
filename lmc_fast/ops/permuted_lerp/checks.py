"""What permuted interpolation takes, and the messages for what it does not."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, pairwise, repeat
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..._checks import fail_type
from ..._tensors import BASES, FLOATS, addresses_at_once, check_dense

__all__ = ["Looked", "check"]

Gather = tuple[Tensor | None, ...]
_dtype, _nbytes, _shape = (attrgetter(name) for name in ("dtype", "nbytes", "shape"))
_requires_grad = attrgetter("requires_grad")


class Looked(NamedTuple):
    """Where entries start, of tensors that `_tensors.addresses_at_once` knows to be ordinary; None: of no such ones.

    Attributes:
        data: of all tensors, part by part.
        out: of all results, row by row.
    """

    data: list[int] | None = None
    out: list[int] | None = None


def check(
    tensors: Sequence[Sequence[Tensor]],
    weights: list[list[float]],
    gathers: Sequence[Sequence[Gather]],
    out: Sequence[Sequence[Tensor]] | None,
) -> Looked:
    """Raise for whatever `permuted_lerp_many` does not take; what was seen on the way, for nobody to look again.

    A model has hundreds of small tensors, and a look at each can cost more than its sum: all are looked at together,
    an attribute at a time, and one by one only where something does not fit.
    """
    looked = _fit(tensors, weights, gathers, out)
    if looked is not None:
        return looked
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
        return Looked()
    if len(out) != len(weights) or any(len(row) != len(tensors) for row in out):
        raise ValueError(f"out must hold {len(weights)} rows of {len(tensors)} tensors")
    for k, places in enumerate(out):
        for p, place in enumerate(places):
            _check_out(k, p, place, tensors[p])
    extents = [(low, high - low) for low, high in map(_extent, chain.from_iterable(out))]
    if _overlap(extents):
        raise ValueError("out must hold tensors that share no memory with each other")
    return Looked()


def _fit(
    tensors: Sequence[Sequence[Tensor]],
    weights: list[list[float]],
    gathers: Sequence[Sequence[Gather]],
    out: Sequence[Sequence[Tensor]] | None,
) -> Looked | None:
    """What was seen, if nothing is wrong; None: something may be."""
    models = len(tensors[0]) if tensors else 0
    if len(gathers) != len(tensors) or {*map(len, tensors), *map(len, gathers), *map(len, weights)} != {models}:
        return None
    flat = list(chain.from_iterable(tensors))
    # Of what is no tensor, or one of a kind of its own, nothing else is asked.
    if not flat or not BASES.issuperset(map(type, flat)):
        return None
    try:
        shapes = list(map(_shape, flat))
    except RuntimeError:  # a nested tensor has none
        return None
    if not (
        set(map(_dtype, flat)).issubset(FLOATS)
        and all(shapes[m::models] == shapes[::models] for m in range(1, models))
        and _gathers_fit(list(chain.from_iterable(gathers)), shapes)
    ):
        return None
    data = addresses_at_once(flat, flat[0].device, FLOATS)
    if out is None:
        return Looked(data)
    places = None if data is None else _out_fits(out, flat, data, shapes, len(weights), models)
    return None if places is None else Looked(data, places)


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
    out: Sequence[Sequence[Tensor]],
    flat: list[Tensor],
    lows: list[int],
    shapes: list[torch.Size],
    rows: int,
    models: int,
) -> list[int] | None:
    """Where all results start, if nothing is wrong with them; None: something may be."""
    parts = len(flat) // models
    if len(out) != rows or any(len(row) != parts for row in out):
        return None
    places = list(chain.from_iterable(out))
    if not all(map(isinstance, places, repeat(Tensor))):
        return None
    # On one device, contiguous, with memory of their own.
    begins = addresses_at_once(places, flat[0].device, FLOATS)
    if begins is None:
        return None
    sizes, spans = list(map(_nbytes, flat)), list(map(_nbytes, places))
    fits = (
        not any(map(_requires_grad, places))
        and list(map(_shape, places)) == shapes[::models] * rows
        and list(map(_dtype, places)) == list(map(_dtype, flat[::models])) * rows
        and not _overlap(list(zip(begins, spans, strict=True)))
        and not _overlap_each_other(begins, spans, lows, sizes, rows, models)
    )
    return begins if fits else None


def _overlap_each_other(
    begins: list[int], spans: list[int], lows: list[int], sizes: list[int], rows: int, models: int
) -> bool:
    """Whether any result shares memory with a tensor that it is summed from."""
    begin, span = (np.array(of).reshape(rows, -1, 1) for of in (begins, spans))
    low, size = (np.array(of).reshape(-1, models) for of in (lows, sizes))
    return bool(((begin < low + size) & (low < begin + span)).any())


def _overlap(extents: list[tuple[int, int]]) -> bool:
    """Whether any two of (address, bytes) share memory."""
    extents = sorted(extent for extent in extents if extent[1])
    return any(low + size > begin for (low, size), (begin, _) in pairwise(extents))


def _check_tensor(name: str, tensor: Tensor, first: Tensor) -> None:
    check_dense(name, tensor)
    if tensor.dtype not in FLOATS:
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
    check_dense(f"out[{k}][{p}]", place)
    if place.shape != first.shape or place.dtype != first.dtype or place.device != first.device:
        raise ValueError(
            f"out[{k}][{p}] must have shape {tuple(first.shape)}, dtype {first.dtype} and device {first.device}, "
            f"got {tuple(place.shape)}, {place.dtype} and {place.device}"
        )
    if place.requires_grad or (place.is_inference() and not torch.is_inference_mode_enabled()):
        raise ValueError(f"out[{k}][{p}] must be free to be written to, got one of autograd's or of inference mode")
    if any(size > 1 and step == 0 for size, step in zip(place.shape, place.stride(), strict=True)):
        raise ValueError(f"out[{k}][{p}] must have memory for every entry, got an expanded tensor")
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

"""Permuted interpolation: checks, the choice of a backend, gradients."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from ..._backend import check_backend, choose
from ..._checks import check_floats
from ..._models import accumulate_dtype
from ..._tensors import FLOATS, addresses_at_once, as_base, check_dense, check_indices
from . import naive, native
from .checks import Looked, check

__all__ = ["permuted_lerp", "permuted_lerp_many"]

Gather = tuple[Tensor | None, ...]


def permuted_lerp(
    tensors: Sequence[Tensor],
    weights: Sequence[float],
    gathers: Sequence[Gather],
    *,
    out: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """out = sum_m weights[m] * tensors[m] gathered along every axis.

    Args:
        tensors: one at least; one shape, any strides, float16, bfloat16, float32 or float64. Each is moved to the
            device of the first.
        weights: one for each tensor; a tensor of weight 0 is not read, whatever it holds.
        gathers: for each tensor and each of its dimensions, int64 indices as long as it, or None where nothing
            moves.
        out: where to write: shape, dtype and device of the first tensor, and no memory shared with any. None: a
            new contiguous tensor.
        backend: "auto", "torch", "native" (CPU) or "triton" (GPU).

    Returns:
        `out`; summed in float32 (float64 if any tensor is) and rounded once. Differentiable in the tensors, if the
        gathers are permutations, unless `out` is given.

    Raises:
        TypeError, ValueError: what does not fit the above.
        IndexError: indices beyond their dimension.
        RuntimeError: a backend that cannot be used here, or a gradient through indices that are no permutation.
    """
    return permuted_lerp_many([tensors], [weights], [gathers], out=None if out is None else [[out]], backend=backend)[
        0
    ][0]


def permuted_lerp_many(
    tensors: Sequence[Sequence[Tensor]],
    weights: Sequence[Sequence[float]],
    gathers: Sequence[Sequence[Gather]],
    *,
    out: Sequence[Sequence[Tensor]] | None = None,
    backend: str = "auto",
) -> list[list[Tensor]]:
    """`permuted_lerp` of many tensors (a model's) by several rows of weights, every tensor read once.

    Args:
        tensors: [parts][models]; as `permuted_lerp` takes them for each part.
        weights: [outputs][models].
        gathers: [parts][models], each with an entry for every dimension.
        out: [outputs][parts] tensors to write to, or None for new ones.
        backend: as in `permuted_lerp`; it holds for every part.

    Returns:
        [outputs][parts].
    """
    check_backend(backend)
    rows = [check_floats(f"weights[{k}]", row) for k, row in enumerate(weights)]
    looked = check(tensors, rows, gathers, out)
    if not rows or not tensors:
        return [[] for _ in rows]
    if out is None and torch.is_grad_enabled() and any(t.requires_grad for part in tensors for t in part):
        flat = _PermutedLerp.apply(  # type: ignore[no-untyped-call]
            [len(part) for part in tensors], rows, gathers, backend, *(tensor for part in tensors for tensor in part)
        )
        return [list(flat[k * len(tensors) : (k + 1) * len(tensors)]) for k in range(len(rows))]
    return _run(tensors, rows, gathers, out, backend, looked)


class _PermutedLerp(torch.autograd.Function):
    """Gradient of tensor m: sum over outputs of their gradients, gathered by the inverse of m's permutations."""

    @staticmethod
    def forward(
        ctx: Any,
        counts: list[int],
        weights: list[list[float]],
        gathers: Sequence[Sequence[Gather]],
        backend: str,
        *flat: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.counts, ctx.weights, ctx.gathers, ctx.backend = counts, weights, gathers, backend
        ctx.like = [(tensor.dtype, tensor.device) for tensor in flat]
        tensors = _split(flat, counts)
        return tuple(t for row in _run(tensors, weights, gathers, None, backend) for t in row)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        parts, models = len(ctx.counts), ctx.counts[0]
        inverses: dict[int, Tensor] = {}
        found: list[Tensor | None] = [None] * (parts * models)
        by_part = [[grads[k * parts + p] for k in range(len(ctx.weights))] for p in range(parts)]
        for model in range(models):
            wanted = [p for p in range(parts) if ctx.needs_input_grad[4 + p * models + model]]
            if not wanted:
                continue
            weights = [[row[model] for row in ctx.weights]]
            gathers = []
            for p in wanted:
                inverse = tuple(_inverse(index, inverses) for index in ctx.gathers[p][model])
                gathers.append([inverse] * len(ctx.weights))
            (results,) = permuted_lerp_many([by_part[p] for p in wanted], weights, gathers, backend=ctx.backend)
            for p, result in zip(wanted, results, strict=True):
                dtype, device = ctx.like[p * models + model]
                found[p * models + model] = result.to(device, dtype)
        return (None, None, None, None, *found)


def _run(
    tensors: Sequence[Sequence[Tensor]],
    weights: list[list[float]],
    gathers: Sequence[Sequence[Gather]],
    out: Sequence[Sequence[Tensor]] | None,
    backend: str,
    looked: Looked | None = None,
) -> list[list[Tensor]]:
    devices = {part[0].device for part in tensors}
    if len(devices) > 1:
        return _run_by_device(tensors, weights, gathers, out, backend)
    (device,) = devices
    data = _addresses(tensors, device, looked)
    if data is None:
        _check_each(tensors, gathers)
    chosen = choose(backend, "permuted_lerp", device, {"native": _can, "triton": _can})
    if chosen == "torch":
        if data is not None:
            _check_each([], gathers)
        _check_indices(gathers)
        results = naive.permuted_lerp_many([list(map(as_base, part)) for part in tensors], weights, gathers)
        if out is None:
            return results
        for row, wanted in zip(results, out, strict=True):
            for result, place in zip(row, wanted, strict=True):
                place.copy_(result)
        return [list(row) for row in out]
    ready = tensors if data is not None else [_ready(part, device) for part in tensors]
    moved: dict[int, Tensor] = {}
    distinct = {id(index): index for part in gathers for one in part for index in one if index is not None}
    indices = gathers
    if any(index.device != device for index in distinct.values()):
        for index in distinct.values():
            check_dense("gathers", index)
        indices = [[tuple(_moved(index, device, moved) for index in one) for one in part] for part in gathers]
    # Mixed dtypes are summed in the wider one and rounded to the first at the end.
    begins = None
    if out is None:
        places = [[_new(part[0]) for part in ready] for _ in weights]
        begins = list(map(Tensor.data_ptr, chain.from_iterable(places)))
    elif data is not None and looked is not None and looked.out is not None:
        places, begins = [list(row) for row in out], looked.out
    else:
        places = [
            [place if _takes(place, part[0]) else _new(part[0]) for place, part in zip(row, ready, strict=True)]
            for row in out
        ]
    if chosen == "native":
        native.permuted_lerp_many(ready, weights, indices, places, Looked(data, begins))
    else:
        from . import triton

        triton.permuted_lerp_many(ready, weights, indices, places, Looked(data, begins))
    for k, row in enumerate(places):
        for p, place in enumerate(row):
            if out is not None:
                if out[k][p] is not place:
                    out[k][p].copy_(place)
                row[p] = out[k][p]
            elif ready is not tensors and place.dtype != tensors[p][0].dtype:
                row[p] = place.to(tensors[p][0].dtype)
    return places


def _run_by_device(
    tensors: Sequence[Sequence[Tensor]],
    weights: list[list[float]],
    gathers: Sequence[Sequence[Gather]],
    out: Sequence[Sequence[Tensor]] | None,
    backend: str,
) -> list[list[Tensor]]:
    """A call for each device that parts lie on."""
    found: list[dict[int, Tensor]] = [{} for _ in weights]
    for device in {part[0].device: None for part in tensors}:
        here = [p for p, part in enumerate(tensors) if part[0].device == device]
        places = None if out is None else [[row[p] for p in here] for row in out]
        rows = _run([tensors[p] for p in here], weights, [gathers[p] for p in here], places, backend)
        for results, row in zip(found, rows, strict=True):
            results.update(zip(here, row, strict=True))
    return [[results[p] for p in range(len(tensors))] for results in found]


def _check_each(tensors: Sequence[Sequence[Tensor]], gathers: Sequence[Sequence[Gather]]) -> None:
    """ValueError for a tensor or an index without data, before torch reads it."""
    for p, part in enumerate(tensors):
        for m, tensor in enumerate(part):
            check_dense(f"tensors[{p}][{m}]", tensor)
    for index in {id(one): one for part in gathers for of in part for one in of if one is not None}.values():
        check_dense("gathers", index)


def _check_indices(gathers: Sequence[Sequence[Gather]]) -> None:
    """IndexError for plain torch, in place of its own; compiled code looks for itself."""
    seen: set[int] = set()
    for p, part in enumerate(gathers):
        for m, indices in enumerate(part):
            for d, index in enumerate(indices):
                if index is not None and id(index) not in seen:
                    seen.add(id(index))
                    check_indices(f"gathers[{p}][{m}][{d}]", index)


def _addresses(tensors: Sequence[Sequence[Tensor]], device: torch.device, looked: Looked | None) -> list[int] | None:
    """Where all tensors start, if a backend can read them as they are: `_ready` would change nothing."""
    flat = list(chain.from_iterable(tensors))
    dtypes, models = list(map(attrgetter("dtype"), flat)), len(tensors[0])
    if any(dtypes[m::models] != dtypes[::models] for m in range(1, models)):
        return None
    return addresses_at_once(flat, device, FLOATS) if looked is None else looked.data


def _ready(part: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """The tensors of a part on `device`, in one dtype, without gradients."""
    dtype = part[0].dtype
    if any(tensor.dtype != dtype for tensor in part):
        for tensor in part:
            dtype = torch.promote_types(dtype, accumulate_dtype(tensor.dtype))
    ready = []
    for tensor in part:
        # One that fits already stays the same object.
        ready.append(as_base(tensor.detach() if tensor.requires_grad else tensor).to(device, dtype))
    return ready


def _new(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def _takes(place: Tensor, like: Tensor) -> bool:
    """Whether a backend can write there itself."""
    return place.is_contiguous() and place.dtype == like.dtype and not place.requires_grad


def _moved(index: Tensor | None, device: torch.device, moved: dict[int, Tensor]) -> Tensor | None:
    """An index on `device`; each is moved once."""
    if index is None or index.device == device:
        return index
    if id(index) not in moved:
        moved[id(index)] = index.to(device)
    return moved[id(index)]


def _inverse(index: Tensor | None, inverses: dict[int, Tensor]) -> Tensor | None:
    if index is None:
        return None
    if id(index) not in inverses:
        places = torch.arange(index.numel(), device=index.device)
        inverse = torch.full_like(index, -1)
        inverse[index] = places
        if bool((inverse < 0).any()):
            raise RuntimeError("permuted_lerp has gradients through permutations only, and gathers hold indices twice")
        inverses[id(index)] = inverse
    return inverses[id(index)]


def _split(flat: Sequence[Tensor], counts: list[int]) -> list[Sequence[Tensor]]:
    parts, start = [], 0
    for count in counts:
        parts.append(flat[start : start + count])
        start += count
    return parts


def _can() -> None:
    """No reason against a backend that takes whatever `check` lets through."""

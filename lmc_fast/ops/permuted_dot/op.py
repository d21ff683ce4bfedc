"""Inner products of gathered tensors: the choice of a backend."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..._backend import choose
from ..._checks import fail_type, fail_value
from ..._chunks import Gathers, numbers
from ..._tensors import BASES, check_dense, check_indices_at_once, seen
from ..permuted_lerp.native import TYPES
from . import naive, native

__all__ = ["Overlap", "overlap", "overlaps", "permuted_dot", "permuted_dots"]

_Item = tuple[Tensor, Tensor, Gathers]
# Entries of tensors that are held until they are summed together, in all: what was made for the call is let go then.
HELD = 1 << 20


class Overlap(NamedTuple):
    """||a||^2, ||b||^2 and <a, b>."""

    a: float
    b: float
    dot: float


def permuted_dot(a: Tensor, b: Tensor, gathers: Gathers, *, backend: str = "auto") -> float:
    """<a, b gathered on every dimension>: what a permutation is worth (the objective of Ainsworth et al. 2023, eq. 1).

    Args:
        a, b: real, of one shape, any strides, on one device.
        gathers: for every dimension the indices (int64, on that device) that permute b along it, or None.
        backend: "auto", "torch" or "native" (CPU, both of one dtype of float16 to float64).

    Returns:
        The sum of all products, each made and added in float64 (float16 to float32: products are exact).

    Raises:
        TypeError, ValueError: what does not fit the above.
        IndexError: indices beyond their dimension.
        RuntimeError: a backend that cannot be used here; the message says why.
    """
    (found,) = permuted_dots([(a, b, gathers)], backend=backend)
    return found


def permuted_dots(items: Iterable[tuple[Tensor, Tensor, Gathers]], *, backend: str = "auto") -> list[float]:
    """`permuted_dot` of many pairs; on a GPU the host waits for all of them together.

    Args:
        items: (a, b, gathers) as `permuted_dot` takes them.

    Raises:
        as `permuted_dot`.
    """
    here = _Here(squares=False)
    plain: dict[int, _Item] = {}
    for place, (a, b, gathers) in enumerate(items):
        a, b = seen("a", a), seen("b", b)
        _check_gathers(b, gathers)
        if _chosen(backend, "permuted_dot", a, b) != "torch":
            here.add(place, (a, b, gathers))
            continue
        for name, tensor in (("a", a), ("b", b), *(("gathers", index) for index in gathers if index is not None)):
            check_dense(name, tensor)
        plain[place] = a, b, gathers
    found = {place: dot for place, (*_, dot) in here.sums().items()}
    # Most tensors share their indices with others.
    named = {
        id(index): (f"gathers[{d}]", index)
        for *_, gathers in plain.values()
        for d, index in enumerate(gathers)
        if index is not None
    }
    check_indices_at_once(list(named.values()))
    sums = numbers(naive.permuted_dot(*one) for one in plain.values())
    found |= {place: dot for place, (dot,) in zip(plain, sums, strict=True)}
    return [found[place] for place in range(len(found))]


class _Here:
    """What the compiled core is to sum, many in a call: of a model most tensors are so small that a call takes longer.

    Args:
        squares: whether the sums of squares are wanted as well.
    """

    def __init__(self, squares: bool) -> None:
        self._squares = squares
        self._held: dict[int, _Item] = {}
        self._entries = 0
        self._found: dict[int, tuple[float, float, float]] = {}

    def add(self, place: int, item: _Item) -> None:
        """Have it summed, now or later."""
        self._held[place] = item
        self._entries += item[0].numel()
        if self._entries > HELD:
            self.sums()

    def sums(self) -> dict[int, tuple[float, float, float]]:
        """Of all so far, by place."""
        self._found |= zip(self._held, native.sums(list(self._held.values()), self._squares), strict=True)
        self._held, self._entries = {}, 0
        return self._found


def _check_gathers(b: Tensor, gathers: Gathers) -> None:
    if len(gathers) != b.ndim:
        raise ValueError(f"gathers must have one entry for each of {b.ndim} dimensions, got {len(gathers)}")
    for d, (index, size) in enumerate(zip(gathers, b.shape, strict=False)):
        if index is None:
            continue
        if type(index) not in BASES:
            check_dense(f"gathers[{d}]", index)
        if index.device != b.device:
            raise ValueError(f"gathers[{d}] must be on the device of b, {b.device}, got {index.device}")
        if index.dtype != torch.int64 or index.shape != (size,):
            fail_value(f"gathers[{d}]", f"int64 indices, {size} of them", index)


def overlap(a: Tensor, b: Tensor, *, backend: str = "auto") -> Overlap:
    """||a||^2, ||b||^2 and <a, b> in one pass.

    Args, Raises:
        as `permuted_dot`.
    """
    (found,) = overlaps([(a, b)], backend=backend)
    return found


def overlaps(pairs: Iterable[tuple[Tensor, Tensor]], *, backend: str = "auto") -> list[Overlap]:
    """`overlap` of many pairs; on a GPU the host waits for all of them together.

    Raises:
        as `overlap`.
    """
    here = _Here(squares=True)
    plain: dict[int, Tensor] = {}
    for place, (a, b) in enumerate(pairs):
        a, b = seen("a", a), seen("b", b)
        if _chosen(backend, "overlap", a, b) == "torch":
            check_dense("a", a)
            check_dense("b", b)
            plain[place] = naive.overlap(a, b)
        else:
            here.add(place, (a, b, (None,) * a.ndim))
    found: dict[int, tuple[float, ...]] = {**here.sums()}
    found |= dict(zip(plain, map(tuple, numbers(plain.values())), strict=True))
    return [Overlap(*found[place]) for place in range(len(found))]


def _chosen(backend: str, operation: str, a: Tensor, b: Tensor) -> str:
    if a.shape != b.shape:
        fail_value("b", f"a tensor of the shape of a, {tuple(a.shape)}", b)
    if a.device != b.device:
        raise ValueError(f"b must be on the device of a, {a.device}, got {b.device}")
    for name, tensor in (("a", a), ("b", b)):
        if tensor.is_complex():
            fail_type(name, "a tensor of real numbers", tensor)
    return choose(backend, operation, a.device, {"native": partial(_no_native, a, b)}, tell=False)


def _no_native(a: Tensor, b: Tensor) -> str | None:
    return None if a.dtype == b.dtype and a.dtype in TYPES else f"it takes one dtype of both, got {a.dtype}, {b.dtype}"

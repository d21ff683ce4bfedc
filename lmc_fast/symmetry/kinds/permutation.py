"""Units that change places: what every hidden layer permits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..._checks import fail_type
from ...assignment import linear_sum_assignment_batched
from .kind import Kind

__all__ = ["Permutation", "assigned", "checked_places", "taken"]

# As many places are sorted before others are marked.
FEW = 512


class Permutation(Kind):
    """``element[..., i]``, int64, is the unit that is put at place i. The best one is a linear assignment problem."""

    name = "permutation"
    moves_whole = True
    may_own = True

    def identity(self, shape: tuple[int, ...]) -> Tensor:
        return torch.arange(shape[-1]).expand(shape).clone()

    def random(self, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
        return torch.from_numpy(rng.permuted(self.identity(shape).numpy(), axis=-1))

    def checked(self, argument: str, element: Any, shape: tuple[int, ...]) -> Tensor:
        return checked_places(argument, element, shape)

    def best(self, gain: Tensor) -> tuple[Tensor, Tensor]:
        flat = gain[..., 0, :, 0]
        places = assigned(flat)
        return places, _along(flat, places).sum(-1)

    def value(self, gain: Tensor, element: Tensor) -> Tensor:
        return _along(gain[..., 0, :, 0], element.to(gain.device)).sum(-1)

    def act(self, element: Tensor, x: Tensor) -> Tensor:
        return taken(x, element)

    def after(self, second: Tensor, first: Tensor) -> Tensor:
        return first.gather(-1, second)

    def inverse(self, element: Tensor) -> Tensor:
        return element.argsort(-1)

    def log10_count(self, units: int) -> float:
        return math.lgamma(units + 1) / math.log(10)


def assigned(gain: Tensor) -> Tensor:
    """The best assignment for each of many gains [..., units, units]: int64 [..., units], on the gain's device."""
    size = gain.shape[-1]
    flat = gain.detach().to("cpu").reshape(-1, size, size)
    flat = flat if flat.dtype in (torch.float32, torch.float64) else flat.float()
    columns = linear_sum_assignment_batched(flat.contiguous().numpy(), maximize=True)[1]
    return torch.from_numpy(columns).reshape(gain.shape[:-1]).to(gain.device)


def taken(x: Tensor, places: Tensor) -> Tensor:
    """x [..., units, entries, k] with the unit ``places[..., i]`` at i."""
    index = places.to(x.device).expand(x.shape[:-2])[..., None, None]
    return x.gather(-3, index.expand(x.shape))


def _along(gain: Tensor, places: Tensor) -> Tensor:
    """The entries of gains [..., units, units] that are chosen, in float64: [..., units]."""
    return gain.gather(-1, places.expand(gain.shape[:-1])[..., None])[..., 0].double()


def checked_places(argument: str, element: Any, shape: tuple[int, ...]) -> Tensor:
    """A copy of permutations, int64; TypeError or ValueError if they are none of this shape."""
    if isinstance(element, Tensor):
        element = element.detach().cpu()
        if element.is_floating_point() or element.is_complex():
            fail_type(argument, "integers", element)
    try:
        array = np.asarray(element)
    except ValueError:
        fail_type(argument, "integers in rows of one length", element)
    if array.dtype.kind not in "iu":
        fail_type(argument, "integers", element)
    if array.shape != shape:
        raise ValueError(f"{argument} must have shape {shape}, got {array.shape}")
    array = array.astype(np.int64)
    rows = array.reshape(-1, shape[-1])
    if array.size <= FEW:
        wrong = np.flatnonzero((np.sort(rows, axis=-1) != np.arange(shape[-1])).any(axis=1))
    else:
        outside = (rows < 0) | (rows >= shape[-1])
        there = np.zeros(rows.shape, dtype=bool)
        there[np.arange(len(rows))[:, None], np.where(outside, 0, rows)] = True
        wrong = np.flatnonzero(outside.any(axis=1) | ~there.all(axis=1))
    if wrong.size:
        row = f" in row {wrong[0]}" if len(shape) > 1 else ""
        raise ValueError(f"{argument} must hold each of 0..{shape[-1] - 1} once{row}, and does not")
    return torch.from_numpy(array)

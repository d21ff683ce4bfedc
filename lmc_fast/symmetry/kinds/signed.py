"""Units that change places and signs: what lies between maps that are odd, as tanh is, or linear."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .kind import Kind
from .permutation import assigned, checked_places, taken

__all__ = ["Signed"]


class Signed(Kind):
    """``element[..., i]``, int64, is the unit j that is put at place i, or -1 - j where its sign is turned.

    The best one is the assignment of |gain|, with the gain's signs.
    """

    name = "signed"
    moves_whole = True

    def identity(self, shape: tuple[int, ...]) -> Tensor:
        return torch.arange(shape[-1]).expand(shape).clone()

    def random(self, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
        places = rng.permuted(self.identity(shape).numpy(), axis=-1)
        return torch.from_numpy(np.where(rng.integers(0, 2, shape) == 1, -1 - places, places))

    def checked(self, argument: str, element: Any, shape: tuple[int, ...]) -> Tensor:
        # What is no integer is told there.
        is_integer = isinstance(element, Tensor) and not (element.is_floating_point() or element.is_complex())
        found = torch.as_tensor(element).detach().cpu().to(torch.int64) if is_integer else None
        if found is None:
            array = np.asarray(element)
            if array.dtype.kind not in "iu":
                return checked_places(argument, element, shape)
            found = torch.from_numpy(array.astype(np.int64))
        checked_places(f"the places of {argument}", _places(found), shape)
        return found.clone()

    def best(self, gain: Tensor) -> tuple[Tensor, Tensor]:
        flat = gain[..., 0, :, 0]
        # Signs alone have no places to be assigned.
        places = assigned(flat.abs()) if flat.shape[-1] > 1 else torch.zeros_like(flat[..., 0], dtype=torch.int64)
        chosen = flat.gather(-1, places[..., None])[..., 0]
        return torch.where(chosen < 0, -1 - places, places), chosen.abs().double().sum(-1)

    def value(self, gain: Tensor, element: Tensor) -> Tensor:
        flat, element = gain[..., 0, :, 0], element.to(gain.device).expand(gain.shape[:-3])
        chosen = flat.gather(-1, _places(element)[..., None])[..., 0]
        return torch.where(element < 0, -chosen, chosen).double().sum(-1)

    def act(self, element: Tensor, x: Tensor) -> Tensor:
        moved = taken(x, _places(element))
        turned = (element < 0).to(x.device).expand(x.shape[:-2])[..., None, None]
        return torch.where(turned, -moved, moved)

    def after(self, second: Tensor, first: Tensor) -> Tensor:
        places = first.gather(-1, _places(second))
        return torch.where(second < 0, -1 - places, places)

    def inverse(self, element: Tensor) -> Tensor:
        back = _places(element).argsort(-1)
        return torch.where(element.gather(-1, back) < 0, -1 - back, back)

    def log10_count(self, units: int) -> float:
        return math.lgamma(units + 1) / math.log(10) + units * math.log10(2)


def _places(element: Tensor) -> Tensor:
    return torch.where(element < 0, -1 - element, element)

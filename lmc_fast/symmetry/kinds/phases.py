"""Planes that turn, each by an angle of its own: what rotary position embedding permits of queries and keys.

Positions turn the plane of each frequency. What commutes with that is a complex number for each plane; of those that
keep lengths, a phase.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .kind import Kind
from .learned import Learned
from .orthogonal import TOLERANCE, _floats

__all__ = ["Phases"]


class Phases(Kind):
    """``element[..., i, :]``, float64, is (cos, sin) of the angle by which plane i turns; planes stay in their places.

    A unit is a plane, with two entries, x and y. With z = x + i y of each model, the gain of plane f is
    g_f = sum conj(b_f) a_f, and the best phase g_f / |g_f|, worth |g_f|.
    """

    name = "phases"
    entries = 2

    def identity(self, shape: tuple[int, ...]) -> Tensor:
        return torch.tensor([1.0, 0.0], dtype=torch.float64).expand(*shape, 2).clone()

    def random(self, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
        angles = torch.from_numpy(rng.uniform(0.0, 2 * np.pi, shape))
        return torch.stack([angles.cos(), angles.sin()], dim=-1)

    def checked(self, argument: str, element: Any, shape: tuple[int, ...]) -> Tensor:
        found = _floats(argument, element, (*shape, 2))
        off = (found.square().sum(-1) - 1).abs().amax() if found.numel() else 0.0
        if not float(off) <= TOLERANCE:
            raise ValueError(f"{argument} must hold pairs of cos and sin, but a length is {float(off):.2g} from 1")
        return found

    def best(self, gain: Tensor) -> tuple[Tensor, Tensor]:
        planes = _complex_gain(gain)
        size = torch.linalg.vector_norm(planes, dim=-1, keepdim=True)
        still = torch.zeros_like(planes)
        still[..., 0] = 1.0
        return torch.where(size > 0, planes / torch.where(size > 0, size, 1.0), still), size.sum((-2, -1))

    def value(self, gain: Tensor, element: Tensor) -> Tensor:
        return (_complex_gain(gain) * element.to(gain.device)).sum((-2, -1))

    def act(self, element: Tensor, x: Tensor) -> Tensor:
        sums = torch.float64 if x.dtype == torch.float64 else torch.float32
        cos, sin = (part[..., None] for part in element.to(x.device, sums).unbind(-1))
        first, second = x.to(sums).unbind(-2)
        return torch.stack([cos * first - sin * second, sin * first + cos * second], dim=-2).to(x.dtype)

    def after(self, second: Tensor, first: Tensor) -> Tensor:
        (c1, s1), (c2, s2) = first.unbind(-1), second.unbind(-1)
        return torch.stack([c1 * c2 - s1 * s2, s1 * c2 + c1 * s2], dim=-1)

    def inverse(self, element: Tensor) -> Tensor:
        return element * torch.tensor([1.0, -1.0], dtype=element.dtype)

    def log10_count(self, units: int) -> float:
        return 0.0

    def learned(self, element: Tensor, device: torch.device) -> Learned:
        angles = torch.zeros(element.shape[:-1], dtype=torch.float32, device=device, requires_grad=True)
        here = element.to(device)

        def make(dtype: torch.dtype) -> Tensor:
            by = angles.to(dtype)
            return self.after(torch.stack([by.cos(), by.sin()], dim=-1), here.to(dtype))

        return Learned((angles,), make)


def _complex_gain(gain: Tensor) -> Tensor:
    """(real, imaginary) of each plane's gain: float64 [..., planes, 2]."""
    # [..., 2, 2, planes]: entry of a, entry of b.
    own = gain.diagonal(dim1=-4, dim2=-2).double()
    real = own[..., 0, 0, :] + own[..., 1, 1, :]
    imaginary = own[..., 1, 0, :] - own[..., 0, 1, :]
    return torch.stack([real, imaginary], dim=-1)

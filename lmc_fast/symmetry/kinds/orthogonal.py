"""Units that turn: an axis between linear maps and norms without weights permits every orthogonal map.

With the vector of ones held the mean over the axis is kept as well, so that a LayerNorm commutes with the map, too.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..._checks import fail_type
from .kind import Kind
from .learned import Learned, cayley
from .polar import nuclear_norm, polar_factor

__all__ = ["Orthogonal", "OrthogonalKeepingOnes"]

# A map is taken for orthogonal if Q Q^T is within this of I.
TOLERANCE = 1e-6


class Orthogonal(Kind):
    """``element[..., i, j]``, float64, is how much of unit j goes to place i. The best one is the gain's polar
    factor."""

    name = "orthogonal"

    def identity(self, shape: tuple[int, ...]) -> Tensor:
        return torch.eye(shape[-1], dtype=torch.float64).expand(*shape, shape[-1]).clone()

    def random(self, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
        return _haar(shape[:-1], shape[-1], rng)

    def checked(self, argument: str, element: Any, shape: tuple[int, ...]) -> Tensor:
        found = _floats(argument, element, (*shape, shape[-1]))
        off = (found @ found.mT - torch.eye(shape[-1], dtype=torch.float64)).abs().amax() if found.numel() else 0.0
        if not float(off) <= TOLERANCE:
            raise ValueError(f"{argument} must be orthogonal, but Q Q^T is {float(off):.2g} from the identity")
        return found

    def best(self, gain: Tensor) -> tuple[Tensor, Tensor]:
        return polar_factor(gain[..., 0, :, 0])

    def most(self, gain: Tensor) -> Tensor | None:
        return nuclear_norm(gain[..., 0, :, 0])

    def value(self, gain: Tensor, element: Tensor) -> Tensor:
        return (gain[..., 0, :, 0].double() * element.to(gain.device)).sum((-2, -1))

    def act(self, element: Tensor, x: Tensor) -> Tensor:
        return turned(element, x, x.shape[-3:-1])

    def after(self, second: Tensor, first: Tensor) -> Tensor:
        return second @ first

    def inverse(self, element: Tensor) -> Tensor:
        return element.mT.contiguous()

    def log10_count(self, units: int) -> float:
        return math.lgamma(units + 1) / math.log(10)

    def learned(self, element: Tensor, device: torch.device) -> Learned:
        return _turning(element, device)


class OrthogonalKeepingOnes(Orthogonal):
    """As `Orthogonal`, with Q 1 = 1: of one unit there is the identity alone."""

    name = "orthogonal_keeping_ones"

    def random(self, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
        return _with_ones(_haar(shape[:-1], shape[-1] - 1, rng))

    def checked(self, argument: str, element: Any, shape: tuple[int, ...]) -> Tensor:
        found = super().checked(argument, element, shape)
        off = (found.sum(-1) - 1).abs().amax() if found.numel() else 0.0
        if not float(off) <= TOLERANCE:
            raise ValueError(f"{argument} must keep the vector of ones, but turns it by {float(off):.2g}")
        return found

    def best(self, gain: Tensor) -> tuple[Tensor, Tensor]:
        flat = gain[..., 0, :, 0].double()
        basis = _complement(flat.shape[-1]).to(flat.device)
        # In the gain's dtype, which tells what is dead.
        inner = (basis.T @ flat @ basis).to(gain.dtype)
        turn = _with_ones(polar_factor(inner)[0])
        return turn, (turn * flat).sum((-2, -1))

    def most(self, gain: Tensor) -> Tensor | None:
        return None

    def learned(self, element: Tensor, device: torch.device) -> Learned:
        basis = _complement(element.shape[-1])
        inner = _turning(basis.T @ element @ basis, device)
        return Learned(inner.parameters, lambda dtype: _with_ones(inner.make(dtype)))


def turned(element: Tensor, x: Tensor, units: tuple[int, ...]) -> Tensor:
    """x [..., units, entries, k] times a matrix over its units and entries together."""
    total = math.prod(units)
    sums = torch.float64 if x.dtype == torch.float64 else torch.float32
    flat = x.reshape(*x.shape[:-3], total, x.shape[-1]).to(sums)
    moved = element.to(x.device, sums) @ flat
    return moved.to(x.dtype).reshape(x.shape)


def _turning(start: Tensor, device: torch.device) -> Learned:
    """Orthogonal maps around one."""
    square = torch.zeros(start.shape, dtype=torch.float32, device=device, requires_grad=True)
    here = start.to(device)
    return Learned((square,), lambda dtype: cayley(square.to(dtype)) @ here.to(dtype))


def _complement(size: int) -> Tensor:
    """An orthonormal basis of the vectors that sum to 0: [size, size - 1] (Householder's reflection of e_1)."""
    vector = torch.full((size,), size**-0.5, dtype=torch.float64)
    vector[0] += 1.0
    basis = torch.eye(size, dtype=torch.float64) - torch.outer(vector, vector) / vector[0]
    return basis[:, 1:]


def _with_ones(inner: Tensor) -> Tensor:
    """The map that is `inner` on the complement of the vector of ones, and keeps that."""
    size = inner.shape[-1] + 1
    basis = _complement(size).to(inner)
    turn: Tensor = basis @ inner @ basis.T + 1.0 / size
    return turn


def _haar(owners: tuple[int, ...], size: int, rng: np.random.Generator) -> Tensor:
    """Orthogonal matrices drawn by Haar's measure (Mezzadri, "How to generate random matrices", 2007)."""
    if size == 0:
        return torch.zeros(*owners, 0, 0, dtype=torch.float64)
    q, r = torch.linalg.qr(torch.from_numpy(rng.standard_normal((*owners, size, size))))
    signs = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(torch.float64)
    drawn: Tensor = q * signs[..., None, :]
    return drawn


def _floats(argument: str, element: Any, shape: tuple[int, ...]) -> Tensor:
    """A copy in float64 on the CPU, of this shape and finite."""
    try:
        found = torch.as_tensor(element).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        fail_type(argument, "floating point numbers", element)
    if not found.is_floating_point():
        fail_type(argument, "floating point numbers", element)
    if tuple(found.shape) != shape:
        raise ValueError(f"{argument} must have shape {shape}, got {tuple(found.shape)}")
    if not bool(torch.isfinite(found).all()):
        raise ValueError(f"{argument} must be finite, and holds nan or infinity")
    return found.to(torch.float64, copy=True)

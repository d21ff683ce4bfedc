"""Spectral overlap in plain torch, with the products of singular vectors in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["counted", "first_outside", "rounding_of", "spectral_overlap"]


def spectral_overlap(
    u_a: Tensor,
    s_a: Tensor,
    v_a: Tensor,
    u_b: Tensor,
    s_b: Tensor,
    v_b: Tensor,
    rows: Tensor | None,
    columns: Tensor | None,
    gammas: Sequence[float],
) -> Tensor:
    """R(gamma) for every gamma, float64 on the CPU; arguments as `ops.spectral_overlap.spectral_overlap` takes them."""
    left = u_a.T @ (u_b if rows is None else u_b.index_select(0, rows))
    right = v_a.T @ (v_b if columns is None else v_b.index_select(0, columns))
    # [r_a, r_b]
    both = left.double() * right.double()
    sides = (u_a.shape[0], v_a.shape[0])
    found = []
    for gamma in gammas:
        of_a, of_b = (counted(s, gamma, max(sides), min(sides)) for s in (s_a, s_b))
        total = float(both[of_a][:, of_b].sum())
        pairs = int(of_a.sum()) * int(of_b.sum())
        found.append(total / pairs**0.5 if pairs else 0.0)
    return torch.tensor(found, dtype=torch.float64)


def counted(values: Tensor, gamma: float, size: int, rank: int | None = None) -> Tensor:
    """Which singular values take part: at least gamma times the largest, and no rounding error of zero; bool [r].

    Equal values take part together: a threshold within rounding of some takes in all that follow each other within
    rounding. Values that are equal come out of an SVD within 4 sqrt(rank) * eps of the largest, zeros among them, and
    never further off than size * eps.

    Args:
        values: the singular values, or the largest of them.
        size, rank: the longer and the shorter side of the matrix; `rank` None: there are as many values.
    """
    if not values.numel():
        return values > 0
    falling = values.sort(descending=True).values
    near = rounding_of(falling, size, rank or values.numel())
    outside = first_outside(falling, gamma, near)
    passes = values > falling[outside] if outside < len(falling) else torch.ones_like(values, dtype=torch.bool)
    return passes & (values > near)


def rounding_of(falling: Tensor, size: int, rank: int) -> Tensor:
    """How far singular values that are equal come out of an SVD, the largest first: a scalar."""
    near: Tensor = falling[0] * (torch.finfo(falling.dtype).eps * min(4 * rank**0.5, size))
    return near


def first_outside(falling: Tensor, gamma: float, near: Tensor) -> int:
    """The first of the falling values that is below gamma times the largest, behind a gap wider than rounding."""
    ends = (falling[1:] < gamma * falling[0] - near) & (falling[:-1] - falling[1:] > near)
    return 1 + int(ends.int().argmax()) if bool(ends.any()) else len(falling)

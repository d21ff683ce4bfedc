"""Spectral overlap in plain torch, with the products of singular vectors in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["counted", "spectral_overlap"]


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
    size = max(u_a.shape[0], v_a.shape[0])
    found = []
    for gamma in gammas:
        of_a, of_b = counted(s_a, gamma, size), counted(s_b, gamma, size)
        total = float(both[of_a][:, of_b].sum())
        pairs = int(of_a.sum()) * int(of_b.sum())
        found.append(total / pairs**0.5 if pairs else 0.0)
    return torch.tensor(found, dtype=torch.float64)


def counted(values: Tensor, gamma: float, size: int) -> Tensor:
    """Which singular values take part: at least gamma times the largest, and no rounding error of zero; bool [r].

    Equal values take part together: a threshold within rounding of some takes in all that follow each other within
    rounding. Values that are equal come out of an SVD within 4 sqrt(r) * eps of the largest, zeros among them, and
    never further off than size * eps, `size` being the longer side of the matrix.
    """
    if not values.numel():
        return values > 0
    eps = torch.finfo(values.dtype).eps
    falling = values.sort(descending=True).values
    most = falling[0]
    near: Tensor = most * (eps * min(4 * values.numel() ** 0.5, size))
    # A gap wider than rounding behind a value that is below the threshold ends the set.
    ends = (falling[1:] < gamma * most - near) & (falling[:-1] - falling[1:] > near)
    first_out = falling[1:][ends]
    passes = values > first_out[0] if first_out.numel() else torch.ones_like(values, dtype=torch.bool)
    return passes & (values > near)

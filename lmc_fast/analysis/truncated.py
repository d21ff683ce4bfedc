"""The few largest singular values and vectors of a matrix, with a proof that no other reaches the threshold."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops.spectral_overlap.naive import first_outside, rounding_of

__all__ = ["largest_factors"]

# Vectors that are multiplied together, at most, and how many times smaller than the short side they are.
_BLOCK = 32
_BLOCKS = 64
# The short side of the smallest matrix for which it pays.
_LEAST = 512
# Ritz values are looked at when the basis holds so many blocks more.
_EVERY = 3


def largest_factors(w: Tensor, gamma: float) -> tuple[Tensor, Tensor, Tensor] | None:
    """U [m, k], S [k] and V [n, k] of the singular values that take part in R(gamma); None if they are not few.

    Block Lanczos on W^T W from random vectors, the whole basis kept orthogonal (Golub, Luk, Overton 1981; Halko,
    Martinsson, Tropp 2011, for the random start). It goes on until the values that take part have converged, and no
    other can: with t the least of them or the threshold, less rounding, if t^2 I - (W^T W - V S^2 V^T) is positive
    definite, W^T W is the sum of a matrix below t^2 and one of rank k, and has k eigenvalues of t^2 or more at most.
    A Cholesky factorisation tells.

    Args:
        w: [m, n], float32 or float64.
        gamma: above 0.

    Returns:
        None where a basis of a third of the short side is not enough, where the square of the threshold is within
        rounding, or where the matrix is too small for it to pay; else what an SVD would give, to rounding.
    """
    wide = w.shape[0] < w.shape[1]
    # [long, short]
    x = w.T if wide else w
    if x.shape[1] < _LEAST:
        return None
    largest = x.abs().max()
    if not largest > 0:
        return None
    found = _search(x / largest, gamma)
    if found is None:
        return None
    u, s, v = found
    return (v, s * largest, u) if wide else (u, s * largest, v)


def _search(x: Tensor, gamma: float) -> tuple[Tensor, Tensor, Tensor] | None:
    size, rank = x.shape
    most, width = rank // 3, min(_BLOCK, rank // _BLOCKS)
    eps = torch.finfo(x.dtype).eps
    start = torch.randn(rank, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis = torch.empty(rank, most, dtype=x.dtype, device=x.device)
    images = torch.empty(size, most, dtype=x.dtype, device=x.device)
    block = torch.linalg.qr(start.to(x.device, x.dtype)).Q
    gram = None
    for begin in range(0, most - width + 1, width):
        end = begin + width
        basis[:, begin:end] = block
        images[:, begin:end] = x @ block
        if (end // width) % _EVERY == 0:
            u, s, v, outside = _ritz(basis[:, :end], images[:, :end], gamma, size, rank)
            if 2 * outside > end:
                return None
            off = torch.linalg.vector_norm(x.T @ u - v * s, dim=0)[:outside]
            if outside < len(s) and float(off.max()) <= 8 * eps * rank**0.5 * float(s[0]):
                gram = x.T @ x if gram is None else gram
                near = rounding_of(s, size, rank)
                if _none_beyond(gram, s[:outside], v[:, :outside], torch.minimum(s[outside - 1], gamma * s[0]) - near):
                    return u[:, :outside].clone(), s[:outside].clone(), v[:, :outside].clone()
        block = x.T @ images[:, begin:end]
        held = basis[:, :end]
        # Once leaves what rounding brings back; twice is enough (Kahan).
        for _ in range(2):
            block = torch.linalg.qr(block - held @ (held.T @ block)).Q
    return None


def _ritz(basis: Tensor, images: Tensor, gamma: float, size: int, rank: int) -> tuple[Tensor, Tensor, Tensor, int]:
    """The first Ritz triplets and how many of them take part; at least one more than those is among them."""
    # [basis, basis]
    values, turns = torch.linalg.eigh(images.T @ images)
    falling = values.flip(0).clamp_min(0).sqrt()
    outside = first_outside(falling, gamma, rounding_of(falling, size, rank))
    shown = turns.flip(1)[:, : outside + 2]
    u, s, turn = torch.linalg.svd(images @ shown, full_matrices=False)
    v = basis @ (shown @ turn.T)
    return u, s, v, first_outside(s, gamma, rounding_of(s, size, rank))


def _none_beyond(gram: Tensor, s: Tensor, v: Tensor, limit: Tensor) -> bool:
    """Whether all singular values but as many as these [k] are below the limit, a scalar; v is [rank, k]."""
    inside = v * s
    beyond = torch.addmm(gram, inside, inside.T, alpha=-1).neg_()
    beyond.diagonal().add_(limit**2)
    return int(torch.linalg.cholesky_ex(beyond).info) == 0

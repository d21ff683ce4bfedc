"""R at gamma = 0 without singular vectors: the inner product of two polar factors.

On a CPU by Halley's iteration with dynamic weights, a Cholesky factorisation a step, as it takes a third of the steps;
elsewhere by Newton-Schulz, in matrix products alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..._checks import check_int

__all__ = ["PolarOverlap", "polar_overlap"]


# Weights of Halley's iteration times eps are at most this: how far rounding turns the least singular vectors.
_TURN = 0.01


@dataclass(frozen=True)
class PolarOverlap:
    """R(0) of two matrices of full rank, and how far it can be from the exact value.

    Attributes:
        value: <O_a, P O_b Q^T> / r, for polar factors O and r = min(m, n).
        bound: |value - R(0)| is at most this, rounding aside; of the order of 1 where a matrix lacks rank.
        steps: of the iteration, the more of the two.
    """

    value: float
    bound: float
    steps: int


def polar_overlap(
    w_a: Tensor, w_b: Tensor, rows: Tensor | None = None, columns: Tensor | None = None, *, max_steps: int = 80
) -> PolarOverlap:
    """R(0) from the weights themselves.

    At gamma = 0 the sum over all singular vectors is <O_a, P O_b Q^T>, O = U V^T the polar factor, to which iterations
    on the singular values of X lead, from X = W / ||W^T W||_F^(1/2), with G = X^T X:

    - Halley's, X <- X (a I + b G) (I + c G)^-1, with the weights that lift the least value l most (Nakatsukasa, Bai,
      Gygi, "Optimizing Halley's iteration for computing the matrix polar decomposition", 2010); l is rounding as
      `spectral_overlap` counts it, and c bounded by it. On a CPU, until all values that count are near 1.
    - Newton-Schulz, X <- X (15 I - 10 G + 3 G^2) / 8 (Higham, "Functions of Matrices", 2008, section 8.3). A value
      grows by up to 15/8 a step, then goes to 1 with its error cubed.

    The bound: a singular value x of X has |x - 1| <= |x^2 - 1|, so ||X - O||_F <= ||X^T X - I||_F = e, and the
    inner product is off by at most e_a ||X_b||_F + sqrt(r) e_b. Values that are zero to rounding do not get to 1:
    there the polar factor is not unique, R(0) as `spectral_overlap` defines it leaves them out, and the bound says
    that this value cannot be relied on.

    Args:
        w_a, w_b: [m, n]; float64 is kept, anything else is iterated in float32.
        rows, columns: int64 indices that permute b; None where nothing moves.
        max_steps: of the iterations, at most; they end when the error falls no more, or is 1e-5 sqrt(r) (float64:
            1e-12 sqrt(r)).

    Raises:
        ValueError: shapes that differ or are empty.
    """
    if w_a.ndim != 2 or w_a.shape != w_b.shape or w_a.numel() == 0:
        raise ValueError(
            f"w_a and w_b must be matrices of one shape, not empty, got {tuple(w_a.shape)} and {tuple(w_b.shape)}"
        )
    check_int("max_steps", max_steps, 0)
    x_a, e_a, steps_a = _polar(w_a, max_steps)
    x_b, e_b, steps_b = _polar(w_b.to(w_a.device), max_steps)
    norm_b = float(torch.linalg.vector_norm(x_b, dtype=torch.float64))
    for dim, index in enumerate((rows, columns)):
        if index is not None:
            x_b = x_b.index_select(dim, index.to(x_b.device))
    rank = min(w_a.shape)
    value = float((x_a.double() * x_b.double()).sum()) / rank
    return PolarOverlap(value, (e_a * norm_b + rank**0.5 * e_b) / rank, max(steps_a, steps_b))


def _polar(w: Tensor, max_steps: int) -> tuple[Tensor, float, int]:
    """An approximate polar factor [m, n], ||X^T X - I||_F of the smaller Gram matrix, and the steps taken."""
    x = w.to(torch.float64 if w.dtype == torch.float64 else torch.float32)
    wide = x.shape[0] < x.shape[1]
    # [long, short]
    x = x.T if wide else x
    size, rank = x.shape
    eps = torch.finfo(x.dtype).eps
    largest = x.abs().max()
    x = x / largest if largest > 0 else x
    gram = x.T @ x
    # The largest singular value is at most this, and at least that over rank^(1/4).
    scale = float(torch.linalg.matrix_norm(gram)) ** 0.5
    if scale > 0:
        x, gram = x / scale, gram / scale**2
    halley = _takes_halley(x)
    # Of the values that count.
    least = eps * min(4 * rank**0.5, size) / rank**0.25
    enough = (1e-5 if x.dtype == torch.float32 else 1e-12) * rank**0.5
    step, error, was = 0, _error(gram), math.inf
    while step < max_steps and error > enough and not (error < 0.1 and error >= was):
        if halley and least < 0.9:
            factor, least = _halley(gram, least, _TURN / eps)
        elif error**2 > 0.98 + rank * (1 - least**2) ** 2:
            # More than the values that count can leave: another is near 0, and would stay there.
            break
        elif (last := 0.75 * error**2 + 0.25 * error**3) <= enough:
            # X <- X (3 I - G) / 2 leaves X^T X - I = -(3 E^2 + E^3) / 4 of E = I - G: there is no need to look.
            factor = gram.mul_(-0.5)
            factor.diagonal().add_(1.5)
            x = x @ factor
            return (x.T if wide else x), last, step + 1
        else:
            factor = gram @ gram
            factor.mul_(3 / 8).add_(gram, alpha=-10 / 8).diagonal().add_(15 / 8)
            least *= (15 - 10 * least**2 + 3 * least**4) / 8
        x = x @ factor
        gram = x.T @ x
        was, error = error, _error(gram)
        step += 1
    return x.T if wide else x, error, step


def _takes_halley(x: Tensor) -> bool:
    return x.device.type == "cpu"


def _error(gram: Tensor) -> float:
    """||G - I||_F."""
    off = gram.clone()
    off.diagonal().sub_(1)
    return float(torch.linalg.vector_norm(off, dtype=torch.float64))


def _halley(gram: Tensor, least: float, most: float) -> tuple[Tensor, float]:
    """(a I + b G) (I + c G)^-1 with c of at most `most`, and what becomes of the least singular value."""
    a, b, c = _weights(least)
    if c > most:
        # The same family of weights, a + b = 1 + c and b = (a - 1)^2 / 4: 1 stays 1, and nothing passes it.
        c = most
        a = 2 * math.sqrt(1 + c) - 1
        b = (a - 1) ** 2 / 4
    shifted = gram * c
    shifted.diagonal().add_(1)
    # b/c I + (a - b/c) (I + c G)^-1
    factor = torch.cholesky_inverse(torch.linalg.cholesky_ex(shifted).L)
    factor.mul_(a - b / c).diagonal().add_(b / c)
    return factor, least * (a + b * least**2) / (1 + c * least**2)


def _weights(least: float) -> tuple[float, float, float]:
    """The weights a, b, c that lift the least singular value most (Nakatsukasa, Bai, Gygi 2010, theorem 3.1)."""
    square = least**2
    d = (4 * (1 - square) / square**2) ** (1 / 3)
    root = math.sqrt(1 + d)
    a = root + 0.5 * math.sqrt(8 - 4 * d + 8 * (2 - square) / (square * root))
    b = (a - 1) ** 2 / 4
    return a, b, a + b - 1

"""R at gamma = 0 as the inner product of two polar factors.

On a CPU by rational functions of the Gram matrix, or by singular vectors where those are as fast; elsewhere by
Newton-Schulz, in matrix products alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..._checks import check_int
from .rational import Polar, by_rational, by_singular_values, is_large

__all__ = ["WAYS", "PolarOverlap", "polar_overlap"]

WAYS = ("auto", "rational", "products", "singular vectors")


@dataclass(frozen=True)
class PolarOverlap:
    """R(0) of two matrices, and how far it can be from the exact value.

    Attributes:
        value: <O_a, P O_b Q^T> / sqrt(k_a k_b), for polar factors O; 0 where no singular value counts.
        bound: |value - R(0)| is at most this, rounding aside; of the order of 1 where products met a matrix that lacks
            rank.
        steps: of the iteration, the more of the two; 0: singular vectors.
        kept_a, kept_b: how many singular values count.
    """

    value: float
    bound: float
    steps: int
    kept_a: int
    kept_b: int


def polar_overlap(
    w_a: Tensor,
    w_b: Tensor,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
    *,
    by: str = "auto",
    max_steps: int = 80,
) -> PolarOverlap:
    """R(0) from the weights themselves.

    At gamma = 0 the sum over all singular vectors is <O_a, P O_b Q^T>, O = U V^T the polar factor. Three ways there:

    - "rational": two of Zolotarev's functions of the singular values, in Cholesky factorisations and products
      (`rational.by_rational`); where they do not settle in two passes, singular vectors. What is zero to rounding, as
      `spectral_overlap` counts it, is left out.
    - "products": Newton-Schulz, X <- X (15 I - 10 G + 3 G^2) / 8 with G = X^T X (Higham, "Functions of Matrices", 2008,
      section 8.3). A value grows by up to 15/8 a step, then goes to 1 with its error cubed. Values that are zero to
      rounding do not get there: the bound says that this value cannot be relied on.
    - "singular vectors".

    The bound: values x of X have |x - 1| <= |x^2 - 1|, so the nuclear norm ||X - O||_* is at most sum |x^2 - 1|, and
    the inner product is off by at most its sum over a and b. For products that is sqrt(r) ||X^T X - I||_F and the
    Frobenius norms serve: e_a ||X_b||_F + sqrt(r) e_b.

    In float32 rounding turns those singular vectors that belong to values near 0; the value was never seen to be
    off by more than 2e-5 in tests (float64: 1e-8).

    Args:
        w_a, w_b: [m, n]; float64 is kept, anything else is computed in float32.
        rows, columns: int64 indices that permute b; None where nothing moves.
        by: one of the above; "auto": on a CPU "rational", singular vectors for small matrices; elsewhere "products".
        max_steps: of "products", at most; they end when the error falls no more, or is 1e-5 sqrt(r) (float64: 1e-12
            sqrt(r)).

    Raises:
        ValueError: shapes that differ or are empty, or another way.
    """
    if w_a.ndim != 2 or w_a.shape != w_b.shape or w_a.numel() == 0:
        raise ValueError(
            f"w_a and w_b must be matrices of one shape, not empty, got {tuple(w_a.shape)} and {tuple(w_b.shape)}"
        )
    if by not in WAYS:
        raise ValueError(f"by must be one of {WAYS}, got {by!r}")
    check_int("max_steps", max_steps, 0)
    a, b = (_factor(w, by, max_steps) for w in (w_a, w_b.to(w_a.device)))
    theirs = b.factor
    for dim, index in enumerate((rows, columns)):
        if index is not None:
            theirs = theirs.index_select(dim, index.to(theirs.device))
    pairs = math.sqrt(a.rank * b.rank)
    if not pairs:
        return PolarOverlap(0.0, 0.0, 0, a.rank, b.rank)
    value = float((a.factor.double() * theirs.double()).sum()) / pairs
    bound = (a.bound + b.bound) / pairs
    return PolarOverlap(value, bound, max(a.steps, b.steps), a.rank, b.rank)


def _factor(w: Tensor, by: str, max_steps: int) -> Polar:
    x = w.to(torch.float64 if w.dtype == torch.float64 else torch.float32)
    if by == "auto":
        large = "rational" if is_large(x.shape[0], x.shape[1], x.dtype) else "singular vectors"
        by = large if x.device.type == "cpu" else "products"
    wide = x.shape[0] < x.shape[1]
    # [long, short]
    x = x.T if wide else x
    if by == "products":
        found = _by_products(x, max_steps)
    else:
        settled = _trimmed(x) if by == "rational" else None
        found = by_singular_values(x) if settled is None else settled
    return Polar(found.factor.T, found.rank, found.bound, found.steps) if wide else found


def _trimmed(x: Tensor) -> Polar | None:
    """`by_rational` without rows and columns of zeros, of units that died: there the factor is 0."""
    lives = [(x != 0).any(1 - dim) for dim in range(2)]
    if all(bool(each.all()) for each in lives):
        return by_rational(x)
    rows, columns = (each.nonzero()[:, 0] for each in lives)
    if not len(rows):
        return None
    inner = x[rows][:, columns]
    wide = len(rows) < len(columns)
    found = by_rational(inner.T.contiguous() if wide else inner)
    if found is None:
        return None
    factor = torch.zeros_like(x)
    factor[rows[:, None], columns] = found.factor.T if wide else found.factor
    return Polar(factor, found.rank, found.bound, found.steps)


def _by_products(x: Tensor, max_steps: int) -> Polar:
    """Newton-Schulz on [long, short]."""
    size, rank = x.shape
    eps = torch.finfo(x.dtype).eps
    largest = x.abs().max()
    x = x / largest if largest > 0 else x
    gram = x.T @ x
    # The largest singular value is at most this, and at least that over rank^(1/4).
    scale = float(torch.linalg.matrix_norm(gram)) ** 0.5
    if scale > 0:
        x, gram = x / scale, gram / scale**2
    # Of the values that count.
    least = eps * min(4 * rank**0.5, size) / rank**0.25
    enough = (1e-5 if x.dtype == torch.float32 else 1e-12) * rank**0.5
    step, error, was = 0, _error(gram), math.inf
    while step < max_steps and error > enough and not (error < 0.1 and error >= was):
        if least >= 0.9 and error**2 > 0.98 + rank * (1 - least**2) ** 2:
            # More than the values that count can leave: another is near 0, and would stay there.
            break
        if (last := 0.75 * error**2 + 0.25 * error**3) <= enough:
            # X <- X (3 I - G) / 2 leaves X^T X - I = -(3 E^2 + E^3) / 4 of E = I - G: there is no need to look.
            factor = gram.mul_(-0.5)
            factor.diagonal().add_(1.5)
            return Polar(x @ factor, rank, _nuclear(last, rank), step + 1)
        factor = gram @ gram
        factor.mul_(3 / 8).add_(gram, alpha=-10 / 8).diagonal().add_(15 / 8)
        least *= (15 - 10 * least**2 + 3 * least**4) / 8
        x = x @ factor
        gram = x.T @ x
        was, error = error, _error(gram)
        step += 1
    return Polar(x, rank, _nuclear(error, rank), step)


def _nuclear(error: float, rank: int) -> float:
    """What the sum of |x - 1| is at most where ||X^T X - I||_F is so large."""
    return error * math.sqrt(rank)


def _error(gram: Tensor) -> float:
    """||G - I||_F."""
    off = gram.clone()
    off.diagonal().sub_(1)
    return float(torch.linalg.vector_norm(off, dtype=torch.float64))

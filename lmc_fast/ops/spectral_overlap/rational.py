"""Polar factors on a CPU by Zolotarev's functions of the Gram matrix, and what lies near zero by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from .naive import rounding_of

__all__ = ["Polar", "Zolotarev", "by_rational", "by_singular_values", "inverted", "is_large", "plan_of", "symmetric"]

# Values below this much of the largest are left to the end: a Gram matrix of float32 has few digits of their squares.
NEAR_ZERO = {torch.float32: 0.03, torch.float64: 0.01}
# Poles of the two functions of a pass, by dtype: together of degree 15 and of degree 25.
POLES = {torch.float32: (2, 1), torch.float64: (2, 2)}
# How far from 1 values may be in the mean.
ENOUGH = {torch.float32: 3e-5, torch.float64: 1e-7}
# How many values are left to the end at most: at least so many, else a share of all.
FEWEST, SHARE = 16, 1 / 3
# Passes, the first included; singular vectors cost about three.
PASSES = 2
# The largest value is estimated from below, and its square taken for so much more.
MARGIN = 1.05
# Below this singular vectors are found as fast: of the shorter side, and of bytes.
SMALLEST, SMALLEST_BYTES = 192, 1 << 18
# Sides up to which a matrix is multiplied or inverted at once.
AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class Polar:
    """A polar factor O = U V^T over the singular values that count.

    Attributes:
        factor: [m, n].
        rank: how many count.
        bound: the nuclear norm of what it is off by is at most this, rounding aside.
        steps: rational functions that it took; 0: singular vectors.
    """

    factor: Tensor
    rank: int
    bound: float
    steps: int


@dataclass(frozen=True)
class Zolotarev:
    """f(x) = x (rest + sum_j weight_j / (x^2 + shift_j)), at most 1 on [least, 1], and there as near to 1 as can be.

    Attributes:
        shifts, weights: of the r poles.
        rest: what is left far out.
        reaches: the smallest value on [least, 1], taken at `least`.
    """

    shifts: tuple[float, ...]
    weights: tuple[float, ...]
    rest: float
    reaches: float

    @classmethod
    def of(cls, least: float, poles: int) -> Zolotarev:
        """Zolotarev's best approximation of the sign, of type (2r + 1, 2r).

        Nakatsukasa, Freund, "Computing fundamental matrix decompositions accurately via the matrix sign function in
        two iterations" (SIAM Review 2016), equations 3.4 to 3.7: zeros and poles are at
        -least^2 sn^2 / cn^2 (j K / (2r + 1)) of modulus sqrt(1 - least^2), j = 1 ... 2r.
        """
        squares = [least**2 * part for part in _tangents(least, 2 * poles)]
        shifts, zeros = squares[0::2], squares[1::2]
        weights = []
        for j, shift in enumerate(shifts):
            others = math.prod(shift - other for k, other in enumerate(shifts) if k != j)
            weights.append(-math.prod(shift - zero for zero in zeros) / others)
        found = cls(tuple(shifts), tuple(weights), 1.0, 1.0)
        top = found(1.0)
        return cls(found.shifts, tuple(weight / top for weight in weights), 1 / top, found(least) / top)

    def growth(self, x: float) -> float:
        """f(x) / x."""
        return self.rest + sum(w / (x * x + s) for w, s in zip(self.weights, self.shifts, strict=True))

    def __call__(self, x: float) -> float:
        """f(x)."""
        return x * self.growth(x)

    def of_gram(self, gram: Tensor) -> tuple[Tensor, Tensor]:
        """F = f(X) / X of a Gram matrix G = X^T X, and G F without a product: G (G + s)^-1 = I - s (G + s)^-1."""
        factor, times = torch.zeros_like(gram), gram * self.rest
        for shift, weight in zip(self.shifts, self.weights, strict=True):
            shifted = gram.clone()
            shifted.diagonal().add_(shift)
            inverse = inverted(shifted)
            factor.add_(inverse, alpha=weight)
            times.add_(inverse, alpha=-weight * shift)
        factor.diagonal().add_(self.rest)
        times.diagonal().add_(sum(self.weights))
        return factor, times


def _tangents(least: float, count: int) -> list[float]:
    """sn^2 / cn^2 at j K / (count + 1), j = 1 ... count, of modulus sqrt(1 - least^2): by the means of Gauss."""
    arithmetic, geometric, halves = [1.0], least, [math.sqrt(1 - least**2)]
    while halves[-1] > 1e-15:
        last = arithmetic[-1]
        arithmetic.append((last + geometric) / 2)
        halves.append((last - geometric) / 2)
        geometric = math.sqrt(last * geometric)
    found = []
    for j in range(1, count + 1):
        # K = pi / (2 M), M the common mean: M times the argument is a share of a quarter turn.
        angle = 2 ** (len(arithmetic) - 1) * math.pi / 2 * j / (count + 1)
        for mean, half in zip(arithmetic[:0:-1], halves[:0:-1], strict=True):
            angle = (angle + math.asin(half * math.sin(angle) / mean)) / 2
        found.append(math.tan(angle) ** 2)
    return found


@cache
def plan_of(dtype: torch.dtype) -> tuple[Zolotarev, Zolotarev, float]:
    """The two functions of a pass, and how far from 1 they leave any value from NEAR_ZERO to a little above 1."""
    first = Zolotarev.of(NEAR_ZERO[dtype], POLES[dtype][0])
    second = Zolotarev.of(first.reaches, POLES[dtype][1])
    worst = max(1 - second.reaches, abs(second(first(MARGIN**0.5)) - 1))
    return first, second, worst


def is_large(rows: int, columns: int, dtype: torch.dtype) -> bool:
    """Whether rational functions are faster than singular vectors for a matrix, computed in this dtype."""
    return min(rows, columns) >= SMALLEST and rows * columns * dtype.itemsize >= SMALLEST_BYTES


def by_rational(w: Tensor) -> Polar | None:
    """The polar factor of float32 or float64 [m, n], m >= n; None where singular vectors are the better way.

    A pass takes X to X f2(f1(.)) in three Gram matrices, as many inverses as poles, and one product with X. Values from
    0.03 of the largest on are then 1 to 4e-6 (float64: from 0.01 on, to 2e-8). Those below span what I - X^T X does
    not take to nearly 0; where they are few they are found from products with few vectors (Halko, Martinsson, Tropp,
    SIAM Review 2011, algorithm 4.1) and set to 1, or, where the weight itself has nothing there but rounding, to 0.
    Where they are many another pass lifts them.

    The bound: no value leaves a pass above 1 + e, so that the sum of all |x - 1| is at most the sum of 1 - x^2, which
    is n - ||X||_F^2, and 2 (2 e + e^2) n.
    """
    n = w.shape[1]
    largest = float(w.abs().max())
    if not 0 < largest < math.inf:
        return None
    x = w / largest
    first, second, ripple = plan_of(w.dtype)
    slack = 2 * n * (2 * ripple + ripple**2)
    # What rounding makes of the largest value, and what becomes of it in X.
    near = torch.finfo(w.dtype).eps * min(4 * n**0.5, len(w))
    for step in range(1, PASSES + 1):
        gram = symmetric(x, x)
        scale = _largest_of(gram)
        near *= first.growth(0.0) * second.growth(0.0) / (1.0 if step == 1 else math.sqrt(scale))
        x = _passed(x, gram, scale * MARGIN, (first, second))
        missing = n - _square(x)
        if not missing <= n / 2:
            return None
        few = FEWEST + math.ceil(4 * max(missing, 0.0))
        if few <= max(FEWEST, SHARE * n):
            found, rank, missing = _completed(x, near, min(few, n))
            if missing <= ENOUGH[w.dtype] * n:
                return Polar(found, rank, max(missing, 0.0) + slack, 2 * step)
    return None


def by_singular_values(w: Tensor) -> Polar:
    """The same from singular vectors, for whatever matrix [m, n]."""
    u, s, vh = torch.linalg.svd(w, full_matrices=False)
    rank = int((s > rounding_of(s, max(w.shape), min(w.shape))).sum())
    return Polar(u[:, :rank] @ vh[:rank], rank, 0.0, 0)


def _square(x: Tensor) -> float:
    """||X||_F^2, summed in float64."""
    return float(torch.linalg.vector_norm(x, dtype=torch.float64)) ** 2


def _generator(x: Tensor) -> torch.Generator:
    return torch.Generator(x.device).manual_seed(0)


def _largest_of(gram: Tensor) -> float:
    """The largest eigenvalue of a Gram matrix, from below: six steps with eight vectors."""
    vectors = torch.randn(len(gram), 8, generator=_generator(gram), dtype=gram.dtype)
    for _ in range(6):
        vectors = gram @ torch.linalg.qr(vectors).Q
    return float(torch.linalg.matrix_norm(vectors, 2))


def _passed(x: Tensor, gram: Tensor, scale: float, functions: tuple[Zolotarev, Zolotarev]) -> Tensor:
    """X f2(f1(X)) / X with X^T X / scale for the Gram matrix, which is written over."""
    factor, times = functions[0].of_gram(gram.div_(scale))
    second, _ = functions[1].of_gram(symmetric(factor, times))
    return x @ symmetric(factor, second).div_(math.sqrt(scale))


def _completed(x: Tensor, near: float, few: int) -> tuple[Tensor, int, float]:
    """X with its values that are not yet 1 set to it, those of at most `near` to 0.

    Returns:
        It, how many are 1, and by how much the square of its norm is below that.
    """
    n = x.shape[1]
    vectors = torch.randn(n, few, generator=_generator(x), dtype=x.dtype)
    # [n, few]: a basis of what I - X^T X does not take to nearly 0.
    basis = torch.linalg.qr(vectors - x.T @ (x @ vectors)).Q
    u, s, vh = torch.linalg.svd(x @ basis, full_matrices=False)
    right = basis @ vh.T
    lacking = _count_below(x, right[:, s < 10 * torch.finfo(s.dtype).eps ** 0.5], near)
    wanted = torch.ones_like(s)
    wanted[len(s) - lacking :] = 0
    found = torch.addmm(x, u * (wanted - s), right.T)
    return found, n - lacking, n - lacking - _square(found)


def _count_below(x: Tensor, vectors: Tensor, near: float) -> int:
    """How many values of X on the span of few vectors, all near 0, are at most `near`; what is near 1 is taken out."""
    if not vectors.shape[1]:
        return 0
    for _ in range(2):
        vectors = torch.linalg.qr(vectors - x.T @ (x @ vectors)).Q
    return int((torch.linalg.svdvals(x @ vectors) <= near).sum())


def symmetric(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """A^T B of [m, n] where it is known to be symmetric: five eighths of a product, the rest copied."""
    n = a.shape[1]
    if out is None:
        out = a.new_empty(n, n)
    if n <= AT_ONCE:
        return torch.mm(a.T, b, out=out)
    half = n // 2
    symmetric(a[:, :half], b[:, :half], out[:half, :half])
    symmetric(a[:, half:], b[:, half:], out[half:, half:])
    off = torch.mm(a[:, :half].T, b[:, half:], out=out[:half, half:])
    out[half:, :half] = off.T
    return out


def inverted(a: Tensor) -> Tensor:
    """The inverse of a positive definite [n, n], by halves: two thirds of what a Cholesky factorisation takes."""
    n = len(a)
    if n <= AT_ONCE:
        return torch.cholesky_inverse(torch.linalg.cholesky_ex(a).L)
    half = n // 2
    first, side = inverted(a[:half, :half]), a[:half, half:]
    turned = first @ side
    last = inverted(a[half:, half:] - symmetric(side, turned))
    across = turned @ last
    found = torch.empty_like(a)
    found[:half, :half] = first.add_(symmetric(across.T, turned.T))
    found[:half, half:] = across.neg_()
    found[half:, :half] = across.T
    found[half:, half:] = last
    return found

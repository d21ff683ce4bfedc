"""Polar factors of gains: by eigenvectors of Gram matrices on a CPU, in matrix products alone elsewhere."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["by_eigenvectors", "by_products", "by_singular_values", "nuclear_norm", "polar_factor"]

# A step of lifting, x <- a x + b x^3 + c x^5, takes singular values up by a, and none out of (0, 1.2] (Jordan et al.,
# "Muon", 2024).
LIFT = (3.4445, -4.7750, 2.0315)
# A step of Newton-Schulz, that leads those to 1, the error cubed (Higham, "Functions of Matrices", 2008, section 8.3).
SETTLE = (15 / 8, -10 / 8, 3 / 8)
# From anywhere in (0.6, 1.2] to 1; what is below is lifted by so much.
SETTLING, SETTLING_LIFTS = 5, 20.0
# A step that leads values from 0.82 up to 1, and those below to 0.
DECIDE = (0.0, 5 / 2, -3 / 2)
DECIDING = 5
# Angles between what is dead in one model and in the other may take more.
MOST_STEPS = 40
# How far from orthogonal the columns of G V may be for one step to mend them: what it leaves is the square of that.
MENDED = 1e-6
# And for some steps of Newton's to do so.
MENDABLE, SETTLED = 0.2, 4
# What is left of a dead direction's vector, orthogonal to all that lives, for it to be turned by that.
CLEAR = 1e-4
# Singular values down to this share of the largest have their sum from those of a Gram matrix to 1e-12.
FROM_GRAM = 1e-4


def polar_factor(gain: Tensor) -> tuple[Tensor, Tensor]:
    """The orthogonal Q that maximises tr(Q^T gain), U V^T of gain = U S V^T, and that maximum, the nuclear norm.

    Computed in float64. A gain's dtype tells how exactly it is known: directions in which it is nothing but rounding
    of that are dead, and are turned as little as may be.

    Args:
        gain: float [..., n, n].

    Returns:
        Float64 [..., n, n] and float64 [...], on the gain's device.
    """
    exact, dead = gain.double(), _rounding(gain)
    if not exact.numel():
        return exact, exact.sum((-2, -1))
    turn = by_eigenvectors(exact, dead) if gain.device.type == "cpu" else by_products(exact, dead)
    return turn, (turn * exact).sum((-2, -1))


def nuclear_norm(gain: Tensor) -> Tensor | None:
    """The maximum that `polar_factor` reaches, without the factor, a quarter of its work on a CPU: float64 [...].

    None elsewhere, where both are matrix products.
    """
    if gain.device.type != "cpu":
        return None
    exact = gain.double()
    if not exact.numel():
        return exact.sum((-2, -1))
    x, largest = _unit(exact)
    squares = torch.linalg.eigvalsh(x.mT @ x).clamp(min=0.0)
    found: Tensor = squares.sqrt().sum(-1)
    if gain.dtype == torch.float64:
        # Roots of small squares have half of the digits, which is more than a gain of fewer bits has itself.
        coarse = ~(squares[..., 0] > FROM_GRAM**2 * squares[..., -1])
        found[coarse] = torch.linalg.svdvals(x[coarse]).sum(-1)
    return found.mul_(largest[..., 0, 0])


def by_eigenvectors(gain: Tensor, dead: float) -> Tensor:
    """As `by_singular_values`, from V of G^T G = V S^2 V^T: in three quarters of the time or less.

    The columns of G V = U D, D their lengths, are orthogonal but for the rounding of G^T G, which small ones show. With
    U^T U = I + F the polar factor of U D is U (I - C), C_ij = F_ij d_i / (d_i + d_j), up to F^2: by the divided
    differences of (D (I + F) D)^(-1/2). (Of equal d_i that is a step of Newton and Schulz.) Where F is larger than that
    allows, among the smallest, Newton's steps follow (`_settled`). Of the right vectors V of dead directions the part P
    V that is orthogonal to all living left ones has the polar factor that turns them least. What is too far off for all
    of this is left to singular values.
    """
    x, _ = _unit(gain)
    right = torch.linalg.eigh(x.mT @ x)[1]
    left = x @ right
    sizes = torch.linalg.vector_norm(left, dim=-2)  # [..., n], about ascending
    lives = sizes > dead * sizes.amax(-1, keepdim=True)
    sizes = torch.where(lives, sizes, 1.0)
    left = torch.where(lives[..., None, :], left / sizes[..., None, :], 0.0)
    off = _off(left, lives)
    rows, columns = sizes[..., :, None], sizes[..., None, :]
    turned = left - left @ (off * (rows / (rows + columns)))
    worst = off.abs().amax(-2)
    good = worst.amax(-1) <= MENDABLE
    # What is out of reach would grow beyond all numbers.
    turned = torch.where(good[..., None, None], turned, 0.0)
    few = _leading(worst > MENDED)
    if few:
        weak, settles = _settled(turned[..., :few], (left * columns)[..., :few], sizes[..., :few], lives)
        rest = turned[..., few:]
        turned[..., :few] = weak - rest @ (rest.mT @ weak)
        good &= settles
        turned = torch.where(good[..., None, None], turned, 0.0)
    few = _leading(~lives)
    if few:
        turned[..., :few], is_clear = _turned_least(turned, right, lives, few)
        good &= is_clear
    turn: Tensor = turned @ right.mT
    if not bool(good.all()):
        turn[~good] = by_singular_values(gain[~good], dead)
    return turn


def _off(columns: Tensor, lives: Tensor) -> Tensor:
    """How far from orthonormal the living columns are; the others are zero."""
    off = columns.mT @ columns
    off.diagonal(dim1=-2, dim2=-1).sub_(lives.to(off.dtype))
    return off


def _leading(is_so: Tensor) -> int:
    """Of [..., n] how many come up to the last one anywhere that is so."""
    anywhere = is_so.reshape(-1, is_so.shape[-1]).any(0).nonzero()
    return int(anywhere[-1]) + 1 if len(anywhere) else 0


def _settled(turned: Tensor, moved: Tensor, sizes: Tensor, lives: Tensor) -> tuple[Tensor, Tensor]:
    """The orthonormal T, near to `turned`, for which T^T `moved` is symmetric, and whether it was reached.

    By Newton's method: with H = T^T M, about diag(d), T (I + W) is better, W_ij = (H - H^T)_ij / (d_i + d_j). Each step
    squares what is wrong.

    Args:
        turned, moved: [..., n, k].
        sizes: [..., k]: the lengths of `moved`'s columns.
        lives: [..., k or more]; columns of zeros stay.
    """
    lives = lives[..., : turned.shape[-1]]
    both = sizes[..., :, None] + sizes[..., None, :]
    for _ in range(SETTLED):
        turned = turned - turned @ _off(turned, lives) / 2
        inner = turned.mT @ moved
        wrong = (inner - inner.mT) / both
        turned = turned + turned @ wrong
    turned = turned - turned @ _off(turned, lives) / 2
    return turned, wrong.abs().amax((-2, -1)) <= MENDED


def _turned_least(turned: Tensor, right: Tensor, lives: Tensor, few: int) -> tuple[Tensor, Tensor]:
    """Of the first columns those that live, the dead ones in place of zeros, and whether those are clear."""
    mine, live = right[..., :few], lives[..., None, :few]
    part = torch.where(live, turned[..., :few], mine - turned @ (turned.mT @ mine))
    squares, vectors = torch.linalg.eigh(part.mT @ part)
    # Living columns are orthonormal, and orthogonal to the others.
    least = part @ (vectors / squares.clamp(min=0.0).sqrt()[..., None, :]) @ vectors.mT
    is_clear = squares[..., 0] >= CLEAR**2
    least = torch.where(is_clear[..., None, None], least, 0.0)
    # Of what was small the rounding is not.
    return least - least @ _off(least, torch.ones_like(live[..., 0, :])) / 2, is_clear


def by_singular_values(gain: Tensor, dead: float) -> Tensor:
    """The polar factor of float64 [..., n, n], with directions below `dead` times the largest turned least."""
    left, values, right = torch.linalg.svd(gain)
    is_dead = values <= dead * values.amax(-1, keepdim=True)
    if bool(is_dead.any()):
        # Of all turns of what is dead on one side to what is on the other, the one nearest to none. Of what lives: I.
        least = (left.mT @ right.mT) * is_dead[..., :, None] * is_dead[..., None, :]
        least = least + torch.diag_embed((~is_dead).double())
        inner, _, outer = torch.linalg.svd(least)
        left = left @ inner @ outer
    turn: Tensor = left @ right
    return turn


def by_products(gain: Tensor, dead: float) -> Tensor:
    """As `by_singular_values`, in matrix products: singular values are lifted to 1 step by step.

    What does not get there, a direction that is all but dead or orthogonal to all in the other model, is left to
    singular values.
    """
    size = gain.shape[-1]
    x = _scaled(gain)
    lifting = math.ceil(math.log(1 / (SETTLING_LIFTS * dead)) / math.log(LIFT[0]))
    for weights, steps in ((LIFT, lifting), (SETTLE, SETTLING), (DECIDE, DECIDING)):
        for _ in range(steps):
            x = _step(x, x.mT @ x, weights)
    # I - X X^T and I - X^T X project on what is dead in each model, which their product turns least.
    one = torch.eye(size, dtype=x.dtype, device=x.device)
    x = x + (one - x @ x.mT) @ (one - x.mT @ x)
    enough = 1e-13 * size**0.5
    for _ in range(MOST_STEPS):
        gram = x.mT @ x
        off = torch.linalg.matrix_norm(gram - one)
        if bool((off <= enough).all()):
            return x
        x = _step(x, gram, SETTLE)
    left = ~(torch.linalg.matrix_norm(x.mT @ x - one) <= enough)
    x = x.clone()
    x[left] = by_singular_values(gain[left], dead)
    return x


def _rounding(gain: Tensor) -> float:
    """Of its largest singular value what rounding of a gain's entries may make at most."""
    return 4 * math.sqrt(gain.shape[-1]) * float(torch.finfo(gain.dtype).eps)


def _scaled(gain: Tensor) -> Tensor:
    """The gain with a largest singular value of at most 1, and not much less."""
    x, _ = _unit(gain)
    # ||X^T X||_F^(1/2) is at least the largest value, and at most n^(1/4) times it.
    size = torch.linalg.matrix_norm(x.mT @ x)[..., None, None].sqrt()
    return x / torch.where(size > 0, size, 1.0)


def _unit(gain: Tensor) -> tuple[Tensor, Tensor]:
    """The gain over its largest entry, so that no square overflows, and that entry [..., 1, 1], 1 of none."""
    largest = gain.abs().amax((-2, -1), keepdim=True)
    largest = torch.where(largest > 0, largest, 1.0)
    return gain / largest, largest


def _step(x: Tensor, gram: Tensor, weights: tuple[float, float, float]) -> Tensor:
    """X (a I + b G + c G^2)."""
    a, b, c = weights
    factor = c * (gram @ gram) + b * gram
    factor.diagonal(dim1=-2, dim2=-1).add_(a)
    return x @ factor

"""Relaxed permutations: doubly stochastic matrices from scores, with a gradient, and what they do to parameters.

P = exp(scores + f + g), with f on rows and g on columns such that all rows and columns sum to 1 (Sinkhorn and Knopp,
1967). The gradient is that of the fixed point, by implicit differentiation (Eisenberger et al., "A Unified Framework
for Implicit Sinkhorn Differentiation", CVPR 2022; Pena et al., "Re-basin via implicit Sinkhorn differentiation",
CVPR 2023): it costs one n x n Cholesky factor, however many iterations led to P.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...assignment import AssignmentSolver
from ...symmetry import Permutations, PermutationSpec
from ...symmetry.mixing import mixed
from ...symmetry.views import Units
from .nested import Gain, best_choices

__all__ = ["Relaxed", "doubly_stochastic", "mixed"]

# The share of each row that a start at given permutations puts on their entries.
START_SHARE = 0.75
# Scalings beyond these are taken into the exponents, before they overflow.
SCALING_LIMIT = 1e30
# How often rows and columns are scaled between two Newton steps, and the furthest that one of these goes.
ROUND = 20
STEP_LIMIT = 16.0
# Keeps the factor definite where P is a permutation in float64, and the system has nothing to say.
RIDGE = 1e-12


class Relaxed:
    """Scores of every group, the doubly stochastic matrices exp(scores / temperature + f + g), and their rounding.

    Args:
        spec: bound.
        start: permutations that begin with `START_SHARE` of each row; None: all entries begin alike.
        temperature: above 0.
        iterations: Sinkhorn's, at most, in one call of `matrices`; they go on from those of the call before.
        device, dtype: of the scores and the matrices; float32 or float64.
    """

    def __init__(
        self,
        spec: PermutationSpec,
        start: Permutations | None,
        temperature: float,
        iterations: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.spec, self.temperature, self.iterations = spec, temperature, iterations
        self.scores = {
            name: _start_scores(name, spec, start).mul_(temperature).to(device, dtype).requires_grad_()
            for name in spec.groups
        }
        self._columns: dict[str, Tensor] = {}
        self._solvers = {root: AssignmentSolver(maximize=True) for root in spec.roots}
        self._choices = Permutations.identity(spec).choices

    def matrices(self) -> dict[str, Tensor]:
        """For every group [owner units, size, size], doubly stochastic: row, the place; column, the unit."""
        found = {}
        for name, scores in self.scores.items():
            found[name], self._columns[name] = doubly_stochastic(
                scores / self.temperature, iterations=self.iterations, start=self._columns.get(name)
            )
        return found

    def rounded(self, matrices: Mapping[str, Tensor]) -> Permutations:
        """The permutations of greatest inner product with the matrices."""
        for root in self.spec.roots:
            gains: dict[Units, Gain | None] = {}
            for name, flat in self._flat(root, matrices[root][0].detach(), matrices):
                gains[name] = flat.cpu().numpy()
            self._choices |= best_choices(self.spec, root, gains, self._choices, self._solvers[root])[0]
        return Permutations(self.spec, self._choices)

    def _flat(self, group: str, flat: Tensor, matrices: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """The matrices over all units of a group and of those below it, those of all owner units end to end."""
        yield group, flat
        for child in self.spec.owned_by(group):
            inside = matrices[child].detach()
            units = self.spec.units(child)
            # A unit of b is at a place as far as its owner is there, and it is there within the owner.
            below = torch.einsum("uv,vij->uivj", flat, inside).reshape(units, units)
            yield from self._flat(child, below, matrices)


def _start_scores(group: str, spec: PermutationSpec, start: Permutations | None) -> Tensor:
    """Scores at a temperature of 1 of one group at the start: float64 [owner units, size, size]."""
    size = spec.sizes[group]
    scores = torch.zeros(spec.units(group) // size, size, size, dtype=torch.float64)
    if start is not None:
        order = start[group].reshape(-1, size)
        owner = spec.groups[group].owner
        if owner is not None:
            # By the owner's unit, where the choice is by its place.
            order = torch.empty_like(order).index_copy_(0, start.units(owner), order)
        ahead = math.log(START_SHARE / (1 - START_SHARE) * max(1, size - 1))
        scores.scatter_(2, order[:, :, None], ahead)
    return scores


def doubly_stochastic(
    scores: Tensor, *, iterations: int = 1000, tolerance: float = 1e-6, start: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The doubly stochastic matrix exp(scores + f + g) of each matrix of a batch.

    Args:
        scores: [batch, n, n], finite; float32 or float64. All is computed in float64.
        iterations: at most so many times over rows and columns. Columns sum to 1 at the end in any case.
        tolerance: ends where no row's sum is further from 1.
        start: g of a batch nearby, which saves iterations; None: zero.

    Returns:
        P [batch, n, n] in the dtype of `scores`, with a gradient (once); and g [batch, n] in float64, without one.
    """
    result: tuple[Tensor, Tensor] = _Sinkhorn.apply(scores, iterations, tolerance, start)  # type: ignore[no-untyped-call]
    return result


class _Sinkhorn(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, iterations: int, tolerance: float, start: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        matrix, columns = _iterate(scores.double(), iterations, tolerance, start)
        ctx.save_for_backward(matrix)
        ctx.mark_non_differentiable(columns)
        # A tensor of its own: the saved one is not to be written to.
        return matrix.to(scores.dtype, copy=True), columns

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        (matrix,) = ctx.saved_tensors
        return _implicit_gradient(matrix, grad.double()).to(grad.dtype), None, None, None


def _iterate(scores: Tensor, iterations: int, tolerance: float, start: Tensor | None) -> tuple[Tensor, Tensor]:
    """P and g, by rounds: once over rows and columns in the exponents, some times as factors, and a Newton step."""
    columns = torch.zeros_like(scores[:, 0]) if start is None else start
    done = 0
    while True:
        rows = -torch.logsumexp(scores + columns[:, None, :], dim=2)
        columns = -torch.logsumexp(scores + rows[:, :, None], dim=1)
        matrix = torch.exp(scores + rows[:, :, None] + columns[:, None, :])  # [batch, n, n], columns sum to 1
        done += 1
        left = right = torch.ones_like(columns)[:, :, None]  # [batch, n, 1]
        for _ in range(ROUND):
            sums = matrix @ right
            ended = done >= iterations or bool(((left * sums - 1).abs() <= tolerance).all())
            if ended:
                break
            next_left = 1 / sums
            next_right = 1 / (matrix.mT @ next_left)
            if max(next_left.max().item(), next_right.max().item()) > SCALING_LIMIT:
                break
            left, right = next_left, next_right
            done += 1
        matrix = matrix * left * right.mT
        columns = columns + right[:, :, 0].log()
        if ended:
            return matrix, columns
        # What is still missing to 1, to first order, is spread by the system that gives the gradient.
        _, step = _solve(matrix, 1 - matrix.sum(dim=2, keepdim=True), 1 - matrix.sum(dim=1)[:, :, None])
        step = step[:, :, 0]
        columns = columns + step * (STEP_LIMIT / step.abs().amax(dim=1, keepdim=True)).clamp(max=1)


def _implicit_gradient(matrix: Tensor, grad: Tensor) -> Tensor:
    """The gradient with respect to the scores of P, from that with respect to P: both [batch, n, n] float64.

    With M = grad * P it is M - P * (alpha 1^T + 1 beta^T), where alpha and beta solve `_solve`'s system for the sums
    of M's rows and columns.
    """
    weighted = grad * matrix
    alpha, beta = _solve(matrix, weighted.sum(dim=2, keepdim=True), weighted.sum(dim=1)[:, :, None])
    return weighted - matrix * (alpha + beta.mT)


def _solve(matrix: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Multipliers alpha and beta [batch, n, 1] of P's rows and columns; with r and c the sums of these, in float64,

        [ diag(r)     P    ] [alpha]   [ rows    ]
        [   P^T    diag(c) ] [beta ] = [ columns ].

    alpha is eliminated, which leaves the Laplacian diag(c) - P^T diag(1/r) P of a graph over the columns: definite but
    for the constants, since (1, -1) changes nothing. The solution is the one whose beta sums to 0. The right side's
    two halves must have the same sum.
    """
    n = matrix.shape[-1]
    sums = matrix.sum(dim=2, keepdim=True)
    scaled = matrix / sums
    # The Laplacian's diagonal from its rows: c - diag(...) would cancel where P is nearly a permutation.
    edges = scaled.mT @ matrix
    edges.diagonal(dim1=1, dim2=2).zero_()
    laplacian = torch.diag_embed(edges.sum(dim=2) + RIDGE) - edges + 1 / n
    alpha = rows / sums
    beta = torch.cholesky_solve(columns - matrix.mT @ alpha, torch.linalg.cholesky(laplacian))
    return alpha - scaled @ beta, beta

"""Gains of the leading parts of weights: what their largest singular values make of them.

Weight matching works because it aligns the singular vectors with large singular values (Ito, Yamada, Kumagai, "Analysis
of Linear Mode Connectivity via Permutation-Based Weight Matching", ICLR 2025), so that these decide where most units
go. A large weight W [m, n] is kept as Q C with Q [m, r] orthonormal and C = Q^T W, a randomised range of r columns
(Halko, Martinsson, Tropp, "Finding structure with randomness", SIAM Review 2011, algorithm 4.4), and

    <Q_a C_a, P Q_b C_b R^T>,   with respect to P:  Q_a (C_a R C_b^T) Q_b^T,   to R:  C_a^T (Q_a^T P Q_b) C_b,

so that every gain is one product of two matrices of few columns: the left one never changes, the right one takes
products with r x r matrices alone. The rest of the weights, in which far more of the noise lies, is left to a descent
over the whole of them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..._chunks import numbers
from ..._models import accumulate_dtype
from ...ops.gain_matrix import Term, gain_matrix, units_first
from ...symmetry.views import Leaf, Units
from .gains import GainCache
from .products import at_most
from .uses import IndexOf

__all__ = ["Factors", "LeadingGains", "factor_bytes", "is_worth_leading", "seem_to_stand_out"]

# Columns that a factored weight keeps; more would follow the noise.
RANK = 32
# A weight is factored where both of its sides are so many times as long.
LONGER = 4
# A search over leading parts is worth its while where gains take at most this part of the work that whole ones take.
WORTH_LEADING = 0.25
# And where to factor the weights takes at most this part of the work of all that follows.
WORTH_FACTORING = 0.3
# Products that factoring takes of each weight with as many columns as it keeps.
FACTORING_PRODUCTS = 4
# What the assignments of a search take for each entry of a gain, in multiplications: some ten, each of a few reads.
ASSIGNMENTS = 1500
# A singular value beyond so many times the edge of noise is none of its own; noise itself reaches 1.1 times the edge.
STANDS_OUT = 1.3
# How many weights tell whether it is worth while to factor all of them.
PROBES = 4


@dataclass(frozen=True)
class Factors:
    """A weight of both models as Q C.

    Attributes:
        axis: of the weight, whose entries are the rows of Q.
        q_a, q_b: [entries, r].
        c_a, c_b: [r, the weight's other axes in their order].
    """

    axis: int
    q_a: Tensor
    q_b: Tensor
    c_a: Tensor
    c_b: Tensor

    @property
    def sides(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Q and C of each model, Q of both first."""
        return self.q_a, self.q_b, self.c_a, self.c_b


class LeadingGains(GainCache):
    """Gains between the leading parts of two models. None is kept: each is summed anew at less than a correction takes.

    Args:
        a, b: the models' tensors by parameter, one dimension for each axis of the spec.
        leaves: of every group, where its own entries are.
        index_of: the gathers of model b as they are at each call.
    """

    def __init__(
        self,
        a: Mapping[str, Tensor],
        b: Mapping[str, Tensor],
        leaves: Mapping[Units, Sequence[Leaf]],
        index_of: IndexOf,
    ) -> None:
        super().__init__(a, b, leaves, index_of)
        self._factors = {name: _factors(a[name], b[name], axis) for name, axis in _factored_axes(a, leaves).items()}
        # By group: thin, and the same at every call.
        self._left: dict[Units, Tensor] = {}

    @property
    def factors(self) -> Mapping[str, Factors]:
        """What stands in the place of large weights."""
        return self._factors

    def stand_out(self, norms: Mapping[str, tuple[float, float]]) -> bool:
        """Whether the leading singular values of most weights, by their entries, are those of more than noise.

        Independent entries of variance s^2 make singular values up to about s (sqrt(m) + sqrt(n)) (Marchenko and
        Pastur, "Distribution of eigenvalues for some sets of random matrices", 1967); s is that of what is not in the
        leading part.

        Args:
            norms: ||.||^2 of each parameter, of a and of b.
        """
        found = [
            (name, q, c, square)
            for name, factors in self._factors.items()
            for q, c, square in zip((factors.q_a, factors.q_b), (factors.c_a, factors.c_b), norms[name], strict=True)
        ]
        measured = numbers(torch.stack([_largest(c), c.double().square().sum()]) for _, _, c, _ in found)
        covered = {
            name
            for (name, q, c, square), (largest, kept) in zip(found, measured, strict=True)
            if not largest > STANDS_OUT * _edge(q, c, square - kept)
        }
        entries = {name: self._a[name].numel() for name in self._factors}
        clear = sum(count for name, count in entries.items() if name not in covered)
        return 2 * clear >= sum(entries.values())

    def gain(self, group: Units) -> Tensor | None:
        """[units, units] over all units of `group`, None if it has no entries of its own."""
        found = [use.leaf for use in self.uses(group)]
        if found and group not in self._left:
            self._left[group] = torch.cat([self._left_of(leaf) for leaf in found], dim=1)
        return self._product(self._left[group], found) if found else None

    def gains(self, groups: Iterable[Units]) -> Iterator[tuple[Units, Tensor | None]]:
        """Each group with its `gain`, one after another."""
        return ((group, self.gain(group)) for group in groups)

    def partial_gain(self, group: Units, leaves: Collection[Leaf]) -> Tensor | None:
        """The gain of some of a group's leaves alone. None without leaves."""
        found = [use.leaf for use in self.uses(group) if use.leaf in leaves]
        return self.gain_of(found) if found else None

    def gain_of(self, leaves: Sequence[Leaf]) -> Tensor:
        """The gain of leaves, one at least, all of the same units."""
        return self._product(torch.cat([self._left_of(leaf) for leaf in leaves], dim=1), leaves)

    def dot(self, parameter: str) -> float:
        """<theta_a, pi(theta_b)> over the leading part of one parameter, summed in float64."""
        factors = self._factors.get(parameter)
        if factors is None:
            return super().dots([parameter])
        indices = self.gathers(parameter)
        rows, rests = _between_rows(factors, indices), _between_rests(factors, indices)
        return float((rows.double() * rests.double()).sum())

    def dots(self, parameters: Iterable[str]) -> float:
        """The sum of `dot` over parameters."""
        return sum(self.dot(name) for name in parameters)

    def _product(self, left: Tensor, leaves: Sequence[Leaf]) -> Tensor:
        right = torch.cat([self._right_of(leaf) for leaf in leaves], dim=1)
        if left.device.type == "cpu":
            # What it comes to, for products of a few columns that take no longer than to look at their terms.
            return left @ right.T
        return gain_matrix([Term(left, right, (0,), (None, None))])

    def _left_of(self, leaf: Leaf) -> Tensor:
        """[units, columns]: what a leaf's part of the gain is of model a, wherever model b's units are."""
        a, factors = self._a[leaf.parameter], self._factors.get(leaf.parameter)
        if factors is None:
            a = a.to(accumulate_dtype(torch.promote_types(a.dtype, self._b[leaf.parameter].dtype)))
        elif leaf.axis == factors.axis:
            a = _as_rows(factors.q_a, leaf.axis, a.ndim)
        else:
            a = factors.c_a.movedim(0, factors.axis)
        return units_first(leaf.view(a), leaf.unit_dims)

    def _right_of(self, leaf: Leaf) -> Tensor:
        """[units, columns]: what `_left_of` is to be multiplied with, all other groups where they are."""
        b, indices = self._b[leaf.parameter], list(self.gathers_beside(leaf))
        factors = self._factors.get(leaf.parameter)
        if factors is None:
            dtype = accumulate_dtype(torch.promote_types(self._a[leaf.parameter].dtype, b.dtype))
            b = _gathered(b, indices).to(dtype)
        elif leaf.axis == factors.axis:
            rows = _gathered(factors.q_b @ _between_rests(factors, indices).T, [indices[leaf.axis], None])
            b = _as_rows(rows, leaf.axis, b.ndim)
        else:
            mixed = (_between_rows(factors, indices) @ factors.c_b.flatten(1)).reshape(factors.c_b.shape)
            indices[factors.axis] = None
            b = _gathered(mixed.movedim(0, factors.axis), indices)
        return units_first(leaf.view(b), leaf.unit_dims)


def seem_to_stand_out(
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    leaves: Mapping[Units, Sequence[Leaf]],
    norms: Mapping[str, tuple[float, float]],
) -> bool:
    """Whether `LeadingGains.stand_out` is worth asking: of a few weights, one at least is more than noise."""
    axes = _factored_axes(a, leaves)
    # Of the smaller half: a vocabulary takes as long, and as much memory, as all layers together.
    names = sorted(axes, key=lambda name: (a[name].numel(), name))
    names = names[: (len(names) + 1) // 2]
    names = names[:: max(1, len(names) // PROBES)]
    # One thread: these products are small, and what is decided by them is not to depend on how many there are.
    with at_most(1):
        return any(_both_are_clear(a[name], b[name], axes[name], norms[name]) for name in names)


def factor_bytes(tensors: Mapping[str, Tensor], leaves: Mapping[Units, Sequence[Leaf]]) -> int:
    """The memory that leading parts of two such models take.

    Args:
        tensors: of one model, one dimension for each axis of the spec.
        leaves: of every group, where its own entries are.
    """
    total = 0
    for name, axis in _factored_axes(tensors, leaves).items():
        tensor = tensors[name]
        sides = tensor.shape[axis] + tensor.numel() // tensor.shape[axis]
        # Q and C of both, and what a gain's left side keeps of one.
        total += 3 * RANK * sides * accumulate_dtype(tensor.dtype).itemsize
    return total


def is_worth_leading(tensors: Mapping[str, Tensor], leaves: Mapping[Units, Sequence[Leaf]]) -> bool:
    """Whether leading parts are so much smaller than the weights that a search over them first costs little.

    Gains of many columns, as of convolutions, take a few sweeps, whose work is that of each gain once: to factor
    weights a few hundred units wide takes half as much. Narrow ones take many sweeps, and most of the time in
    assignments.

    Args:
        tensors: of one model, one dimension for each axis of the spec.
        leaves: of every group, where its own entries are.
    """
    axes = _factored_axes(tensors, leaves)
    whole = leading = 0.0
    for leaf in (leaf for found in leaves.values() for leaf in found):
        tensor, axis = tensors[leaf.parameter], axes.get(leaf.parameter)
        work, share = tensor.numel() * tensor.shape[leaf.axis], 1.0
        if axis is not None:
            # Along the factored axis r of the columns are left, along another r of the rows.
            rows = tensor.shape[axis]
            share = RANK * rows / tensor.numel() if leaf.axis == axis else RANK / rows
        whole += work
        leading += share * work
    if not leading <= WORTH_LEADING * whole:
        return False
    factoring = 2 * FACTORING_PRODUCTS * RANK * sum(tensors[name].numel() for name in axes)
    entries = sum(found[0].unit_count ** 2 for found in leaves.values() if found)
    return factoring <= WORTH_FACTORING * (whole + ASSIGNMENTS * entries)


def _factored_axes(tensors: Mapping[str, Tensor], leaves: Mapping[Units, Sequence[Leaf]]) -> dict[str, int]:
    """The large parameters, each with the axis of the first group that moves it."""
    axes: dict[str, int] = {}
    for leaf in (leaf for found in leaves.values() for leaf in found):
        axes.setdefault(leaf.parameter, leaf.axis)
    return {name: axis for name, axis in axes.items() if _is_large(tensors[name], axis)}


def _is_large(tensor: Tensor, axis: int) -> bool:
    rows = tensor.shape[axis]
    return rows > 0 and min(rows, tensor.numel() // rows) >= LONGER * RANK


def _factors(a: Tensor, b: Tensor, axis: int) -> Factors:
    probes = _probes(a, axis)
    (q_a, c_a), (q_b, c_b) = (_range_of(tensor, axis, probes) for tensor in (a, b))
    return Factors(axis, q_a, q_b, c_a, c_b)


def _probes(tensor: Tensor, axis: int) -> Tensor:
    """What a weight is multiplied with: the same for the same shape, so that same weights have same factors."""
    columns = tensor.numel() // tensor.shape[axis]
    return torch.randn(columns, RANK, generator=torch.Generator().manual_seed(0))


def _range_of(tensor: Tensor, axis: int, probes: Tensor) -> tuple[Tensor, Tensor]:
    """Q and C of a weight, from one step of subspace iteration."""
    rest = tensor.movedim(axis, 0).to(accumulate_dtype(tensor.dtype))
    matrix = rest.flatten(1)
    once = matrix @ probes.to(matrix.device, non_blocking=True).to(matrix.dtype)
    # By columns of one length, or the products would leave the largest singular vector alone.
    q = torch.linalg.qr(matrix @ (matrix.T @ torch.linalg.qr(once).Q)).Q
    return q, (q.T @ matrix).reshape(-1, *rest.shape[1:])


def _between_rests(factors: Factors, indices: Sequence[Tensor | None]) -> Tensor:
    """C_a R C_b^T: [r, r]."""
    others = [None, *(index for axis, index in enumerate(indices) if axis != factors.axis)]
    return factors.c_a.flatten(1) @ _gathered(factors.c_b, others).flatten(1).T


def _between_rows(factors: Factors, indices: Sequence[Tensor | None]) -> Tensor:
    """Q_a^T P Q_b: [r, r]."""
    return factors.q_a.T @ _gathered(factors.q_b, [indices[factors.axis], None])


def _both_are_clear(a: Tensor, b: Tensor, axis: int, squares: tuple[float, float]) -> bool:
    """Whether the largest singular value of both models' weight is more than noise; where one's is not, the other is
    not looked at."""
    probes = _probes(a, axis)
    return all(_is_clear(*_range_of(side, axis, probes), square) for side, square in zip((a, b), squares, strict=True))


def _is_clear(q: Tensor, c: Tensor, square: float) -> bool:
    """Whether the largest singular value of a weight, of this squared norm, is more than noise."""
    return float(_largest(c)) > STANDS_OUT * _edge(q, c, square - float(c.double().square().sum()))


def _largest(c: Tensor) -> Tensor:
    """The largest singular value of Q C; [] float64."""
    flat = c.flatten(1)
    norm: Tensor = torch.linalg.matrix_norm(flat @ flat.T, 2)
    return norm.sqrt().double()


def _edge(q: Tensor, c: Tensor, rest: float) -> float:
    """Where the singular values would end, were the rest, of this squared norm, independent entries."""
    rows, rank, columns = q.shape[0], q.shape[1], c[0].numel()
    variance = max(0.0, rest) / ((rows - rank) * (columns - rank))
    return math.sqrt(variance) * (math.sqrt(rows) + math.sqrt(columns))


def _as_rows(matrix: Tensor, axis: int, ndim: int) -> Tensor:
    """[entries, r] as a weight of `ndim` axes: entries along `axis`, r along another, the rest of length 1."""
    shape = [1] * ndim
    last = axis == ndim - 1
    shape[axis], shape[0 if last else ndim - 1] = matrix.shape
    return (matrix.T if last else matrix).reshape(shape)


def _gathered(tensor: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    for axis, index in enumerate(indices):
        if index is not None:
            tensor = tensor.index_select(axis, index)
    return tensor

"""Gain matrices that are kept from visit to visit, and corrected by what has moved since."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..ops.gain_matrix import Term, gain_matrix
from ..symmetry.views import Leaf

__all__ = ["GainCache"]

# A correction gathers twice and multiplies once: past this share of the work, starting anew is as cheap.
WORTH_CORRECTING = 0.5
# Every correction adds its rounding; after so many matrices' worth of them the sum is taken anew.
MOST_CORRECTIONS = 4.0

# The indices that permute an axis of a parameter of b now, or None for an axis that stays.
IndexOf = Callable[[str, int], Tensor | None]
Indices = tuple[Tensor | None, ...]


@dataclass
class _Kept:
    """A gain matrix, the indices that each of its leaves was last added with, and its share of corrections."""

    gain: Tensor
    indices: list[Indices]
    corrected: float


class GainCache:
    """Gains of groups between two models.

    Args:
        a, b: the models' tensors by parameter, one dimension for each axis of the spec.
        leaves: of every group, where its own entries are.
        index_of: the gathers of model b as they are at each call. An index that has changed is another tensor.
    """

    def __init__(
        self,
        a: Mapping[str, Tensor],
        b: Mapping[str, Tensor],
        leaves: Mapping[str, Sequence[Leaf]],
        index_of: IndexOf,
    ) -> None:
        self._a, self._b, self._leaves, self._index_of = a, b, leaves, index_of
        self._kept: dict[str, _Kept] = {}

    def gain(self, group: str) -> Tensor | None:
        """[units, units] over all units of `group`, None if it has no entries of its own. Not to be written to."""
        leaves = self._leaves[group]
        if not leaves:
            return None
        indices = [self._indices(leaf) for leaf in leaves]
        kept = self._kept.get(group)
        terms = None if kept is None else self._corrections(group, kept, indices)
        if kept is None or terms is None:
            self._kept[group] = _Kept(self.partial_gain(leaves), indices, 0.0)
        elif terms:
            kept.gain, kept.indices = gain_matrix(terms, kept.gain), indices
        return self._kept[group].gain

    def partial_gain(self, leaves: Sequence[Leaf]) -> Tensor:
        """The gain of some of a group's leaves alone, from nothing."""
        return gain_matrix([self._term(leaf, self._indices(leaf)) for leaf in leaves])

    def forget_corrected(self) -> set[str]:
        """Drop all gains that hold corrections, and return their groups: the next ones are summed anew."""
        corrected = {group for group, kept in self._kept.items() if kept.corrected > 0}
        for group in corrected:
            del self._kept[group]
        return corrected

    def _indices(self, leaf: Leaf) -> Indices:
        """The gathers of the leaf's other axes, one for each axis of the parameter."""
        axes = self._b[leaf.parameter].ndim
        return tuple(None if axis == leaf.axis else self._index_of(leaf.parameter, axis) for axis in range(axes))

    def _term(self, leaf: Leaf, indices: Indices) -> Term:
        a, b = leaf.view(self._a[leaf.parameter]), leaf.view(self._b[leaf.parameter])
        return Term(a, b, leaf.unit_dims, _by_dimension(leaf, indices))

    def _corrections(self, group: str, kept: _Kept, indices: list[Indices]) -> list[Term] | None:
        """Terms that bring the kept gain up to date; None where it is better summed anew."""
        terms = []
        work = total = 0.0
        for leaf, before, now in zip(self._leaves[group], kept.indices, indices, strict=True):
            entries = leaf.view(self._a[leaf.parameter]).numel()
            total += entries
            changed = [axis for axis, (old, new) in enumerate(zip(before, now, strict=True)) if old is not new]
            if not changed:
                continue
            if len(changed) > 1:
                return None
            (axis,) = changed
            old, new = before[axis], now[axis]
            assert old is not None and new is not None
            moved = (old != new).nonzero().squeeze(1)
            if not moved.numel():
                continue
            work += entries * moved.numel() / new.numel()
            terms.append(self._correction(leaf, axis, before, now, moved))
        if not terms:
            return terms
        if work > WORTH_CORRECTING * total or kept.corrected + work / total > MOST_CORRECTIONS:
            return None
        kept.corrected += work / total
        return terms

    def _correction(self, leaf: Leaf, axis: int, before: Indices, now: Indices, moved: Tensor) -> Term:
        """What the entries of one axis that have moved add, and what they added where they were."""
        dim = _dimension(leaf, axis)
        term = self._term(leaf, now)
        gathers = [list(_by_dimension(leaf, indices)) for indices in (now, before)]
        for places in gathers:
            index = places[dim]
            assert index is not None
            places[dim] = index[moved]
        return Term(term.a.index_select(dim, moved), term.b, term.units, tuple(gathers[0]), tuple(gathers[1]))


def settled_leaves(
    leaves: Sequence[Leaf], roots_of: Callable[[str], Sequence[Collection[str]]], settled: Collection[str]
) -> list[Leaf]:
    """The leaves on whose other axes every root group is settled."""
    return [
        leaf
        for leaf in leaves
        if all(
            root in settled
            for axis, roots in enumerate(roots_of(leaf.parameter))
            if axis != leaf.axis
            for root in roots
        )
    ]


def _dimension(leaf: Leaf, axis: int) -> int:
    """The dimension of the leaf's view that another axis of its parameter has become."""
    return axis if axis < leaf.axis else axis + leaf.added_dims


def _by_dimension(leaf: Leaf, indices: Indices) -> Indices:
    """Indices by axis of the parameter -> by dimension of the leaf's view."""
    return (*indices[: leaf.axis], *(None,) * (leaf.added_dims + 1), *indices[leaf.axis + 1 :])

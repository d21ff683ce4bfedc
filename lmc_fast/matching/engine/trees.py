"""Gains of groups of any kind, and of several inside each other, for many pairs of their owner's units."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...symmetry import PermutationSpec
from ...symmetry.kinds import KINDS

__all__ = ["Factor", "Factors", "Picks"]


@dataclass(frozen=True)
class Factor:
    """One gain: linear in the element of each of its groups, the others held.

    Attributes:
        groups: owners before what they own.
        gain: [pairs, (units, entries) of each group in model a..., the same in model b...].
    """

    groups: tuple[str, ...]
    gain: Tensor

    def of(self, rows: Tensor) -> Factor:
        """That of some of the pairs."""
        return Factor(self.groups, self.gain[rows])

    def plus(self, other: Factor) -> Factor:
        """The sum of two of the same groups, in the wider of their dtypes."""
        return Factor(self.groups, self.gain + other.gain)

    def by_pairs(self) -> Factor:
        """The same, with the outermost group's units, which are one entry each, made part of the pairs."""
        unit = 1 + 2 * len(self.groups)
        front = self.gain.select(unit + 1, 0).select(2, 0).movedim(unit - 1, 2)
        return Factor(self.groups[1:], front.reshape(-1, *front.shape[3:]))

    def last(self, group: str) -> Tensor:
        """The gain with a group's dimensions at the end: [pairs, the others', units, entries, units, entries]."""
        count, k = len(self.groups), self.groups.index(group)
        own = (1 + 2 * k, 2 + 2 * k, 1 + 2 * count + 2 * k, 2 + 2 * count + 2 * k)
        return self.gain.movedim(own, (-4, -3, -2, -1))

    def valued(self, spec: PermutationSpec, kept: tuple[str, ...], picks: Picks, depth: int) -> Factor:
        """What is left of the gain with all but the kept groups at their picks.

        Args:
            kept: of the groups, in their order; with none, the gain that is left is [pairs].
            picks: of the others.
            depth: how many groups own the outermost of these.
        """
        left = self
        # Inner ones first: an element has a row for each unit of its owners.
        for name in reversed(self.groups):
            if name in kept:
                continue
            pick, owners = picks[name], spec.chain(name)[depth:-1]
            rest = tuple(group for group in left.groups if group != name)
            places = [size for group in rest for size in (spec.sizes[group] if group in owners else 1, 1)]
            element = pick.reshape(len(pick), *places, *(1,) * len(places), *pick.shape[1 + len(owners) :])
            left = Factor(rest, KINDS[spec.groups[name].kind].value(left.last(name), element))
        return left


Factors = dict[tuple[str, ...], Factor]
# For each of many pairs of an owner's units the element of a group below it, with a row for each unit of the owners
# below that one: [pairs, units..., *element].
Picks = dict[str, Tensor]

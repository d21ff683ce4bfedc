"""The best elements of a root group of any kind, together with the groups that it owns.

As `nested` does for permutations: with G of a pair (i, j) of an owner's units, what lies inside j is best for itself
where i is, and the owner is assigned over the totals,

    max over pi of  sum_i T[i, pi(i)],    T[i, j] = own gain + sum over owned groups of  max over g of <g, G_ij>.

What a maximum is, and what an element is worth, is for the kinds to say (`symmetry.kinds`): nothing else is asked of
them here. Query-key and value-output maps of attention heads are two groups that the heads own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from ...symmetry import PermutationSpec
from ...symmetry.kinds import KINDS, Kind
from .bilinear import alternated
from .nested import owned_together
from .trees import Factors, Picks

__all__ = ["Elements", "best_elements", "best_elements_together", "worth"]

Elements = Mapping[str, Tensor]
# Units of an owner of which most pairs are no pair in the end.
FEW = 2


def best_elements(
    spec: PermutationSpec, root: str, factors: Factors, current: Elements, frozen: Collection[str] = ()
) -> tuple[dict[str, Tensor], float]:
    """Maximise the total gain of a root group and of all that it owns.

    Exact where every gain is of one group inside its owners. Where it is of several that lie inside each other, these
    are solved in turn inside every pair of their owner's units (`bilinear`): a local optimum, worth no less than
    `current`.

    Args:
        spec: bound.
        root: a group that nothing owns.
        factors: of its tree; [1, ...] each. Groups without any stay as they are.
        current: the elements so far, of the tree at least; on the gains' device.
        frozen: groups that keep their element; the units of a frozen group's owner take along what they hold.

    Returns:
        The best elements of the root and of every group below it, and how much more they are worth than `current`.
    """
    search = _Search(spec, current, frozen)
    owners = torch.zeros(1, dtype=torch.int64, device=search.device)
    picks = search.solve(root, factors, owners)[1]
    found = {name: pick.reshape(current[name].shape) for name, pick in picks.items()}
    # Both are summed in one way: their difference decides about progress.
    return found, worth(spec, factors, found) - worth(spec, factors, current)


def best_elements_together(
    spec: PermutationSpec, roots: Sequence[str], factors: Factors, current: Elements, frozen: Collection[str] = ()
) -> tuple[dict[str, Tensor], float]:
    """As `best_elements`, of several root groups at once that lie inside each other."""
    search = _Search(spec, current, frozen)
    owners = torch.zeros(1, dtype=torch.int64, device=search.device)
    picks = alternated(search, roots, factors, owners)[1]
    found = {name: pick.reshape(current[name].shape) for name, pick in picks.items()}
    return found, worth(spec, factors, found) - worth(spec, factors, current)


def worth(spec: PermutationSpec, factors: Factors, elements: Elements) -> float:
    """What elements gain in all, in float64."""
    total = 0.0
    for groups, factor in factors.items():
        picks = {name: elements[name][None] for name in groups}
        total += float(factor.valued(spec, (), picks, 0).gain)
    return total


class _Search:
    """Best elements of groups for many pairs of units of their owner at once."""

    def __init__(self, spec: PermutationSpec, current: Elements, frozen: Collection[str]) -> None:
        self.spec, self.current, self.frozen = spec, current, frozen
        self.device = next(iter(current.values())).device
        self._now: dict[str, Tensor] = {}

    def solve(self, group: str, factors: Factors, owners: Tensor) -> tuple[Tensor, Picks]:
        """Best value of a group and all that it owns for every pair of its owner's units, and what reaches it.

        Args:
            factors: gains of the group and of what it owns: [pairs, ...].
            owners: of each pair the unit of b, counted over all units of the owner: int64 [pairs].

        Returns:
            Float64 [pairs], and the picks of the group and of every group below it.
        """
        pairs, size, kind = len(owners), self.spec.sizes[group], self.kind(group)
        own = factors.get((group,))
        gain = None if own is None else own.gain
        inside: Picks = {}
        # What is looked for in the owner's chosen pairs alone: of the others its value will do.
        later: list[tuple[str, Factors, Tensor]] = []
        by_pairs = {groups[1:]: factor.by_pairs() for groups, factor in factors.items() if len(groups) > 1}
        units = torch.arange(size, device=self.device)
        for children, of_children in owned_together(self.spec, group, by_pairs):
            below = (owners[:, None, None] * size + units).expand(pairs, size, size).reshape(-1)
            if not of_children:
                for child in children:
                    inside |= self.held(child, below)
                continue
            most = self.most(children, of_children) if size > FEW else None
            if most is not None:
                value = most
                later.append((children[0], of_children, below))
            elif len(children) == 1:
                value, found = self.solve(children[0], of_children, below)
                inside |= found
            else:
                value, found = alternated(self, children, of_children, below)
                inside |= found
            of_units = value.reshape(pairs, size, 1, size, 1)
            gain = of_units if gain is None else gain + of_units
        if gain is None:
            return torch.zeros(pairs, dtype=torch.float64, device=self.device), self.held(group, owners)
        if group in self.frozen:
            pick = self.now(group)[owners]
            total = kind.value(gain, pick)
        else:
            pick, total = kind.best(gain)
        picks = {group: pick}
        rows = torch.arange(pairs, device=self.device)[:, None]
        for name, of_pairs in inside.items():
            # An owner's element is the unit at each place.
            picks[name] = of_pairs.reshape(pairs, size, size, *of_pairs.shape[1:])[rows, units, pick]
        for child, of_child, below in later:
            chosen = ((rows * size + units) * size + pick).reshape(-1)
            some = {groups: factor.of(chosen) for groups, factor in of_child.items()}
            for name, of_pairs in self.solve(child, some, below[chosen])[1].items():
                picks[name] = of_pairs.reshape(pairs, size, *of_pairs.shape[1:])
        return total, picks

    def most(self, children: Sequence[str], factors: Factors) -> Tensor | None:
        """Best values of a group that owns nothing, where its kind has them for less than its elements."""
        if len(children) > 1 or children[0] in self.frozen or self.spec.owned_by(children[0]):
            return None
        (factor,) = factors.values()
        return self.kind(children[0]).most(factor.gain)

    def kind(self, group: str) -> Kind:
        return KINDS[self.spec.groups[group].kind]

    def now(self, group: str) -> Tensor:
        """For every unit of b of a group's owner the element that its units have now: [owners, *element]."""
        if group not in self._now:
            owners, element = self.spec.chain(group)[:-1], self.current[group]
            rows = element.reshape(-1, *element.shape[len(owners) :])
            flat = torch.zeros(1, dtype=torch.int64, device=self.device)
            for owner in owners:
                size = self.spec.sizes[owner]
                flat = (flat[:, None] * size + self.current[owner].reshape(-1, size)).reshape(-1)
            held = torch.empty_like(rows)
            held[flat] = rows
            self._now[group] = held
        return self._now[group]

    def held(self, group: str, owners: Tensor) -> Picks:
        """The elements that a group and all that it owns have now in these units of its owner in b."""
        pick = self.now(group)[owners]
        picks = {group: pick}
        for child in self.spec.owned_by(group):
            picks |= self.held(child, owners[..., None] * self.spec.sizes[group] + pick)
        return picks

"""Groups of one owner whose gains depend on each other, of any kinds, solved in turn inside every pair of its units.

As `alternating` does for permutations alone. In grouped-query attention a key/value head owns its query heads, its
value dimensions and its rotary planes; the output projection's gain is of the query heads and the value dimensions
together, the queries' of the query heads and the planes. With all but one held each is linear in that one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ...symmetry import PermutationSpec
from ...symmetry.kinds import Kind
from .trees import Factors, Picks

__all__ = ["Search", "alternated"]

# From each start a few rounds tell which is best for a pair; on from that one.
FIRST_ROUNDS = 3
MOST_ROUNDS = 100
# Of a pair's total: continuous kinds gain a little for ever.
STILL = 1e-10


class Search(Protocol):
    """What solves one group, with all that it owns, for many pairs of its owner's units."""

    spec: PermutationSpec
    frozen: Collection[str]

    def solve(self, group: str, factors: Factors, owners: Tensor) -> tuple[Tensor, Picks]: ...

    def held(self, group: str, owners: Tensor) -> Picks: ...

    def kind(self, group: str) -> Kind: ...


def alternated(search: Search, children: Sequence[str], factors: Factors, owners: Tensor) -> tuple[Tensor, Picks]:
    """Elements of groups of one owner, or of none, and of all that they own, for every pair of its units.

    Args:
        search: solves each of the groups by itself.
        children: two groups at least.
        factors: their gains.
        owners: of each pair the unit of b, counted over all units of the owner: int64 [pairs]; [0] without an owner.

    Returns:
        What they are worth, float64 [pairs], and the elements. No pair is worth less than with the elements so far, nor
        less than if its groups were solved one after another, the first by its own gains alone; in either order of two.
    """
    work = _Alternation(search, children, factors, owners)
    value, best = torch.full((len(owners),), -torch.inf, dtype=torch.float64, device=owners.device), Picks()
    for picks, order in work.starts():
        total = work.improved(picks, order, FIRST_ROUNDS)
        better = total > value
        value = torch.where(better, total, value)
        for name, pick in picks.items():
            best.setdefault(name, pick)[better] = pick[better]
    return work.improved(best, children, MOST_ROUNDS), best


class _Alternation:
    """The gains of some groups of one owner, and how to solve one of them with the others held."""

    def __init__(self, search: Search, children: Sequence[str], factors: Factors, owners: Tensor) -> None:
        self.search, self.spec, self.children = search, search.spec, list(children)
        self.factors, self.owners = factors, owners
        self.depth = len(self.spec.chain(children[0])) - 1
        self.below = {
            child: [name for name in self.spec.groups if child in self.spec.chain(name)[self.depth :]]
            for child in children
        }
        self.own = {
            child: {groups: factor for groups, factor in factors.items() if set(groups) <= set(below)}
            for child, below in self.below.items()
        }

    def starts(self) -> Iterator[tuple[Picks, Sequence[str]]]:
        """Elements to begin at, which are written to, and the order in which the groups are then solved first."""
        now = {name: pick for child in self.children for name, pick in self.search.held(child, self.owners).items()}
        orders = [self.children, self.children[::-1]]
        yield _copied(now), orders[0]
        # What each is worth by itself; one of which nothing is known by itself stays.
        alone = dict(now)
        for child, known in self.own.items():
            if known:
                alone |= self.search.solve(child, known, self.owners)[1]
        for order in orders:
            yield _copied(alone), order
        for child in self.children:
            pick = self._by_what_lies_inside(child, now)
            if pick is not None:
                yield {**_copied(alone), child: pick}, [*(other for other in self.children if other != child), child]

    def improved(self, picks: Picks, order: Sequence[str], rounds: int) -> Tensor:
        """Solve the groups in turn, for each pair until that gains no more; writes to picks. What they are worth."""
        rows = torch.arange(len(self.owners), device=self.owners.device)
        total = self._value(picks, rows)
        for _ in range(rounds):
            before = total[rows]
            for child in order:
                self._improve(child, picks, total, rows)
            rows = rows[total[rows] - before > STILL * total[rows].abs()]
            if not len(rows):
                break
        return total

    def _value(self, picks: Picks, rows: Tensor) -> Tensor:
        """What the elements of some of the pairs are worth, one entry of each pick for each of these."""
        total = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
        for factor in self.factors.values():
            total += factor.of(rows).valued(self.spec, (), picks, self.depth).gain
        return total

    def _improve(self, child: str, picks: Picks, total: Tensor, rows: Tensor) -> None:
        """Solve a group with the others held, for some of the pairs; what gains is written to picks and total."""
        here = {name: pick[rows] for name, pick in picks.items()}
        known = {groups: factor.of(rows) for groups, factor in self.own[child].items()}
        for groups, factor in self.factors.items():
            kept = tuple(name for name in groups if name in self.below[child])
            if kept and len(kept) < len(groups):
                held = factor.of(rows).valued(self.spec, kept, here, self.depth)
                known[kept] = known[kept].plus(held) if kept in known else held
        found = self.search.solve(child, known, self.owners[rows])[1]
        reached = self._value(here | found, rows)
        better = reached > total[rows]
        total[rows[better]] = reached[better]
        for name, pick in found.items():
            picks[name][rows[better]] = pick[better]

    def _by_what_lies_inside(self, outer: str, now: Picks) -> Tensor | None:
        """The element of a group, were those beside it free in each of its units; None where that is not told so.

        As exact as the gains are, for a unit is known by what lies inside it, however that is moved: a query head by
        the singular values of its part of the output projection, say.
        """
        kind = self.search.kind(outer)
        if not kind.may_own or outer in self.search.frozen or self.below[outer] != [outer]:
            return None
        own, size = self.own[outer].get((outer,)), self.spec.sizes[outer]
        gain = None if own is None else own.gain
        for groups, factor in self.factors.items():
            if outer not in groups or len(groups) == 1:
                continue
            if len(groups) > 2 or any(self.below.get(name) != [name] for name in groups):
                return None
            (inner,) = (name for name in groups if name != outer)
            blocks = factor.last(inner).squeeze(4).squeeze(2)  # [pairs, units, units, inner's ...]
            alone = self.own[inner].get((inner,))
            if alone is not None:
                blocks = blocks + alone.gain[:, None, None] / size
            inside = self.search.kind(inner)
            if inner in self.search.frozen:
                value = inside.value(blocks, now[inner][:, None, None])
            else:
                value = inside.best(blocks)[1]
            value = value[:, :, None, :, None]
            gain = value if gain is None else gain + value
        return None if gain is None else kind.best(gain)[0]


def _copied(picks: Picks) -> Picks:
    return {name: pick.clone() for name, pick in picks.items()}

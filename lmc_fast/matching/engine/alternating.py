"""Choices of groups whose gains depend on each other, solved in turn inside every pair of their owner's units.

Where groups q and d of one owner lie inside each other on an axis, what exchanging its units i and j gains is

    max over pi, sigma of  sum_p Q[p, pi(p)] + sum_s D[s, sigma(s)] + sum_{p, s} J[p, s, pi(p), sigma(s)],

a bilinear assignment, which is NP-hard in general. With one of the two held the other is a linear assignment: in turn
they reach a local optimum, for all pairs (i, j) at once. Of those that several starts lead to each pair has its best.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...assignment import linear_sum_assignment_batched
from ...symmetry import PermutationSpec

__all__ = ["Factors", "Gain", "Picks", "Search", "alternated"]

# Beside those that the gains point to.
RANDOM_STARTS = 3

Gain = NDArray[np.float32] | NDArray[np.float64]
# Gains for each of many pairs of an owner's units, by the groups that they are of, owners first:
# [pairs, places of each group..., units of each group...].
Factors = dict[tuple[str, ...], Gain]
# For each of many pairs of an owner's units the unit at each place of a group below it, owners' places first:
# [pairs, places of the owners below that one..., places].
Picks = dict[str, NDArray[np.int64]]


class Search(Protocol):
    """What solves one group, with all that it owns, for many pairs of its owner's units."""

    spec: PermutationSpec
    frozen: Collection[str]

    def solve(self, group: str, factors: Factors, owners: NDArray[np.int64]) -> tuple[NDArray[np.float64], Picks]: ...

    def now(self, group: str) -> NDArray[np.int64]: ...


def alternated(
    search: Search, children: Sequence[str], factors: Factors, owners: NDArray[np.int64]
) -> tuple[NDArray[np.float64], Picks]:
    """Choices of groups of one owner, or of none, and of all that they own, for every pair of its units.

    Args:
        search: solves each of the groups by itself.
        children: two groups at least.
        factors: their gains.
        owners: of each pair the unit of b, counted over all units of the owner: int64 [pairs]; [0] without an owner.

    Returns:
        What they gain, float64 [pairs], and the choices. No pair gains less than from the choices so far, nor less
        than if its groups were solved one after another, the first by its own gains alone; in either order of two.
    """
    work = _Alternation(search, children, factors, owners)
    every = np.arange(len(owners))
    best: Picks = {}
    value = np.full(len(owners), -np.inf)
    for picks, order in work.starts():
        total = work.value(picks, every)
        moving = every
        while moving.size:
            before = total[moving]
            for child in order:
                work.improve(child, picks, total, moving)
            moving = moving[total[moving] > before]
        better = total > value
        value = np.where(better, total, value)
        for name, pick in picks.items():
            best.setdefault(name, pick)[better] = pick[better]
    return value, best


class _Alternation:
    """The gains of some groups of one owner, and how to solve one of them with the others held."""

    def __init__(self, search: Search, children: Sequence[str], factors: Factors, owners: NDArray[np.int64]) -> None:
        self.search, self.spec, self.children = search, search.spec, children
        self.factors, self.owners = factors, owners
        depth = len(self.spec.chain(children[0])) - 1
        self.below = {
            child: [name for name in self.spec.groups if child in self.spec.chain(name)[depth:]] for child in children
        }
        self.own = {
            child: {groups: factor for groups, factor in factors.items() if set(groups) <= set(below)}
            for child, below in self.below.items()
        }

    def starts(self) -> Iterator[tuple[Picks, Sequence[str]]]:
        """Choices to begin at, which may be written to, and the order in which the groups are then solved first."""
        orders = [list(self.children), list(reversed(self.children))]
        now = {name: pick for child in self.children for name, pick in self._now(child, self.owners).items()}
        yield _copied(now), orders[0]
        # What each gains by itself; with the mean over all choices of the others; and all choices alike.
        alone = [self._solved({child: self.own[child] for child in self.children}, now)]
        alone.append(self._solved({child: self._with_means(child) for child in self.children}, now))
        for picks in alone:
            for order in orders:
                yield _copied(picks), order
        if self._is_plain():
            outer, inner = sorted(self.children, key=self.spec.sizes.__getitem__)
            yield {**_copied(alone[0]), outer: self._as_owner(outer, inner)}, [inner, outer]
        rng = np.random.default_rng(0)
        for _ in range(RANDOM_STARTS):
            yield self._random(now, rng), orders[0]

    def value(self, picks: Picks, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Total gain of choices for some of the pairs, one entry of each pick for each of these: float64 [rows]."""
        total = np.zeros(len(rows))
        for groups, factor in self.factors.items():
            total += self._held(groups, factor, (), picks, rows)
        return total

    def improve(self, child: str, picks: Picks, total: NDArray[np.float64], rows: NDArray[np.int64]) -> None:
        """Solve a group with the others held, for some of the pairs; what gains is written to picks and total."""
        here = {name: pick[rows] for name, pick in picks.items()}
        known = {groups: factor[rows] for groups, factor in self.own[child].items()}
        for groups, factor in self.factors.items():
            kept = tuple(name for name in groups if name in self.below[child])
            if kept and len(kept) < len(groups):
                held = self._held(groups, factor, kept, here, rows)
                known[kept] = known[kept] + held if kept in known else held
        found = self.search.solve(child, known, self.owners[rows])[1]
        reached = self.value(here | found, rows)
        better = reached > total[rows]
        total[rows[better]] = reached[better]
        for name, pick in found.items():
            picks[name][rows[better]] = pick[better]

    def _held(
        self, groups: tuple[str, ...], factor: Gain, kept: tuple[str, ...], picks: Picks, rows: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Gains of the kept groups with the others at their picks: [rows, kept places..., kept units...]."""
        count = len(groups)
        # Dimensions: rows, all places, units of the kept.
        ndim = 1 + count + len(kept)
        index = [_along(rows, 0, ndim)]
        index += [_along(np.arange(self.spec.sizes[name]), 1 + k, ndim) for k, name in enumerate(groups)]
        for name in groups:
            if name in kept:
                index.append(_along(np.arange(self.spec.sizes[name]), 1 + count + kept.index(name), ndim))
            else:
                shape = [self.spec.sizes[other] if other in self.spec.chain(name) else 1 for other in groups]
                index.append(picks[name].reshape(len(rows), *shape, *(1 for _ in kept)))
        gone = tuple(1 + k for k, name in enumerate(groups) if name not in kept)
        total: NDArray[np.float64] = factor[tuple(index)].sum(axis=gone, dtype=np.float64)
        return total

    def _with_means(self, child: str) -> Factors:
        """Gains of a group by itself, those that it has with others at the mean over all choices of these."""
        known = dict(self.own[child])
        for groups, factor in self.factors.items():
            kept = tuple(name for name in groups if name in self.below[child])
            if kept and len(kept) < len(groups):
                gone = [k for k, name in enumerate(groups) if name not in kept]
                dims = tuple(1 + k for k in gone) + tuple(1 + len(groups) + k for k in gone)
                mean = factor.sum(axis=dims, dtype=np.float64) / np.prod([self.spec.sizes[groups[k]] for k in gone])
                known[kept] = known[kept] + mean if kept in known else mean
        return known

    def _solved(self, known: dict[str, Factors], now: Picks) -> Picks:
        """Each group by what is known of it; one of which nothing is known stays."""
        found: Picks = {}
        for child, factors in known.items():
            if factors:
                found |= self.search.solve(child, factors, self.owners)[1]
            else:
                found |= {name: now[name] for name in self.below[child]}
        return found

    def _is_plain(self) -> bool:
        """Whether there are two groups that own nothing, and neither is frozen."""
        return len(self.below) == 2 and all(
            below == [child] and child not in self.search.frozen for child, below in self.below.items()
        )

    def _as_owner(self, outer: str, inner: str) -> NDArray[np.int64]:
        """Of two groups the choice of one, were the other in an order of its own in each of its units: [pairs, size].

        As exact as the gains are, for a unit is known by what lies inside it, in whatever order.
        """
        (groups,) = (groups for groups in self.factors if len(groups) > 1)
        factor, pairs, size, within = (
            self.factors[groups],
            len(self.owners),
            *(self.spec.sizes[n] for n in (outer, inner)),
        )
        if groups != (outer, inner):
            factor = factor.transpose(0, 2, 1, 4, 3)
        # [pairs, outer's places, outer's units, inner's places, inner's units]
        blocks = factor.transpose(0, 1, 3, 2, 4)
        own = self.own[inner].get((inner,))
        if own is not None:
            blocks = blocks + own[:, None, None] / size
        flat = np.ascontiguousarray(blocks).reshape(-1, within, within)
        picks = linear_sum_assignment_batched(flat, maximize=True)[1]
        gain = np.take_along_axis(flat, picks[..., None], axis=2).sum(axis=(1, 2), dtype=np.float64)
        gain = gain.reshape(pairs, size, size)
        known = self.own[outer].get((outer,))
        choice: NDArray[np.int64] = linear_sum_assignment_batched(
            gain if known is None else gain + known, maximize=True
        )[1]
        return choice

    def _now(self, group: str, owners: NDArray[np.int64]) -> Picks:
        """The order that a group and all that it owns have now in these units of its owner in b."""
        pick = self.search.now(group)[owners]  # [..., size]
        below = owners[..., None] * self.spec.sizes[group] + pick
        picks = {group: pick}
        for child in self.spec.owned_by(group):
            picks |= self._now(child, below)
        return picks

    def _random(self, now: Picks, rng: np.random.Generator) -> Picks:
        """Random choices, the same for all pairs; what holds a frozen group stays."""
        picks: Picks = {}
        for below in self.below.values():
            still = any(name in self.search.frozen for name in below)
            for name in below:
                drawn = np.broadcast_to(rng.permutation(self.spec.sizes[name]), now[name].shape)
                picks[name] = (now[name] if still else drawn).copy()
        return picks


def _along(values: NDArray[np.int64], dim: int, ndim: int) -> NDArray[np.int64]:
    """Values along one dimension of many."""
    return values.reshape([-1 if other == dim else 1 for other in range(ndim)])


def _copied(picks: Picks) -> Picks:
    return {name: pick.copy() for name, pick in picks.items()}

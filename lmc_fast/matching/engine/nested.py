"""The best choice of a root group together with the groups that it owns.

Exact where every gain is of one group: one inner assignment for every pair of owners, and an outer one over the totals.
Where groups of one owner lie inside each other on an axis (query heads and value dimensions, both owned by a key/value
head), a gain is of both together, and linear in each with the other held: see `alternating`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ...assignment import AssignmentSolver, Candidates, linear_sum_assignment_batched
from ...symmetry import PermutationSpec
from ...symmetry.permutations import units_within
from ...symmetry.views import Units, groups_of
from .alternating import Factors, Gain, Picks, alternated

__all__ = [
    "Choices",
    "Gain",
    "Gains",
    "best_choices",
    "best_together",
    "flat_choices",
    "owned_together",
    "units_at_places",
    "value_of",
]

Gains = Mapping[Units, Gain | None]
Choices = dict[str, NDArray[np.int64]]
FactorT = TypeVar("FactorT")


def best_choices(
    spec: PermutationSpec,
    root: str,
    gains: Gains,
    current: Mapping[str, NDArray[np.int64]],
    solver: AssignmentSolver | None = None,
    frozen: Collection[str] = (),
    candidates: Candidates | None = None,
) -> tuple[Choices, float]:
    """Maximise the total gain of a root group and of all that it owns.

    Exchanging owner unit i for j gains the entries that are the owner's own, and the optimum of the units that j owns
    over the places that i owns. So the solution is one inner assignment for every pair of owners, and an outer one
    over the totals. It is exact unless gains are of several groups together: then the inner optima are local ones,
    which gain no less than to solve the groups one after another, in either order, and no less than `current`.

    Args:
        spec: bound.
        root: a group that nothing owns.
        gains: for the root and every group below it [units, units] (units of all owners end to end; row: place,
            unit of a; column: unit of b), or None where it has no entries of its own; for groups that lie inside each
            other the same over the units that they have together. Those of other roots are not looked at.
        current: the choices so far.
        solver: of the root's own assignments (maximising), which goes on from its last one; None: solve from
            nothing. Those inside owners are small, and are solved in one batch.
        frozen: groups that keep their current choice; units that a frozen group's owner moves take along the order
            that they have.
        candidates: of the root's gain, where it owns nothing: what its solver need not read then.

    Returns:
        The best choices of the root and of every group below it, and how much they gain over `current`, in float64.
    """
    alone = gains.get(root)
    if alone is not None and len(gains) == 1 and root not in frozen and not spec.owned_by(root):
        # As most groups are: the same, without what the others take.
        pick = (solver or AssignmentSolver(maximize=True)).solve(alone, candidates=candidates)
        rows = np.arange(len(pick))
        now, then = (float(alone[rows, choice].sum(dtype=np.float64)) for choice in (pick, current[root]))
        return {root: pick}, now - then
    own = {units: gain for units, gain in gains.items() if groups_of(spec, units)[0] == root}
    factors = _of_more_than_one(spec, _factors(spec, own))
    picks = _Search(spec, current, frozen).solve(root, factors, _NO_OWNER, solver, candidates)[1]
    choices: Choices = {name: pick.reshape(spec.shape(name)) for name, pick in picks.items()}
    # The optimum's value summed in the way that the current one's is: their difference decides about progress.
    return choices, value_of(spec, root, gains, choices) - value_of(spec, root, gains, current)


def best_together(
    spec: PermutationSpec,
    roots: Sequence[str],
    gains: Gains,
    current: Mapping[str, NDArray[np.int64]],
    frozen: Collection[str] = (),
) -> tuple[Choices, float]:
    """As `best_choices`, of several root groups at once.

    Args:
        gains: of the roots and of what they own, and of those together that lie inside each other.
    """
    picks = alternated(_Search(spec, current, frozen), roots, _factors(spec, gains), _NO_OWNER)[1]
    choices: Choices = {name: pick.reshape(spec.shape(name)) for name, pick in picks.items()}
    gained = 0.0
    for units, gain in gains.items():
        if gain is not None:
            after, before = (units_at_places(spec, units, of) for of in (choices, current))
            places = np.arange(after.size)
            gained += float((gain[places, after] - gain[places, before]).sum(dtype=np.float64))
    return choices, gained


# One pair of owners, of which nothing is asked: groups that no group owns.
_NO_OWNER = np.zeros(1, dtype=np.int64)


def _factors(spec: PermutationSpec, gains: Gains) -> Factors:
    factors: Factors = {}
    for units, gain in gains.items():
        if gain is not None:
            groups = groups_of(spec, units)
            sizes = [spec.sizes[name] for name in groups]
            factors[groups] = gain.reshape(1, *sizes, *sizes)
    return factors


def _of_more_than_one(spec: PermutationSpec, factors: Factors) -> Factors:
    """The same gains without groups of one unit that own none of the others: these depend on nobody's choice.

    What is left is solved exactly where it is of one group below the root (each query head with a key/value head of
    its own, say), and is not looked for in turns.
    """
    found: Factors = {}
    for groups, factor in factors.items():
        kept = tuple(
            name
            for name in groups
            if spec.sizes[name] > 1 or any(name in spec.chain(other) for other in groups if other != name)
        )
        kept = kept or groups[:1]
        sizes = [spec.sizes[name] for name in kept]
        factor = factor.reshape(1, *sizes, *sizes)
        found[kept] = found[kept] + factor if kept in found else factor
    return found


class _Search:
    """Best choices of groups for many pairs of units of their owner at once.

    Args:
        spec: bound.
        current: the choices so far.
        frozen: groups that keep theirs.
    """

    def __init__(
        self, spec: PermutationSpec, current: Mapping[str, NDArray[np.int64]], frozen: Collection[str]
    ) -> None:
        self.spec, self.current, self.frozen = spec, current, frozen
        self._now: dict[str, NDArray[np.int64]] = {}

    def solve(
        self,
        group: str,
        factors: Factors,
        owners: NDArray[np.int64],
        solver: AssignmentSolver | None = None,
        candidates: Candidates | None = None,
    ) -> tuple[NDArray[np.float64], Picks]:
        """Best value of a group and all that it owns for every pair of its owner's units, and what reaches it.

        Args:
            factors: gains of the group and of what it owns.
            owners: of each pair the unit of b, counted over all units of the owner: int64 [pairs].
            solver, candidates: of the group's own assignment, where there is one pair.

        Returns:
            Float64 [pairs], and the picks of the group and of every group below it.
        """
        pairs, size = len(owners), self.spec.sizes[group]
        gain: Gain | None = factors.get((group,))
        inner = {groups[1:]: _by_pairs(factor) for groups, factor in factors.items() if len(groups) > 1}
        inside: Picks = {}
        for children, own in owned_together(self.spec, group, inner):
            below = np.broadcast_to(owners[:, None, None] * size + np.arange(size), (pairs, size, size)).reshape(-1)
            if len(children) == 1:
                value, found = self.solve(children[0], own, below)
            else:
                value, found = alternated(self, children, own, below)
            of_units: NDArray[np.float64] = value.reshape(pairs, size, size)
            gain = of_units if gain is None else gain + of_units
            inside |= found
        if gain is None:
            # Nothing that counts tells these units apart.
            gain = np.zeros((pairs, size, size))
        if group in self.frozen:
            pick = self.now(group)[owners]
        elif pairs == 1:
            pick = (solver or AssignmentSolver(maximize=True)).solve(gain[0], candidates=candidates)[None]
        else:
            pick = linear_sum_assignment_batched(gain, maximize=True)[1]
        total: NDArray[np.float64] = np.take_along_axis(gain, pick[..., None], axis=2).sum((1, 2), dtype=np.float64)
        rows, places = np.arange(pairs)[:, None], np.arange(size)
        picks = {group: pick}
        for name, of_pairs in inside.items():
            picks[name] = of_pairs.reshape(pairs, size, size, *of_pairs.shape[1:])[rows, places, pick]
        return total, picks

    def now(self, group: str) -> NDArray[np.int64]:
        """For every unit of b of a group's owner the order of its units now: [owners, size]."""
        if group not in self._now:
            size, owner = self.spec.sizes[group], self.spec.groups[group].owner
            choice = self.current[group].reshape(-1, size)
            held = choice
            if owner is not None:
                held = np.empty_like(choice)
                held[flat_choices(self.spec, self.spec.root_of(group), self.current)[owner]] = choice
            self._now[group] = held
        return self._now[group]


def _by_pairs(factor: Gain) -> Gain:
    """[pairs, places..., units...], the outermost group's place and unit made part of the pairs."""
    unit = (factor.ndim + 1) // 2
    others = [dim for dim in range(2, factor.ndim) if dim != unit]
    front = factor.transpose(0, 1, unit, *others)  # [pairs, place, unit, other places..., other units...]
    return np.ascontiguousarray(front).reshape(-1, *front.shape[3:])


def owned_together(
    spec: PermutationSpec, owner: str, factors: Mapping[tuple[str, ...], FactorT]
) -> list[tuple[list[str], dict[tuple[str, ...], FactorT]]]:
    """What a group owns, those together whose gains depend on each other, with their gains."""
    depth = len(spec.chain(owner))
    parts: list[tuple[list[str], dict[tuple[str, ...], FactorT]]] = [([child], {}) for child in spec.owned_by(owner)]
    for groups, factor in factors.items():
        of = {spec.chain(name)[depth] for name in groups}
        joined = [part for part in parts if not of.isdisjoint(part[0])]
        first, *others = joined
        for other in others:
            first[0].extend(other[0])
            first[1].update(other[1])
            parts.remove(other)
        first[1][groups] = factor
    return parts


def flat_choices(
    spec: PermutationSpec, root: str, choices: Mapping[str, NDArray[np.int64]]
) -> dict[str, NDArray[np.int64]]:
    """For a root and every group below it the unit at each place, over all units of all owners: int64 [units]."""
    flat: dict[str, NDArray[np.int64]] = {}

    def below(group: str, owner_flat: NDArray[np.int64]) -> None:
        size = spec.sizes[group]
        flat[group] = (owner_flat[:, None] * size + choices[group].reshape(-1, size)).reshape(-1)
        for child in spec.owned_by(group):
            below(child, flat[group])

    below(root, np.zeros(1, dtype=np.int64))
    return flat


def units_at_places(spec: PermutationSpec, units: Units, choices: Mapping[str, NDArray[np.int64]]) -> NDArray[np.int64]:
    """The unit at each place, as the rows and columns of a gain are counted: int64 [units]."""
    groups = groups_of(spec, units)
    flat: NDArray[np.int64] = np.zeros((1,) * len(groups), dtype=np.int64)
    for name in groups:
        flat = flat * spec.sizes[name] + units_within(spec, name, groups, choices)
    return flat.reshape(-1)


def value_of(
    spec: PermutationSpec,
    root: str,
    gains: Gains,
    choices: Mapping[str, NDArray[np.int64]],
) -> float:
    """Total gain of given choices of a root and of every group below it, in float64."""
    places: dict[Units, NDArray[np.int64]] = {}
    places.update(flat_choices(spec, root, choices))
    for units in gains:
        if units not in places and groups_of(spec, units)[0] == root:
            places[units] = units_at_places(spec, units, choices)
    total = 0.0
    for units, flat in places.items():
        gain = gains.get(units)
        if gain is not None:
            total += float(gain[np.arange(flat.size), flat].sum(dtype=np.float64))
    return total

"""Gain matrices that are kept from visit to visit, and corrected by what has moved since."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..._chunks import numbers
from ...ops.gain_matrix import Term, gain_matrices
from ...ops.permuted_dot import permuted_dots
from ...symmetry.views import Leaf, Units
from . import terms as _terms
from .columns import Columns, columns_of
from .operands import Workspace
from .sums import gain_times, matrix_times
from .terms import added, corrections, pieces
from .transfers import moved_between
from .uses import IndexOf, Indices, Use, Uses, dtype_of, use_of

__all__ = ["MOST_CORRECTIONS", "WORTH_CORRECTING", "GainCache", "rounding_of"]

# A correction gathers twice and multiplies once: past this share of the work, starting anew is as cheap.
WORTH_CORRECTING = 0.7
# Every correction adds its rounding; after so many matrices' worth of them the sum is taken anew.
MOST_CORRECTIONS = 4.0
# Entries of all gains that are kept: this many, or as many as MATRICES_KEPT of the largest group have.
ENTRIES_KEPT = 1 << 22
MATRICES_KEPT = 3
# On a GPU gains are summed together while they and what they are summed from have no more entries than this.
TOGETHER = 1 << 26
# What a gain may be off, in roundings of its dtype times the norms of what it multiplies.
ROUNDINGS = 16


@dataclass
class _Kept:
    """A gain matrix, the indices that each use was last added with (None: not yet), its share of corrections.

    `asked` is when it was last asked for, in calls; `places` are those of its columns, if it was made of `Columns`.
    """

    gain: Tensor
    indices: list[Indices | None]
    corrected: float
    asked: int
    places: NDArray[np.int64] | None = None


@dataclass
class _Plan:
    """What brings a group's gain up to date: terms to add to `gain`; what it is then, as in `_Kept`.

    With `is_new` what `gain` holds counts for nothing.
    """

    group: Units
    gain: Tensor
    terms: Iterator[Term]
    indices: list[Indices | None]
    corrected: float
    asked: int
    is_new: bool = False


class GainCache:
    """Gains of groups between two models, as many as there is room for.

    A gain that finds no room is summed anew at each call. Room is made by those that nobody has asked for in as many
    calls as there are groups: in late sweeps few groups are visited.

    Args:
        a, b: the models' tensors by parameter, one dimension for each axis of the spec.
        leaves: of every group (or several of one root, inside each other), where its own entries are.
        index_of: the gathers of model b as they are at each call. An index that has changed is another tensor.
        room: entries of all gains that are kept; None: some of the largest group's size. With 0 every gain is a sum
            of its own, and the same whatever was asked for before.
        workspace: where they are summed; None: in one of its own.
    """

    def __init__(
        self,
        a: Mapping[str, Tensor],
        b: Mapping[str, Tensor],
        leaves: Mapping[Units, Sequence[Leaf]],
        index_of: IndexOf,
        room: int | None = None,
        workspace: Workspace | None = None,
    ) -> None:
        self._a, self._b, self._leaves, self._index_of = a, b, leaves, index_of
        self._uses = Uses(leaves, a, b)
        self._kept: dict[Units, _Kept] = {}
        # Laid out when they are first asked for; None: not that way.
        self._columns: dict[Units, Columns | None] = {}
        self._calls = 0
        # Called on a CPU after each product with the operations that it took.
        self.told: Callable[[float], None] = lambda operations: None
        self._workspace = Workspace(come_back=room == 0) if workspace is None else workspace
        largest = max((leaf.unit_count**2 for found in leaves.values() for leaf in found), default=0)
        self.room = max(ENTRIES_KEPT, MATRICES_KEPT * largest) if room is None else room

    def gain(self, group: Units) -> Tensor | None:
        """[units, units] over all units of `group`, None if it has no entries of its own. Not to be written to."""
        uses = self._uses[group]
        if not uses:
            return None
        if self.room == 0:
            return self._up_to_date(group, range(len(uses)))
        if group not in self._columns:
            leaves, a, b = ([getattr(use, name) for use in uses] for name in ("leaf", "a", "b"))
            self._columns[group] = columns_of(leaves, a, b)
        columns = self._columns[group]
        return self._up_to_date(group, range(len(uses))) if columns is None else self._by_columns(group, columns)

    def _by_columns(self, group: Units, columns: Columns) -> Tensor:
        self._calls += 1
        now: list[Indices | None] = [self._indices(use) for use in self._uses[group]]
        places = columns.places([use.beside_units(of) for use, of in zip(self._uses[group], now, strict=True) if of])
        kept = self._kept.get(group)
        if kept is not None and kept.places is not None and kept.corrected < math.inf:
            moved = np.flatnonzero(places != kept.places)
            corrected = kept.corrected + len(moved) / max(1, len(places))
            if len(moved) <= WORTH_CORRECTING * len(places) and corrected <= MOST_CORRECTIONS:
                if len(moved):
                    columns.correct(kept.gain, kept.places, places, moved)
                self._kept[group] = _Kept(kept.gain, now, corrected, self._calls, places)
                return kept.gain
        gain = columns.gain(places, None if kept is None else kept.gain)
        if kept is not None or self._makes_room(gain.numel()):
            self._kept[group] = _Kept(gain, now, 0.0, self._calls, places)
        return gain

    def gains(self, groups: Iterable[Units]) -> Iterator[tuple[Units, Tensor | None]]:
        """Each group with its `gain`, in any order: on a GPU many are summed at once, else one after another.

        Args:
            groups: no two the same.
        """
        waiting: list[_Plan] = []
        entries = 0
        for group in groups:
            uses = self._uses[group]
            if not uses or not _terms.at_once(uses[0].a):
                yield group, self.gain(group)
                continue
            plan = self._plan(group, range(len(uses)))
            size = plan.gain.numel() + sum(2 * use.a.numel() for use in uses)
            if waiting and not (entries + size <= TOGETHER and _are_alike(plan.gain, waiting[0].gain)):
                yield from self._together(waiting)
                waiting, entries = [], 0
            waiting.append(plan)
            entries += size
        if waiting:
            yield from self._together(waiting)

    def partial_gain(self, group: Units, leaves: Collection[Leaf]) -> Tensor | None:
        """The gain of some of a group's leaves alone; `gain` adds the others to it later. None without leaves."""
        uses = self._uses[group]
        chosen = [k for k, use in enumerate(uses) if use.leaf in leaves]
        self._kept.pop(group, None)
        return self._up_to_date(group, chosen) if chosen else None

    def gain_of(self, leaves: Sequence[Leaf]) -> Tensor:
        """The gain of leaves, one at least, all of the same units; not kept."""
        uses = [self.use_of(leaf) for leaf in leaves]
        terms = (piece for use in uses for piece in pieces(use.term(self._indices(use))))
        return added(terms, self._empty(uses), self._workspace, True, self.told)

    def dot(self, parameter: str) -> float:
        """<theta_a, pi(theta_b)> over one parameter, with b as it is now, summed in float64."""
        return self.dots([parameter])

    def dots(self, parameters: Iterable[str]) -> float:
        """The sum of `dot` over parameters; a GPU is waited for once."""
        names = list(parameters)
        return sum(permuted_dots((self._a[name], self._b[name], self.gathers(name)) for name in names))

    def gathers(self, parameter: str) -> Indices:
        """The indices that permute each axis of a parameter of b now, or None for an axis that stays."""
        return tuple(self._index_of(parameter, axis) for axis in range(self._b[parameter].ndim))

    def gathers_beside(self, leaf: Leaf) -> Indices:
        """As `gathers`, with what the leaf's units are left in place on its own axis."""
        found = []
        for axis in range(self._b[leaf.parameter].ndim):
            if axis != leaf.axis:
                found.append(self._index_of(leaf.parameter, axis))
            else:
                found.append(self._index_of(leaf.parameter, axis, leaf.roots) if leaf.beside else None)
        return tuple(found)

    def uses(self, group: Units) -> Sequence[Use]:
        """Where the group's own entries are."""
        return self._uses[group]

    def use_of(self, leaf: Leaf) -> Use:
        """Where a leaf's entries are in both models."""
        return use_of(leaf, self._a, self._b)

    def dtype_of(self, leaves: Iterable[Leaf]) -> torch.dtype:
        """The dtype of the gain of leaves."""
        return dtype_of(map(self.use_of, leaves))

    def take_back(self) -> None:
        """With ``room=0``: no gain that was given out is looked at any more, and memory of it serves for the next."""
        self._workspace.sums.take_back()

    def forget(self, group: Units) -> None:
        """Drop a group's gain: the next one is summed anew."""
        self._kept.pop(group, None)

    def forget_all(self) -> None:
        """Sum all gains anew when they are next asked for: the weights have changed."""
        self._columns.clear()
        for kept in self._kept.values():
            # Past all correction; its memory serves for the new one.
            kept.corrected = math.inf

    def off(self, norms: Mapping[str, tuple[float, float]]) -> set[Units]:
        """Groups whose corrected gain is not what its parameters say, beyond rounding; none, unless something is wrong.

        Both sides of gain @ r, for a vector r of random signs, are derived in float64 (Freivalds, "Probabilistic
        machines can use less running time", IFIP 1977): every entry takes part, at the cost of reading them.

        Args:
            norms: ||.||^2 of each parameter, of a and of b.
        """
        asked = [group for group, kept in self._kept.items() if 0 < kept.corrected < math.inf]
        rests = [self._rest(group, self._kept[group]) for group in asked]
        return {
            group
            for group, (rest,) in zip(asked, numbers(rests), strict=True)
            if not rest <= self._rounding(group, self._kept[group], norms)
        }

    def _up_to_date(self, group: Units, wanted: Collection[int]) -> Tensor:
        plan = self._plan(group, wanted)
        return self._keep(plan, added(plan.terms, plan.gain, self._workspace, plan.is_new, self.told))

    def _together(self, plans: Sequence[_Plan]) -> list[tuple[Units, Tensor]]:
        for plan in plans:
            if plan.is_new:
                plan.gain.zero_()
        gains = gain_matrices([list(plan.terms) for plan in plans], [plan.gain for plan in plans])
        return [(plan.group, self._keep(plan, gain)) for plan, gain in zip(plans, gains, strict=True)]

    def _plan(self, group: Units, wanted: Collection[int]) -> _Plan:
        """How to sum some of a group's uses; until that is kept, what is kept of the group is past correcting."""
        self._calls += 1
        uses = self._uses[group]
        now: list[Indices | None] = [self._indices(use) if k in wanted else None for k, use in enumerate(uses)]
        kept = self._kept.get(group)
        if kept is not None:
            kept.asked = self._calls
            update = self._update(uses, kept, now)
            before, kept.corrected = kept.corrected, math.inf
            if update is not None:
                terms, share = update
                return _Plan(group, kept.gain, terms, now, before + share, self._calls)
        fresh = [use.term(indices) for use, indices in zip(uses, now, strict=True) if indices is not None]
        # The memory of the old one serves for the new one.
        gain = self._empty(uses) if kept is None else kept.gain
        return _Plan(group, gain, (piece for term in fresh for piece in pieces(term)), now, 0.0, self._calls, True)

    def _keep(self, plan: _Plan, gain: Tensor) -> Tensor:
        """The gain, which is now up to date; kept if it was, or if there is room."""
        if plan.group in self._kept or self._makes_room(gain.numel()):
            self._kept[plan.group] = _Kept(gain, plan.indices, plan.corrected, plan.asked)
        return gain

    def _empty(self, uses: Sequence[Use]) -> Tensor:
        """Where to sum a gain, in the dtype that sums over all these uses take."""
        return self._workspace.sums.empty(uses[0].count, dtype_of(uses), uses[0].a.device)

    def _makes_room(self, entries: int) -> bool:
        free = self.room - sum(kept.gain.numel() for kept in self._kept.values())
        idle = [name for name, kept in self._kept.items() if self._calls - kept.asked > len(self._leaves)]
        for name in sorted(idle, key=lambda name: self._kept[name].asked):
            if free >= entries:
                break
            free += self._kept.pop(name).gain.numel()
        return free >= entries

    def _indices(self, use: Use) -> Indices:
        """The gathers that the use's term depends on, one for each axis of the parameter."""
        return self.gathers_beside(use.leaf)

    def _update(
        self, uses: Sequence[Use], kept: _Kept, wanted: Sequence[Indices | None]
    ) -> tuple[Iterator[Term], float] | None:
        """Terms that bring a kept gain up to date, and its share of corrections; None where to sum anew is better."""
        terms: list[Iterator[Term]] = []
        work = corrected = total = 0.0
        for use, before, now in zip(uses, kept.indices, wanted, strict=True):
            entries = use.a.numel()
            total += entries
            assert now is not None
            if before is None:
                terms.append(pieces(use.term(now)))
                work += entries
                continue
            changed = [axis for axis, (old, new) in enumerate(zip(before, now, strict=True)) if old is not new]
            if not changed:
                continue
            if len(changed) > 1:
                return None
            (axis,) = changed
            old, new = before[axis], now[axis]
            assert old is not None and new is not None
            moved = moved_between(old, new)
            if not moved.numel():
                continue
            if axis == use.leaf.axis:
                return None
            corrected += entries * moved.numel() / new.numel()
            terms.append(corrections(use, axis, before, now, moved))
        share = corrected / total if total else 0.0
        if work + corrected > WORTH_CORRECTING * total and corrected > 0:
            return None
        return None if kept.corrected + share > MOST_CORRECTIONS else (chain.from_iterable(terms), share)

    def _rest(self, group: Units, kept: _Kept) -> Tensor:
        """||gain @ r - what the parameters make of r||, [] on the gain's device."""
        units = kept.gain.shape[0]
        signs = torch.randint(0, 2, (units,), generator=torch.Generator().manual_seed(units)).mul_(2).sub_(1)
        signs = signs.to(torch.float64).to(kept.gain.device, non_blocking=True)
        rest = matrix_times(kept.gain, signs)
        for use, indices in zip(self._uses[group], kept.indices, strict=True):
            if indices is not None:
                term = use.term(indices)
                rest -= gain_times(term.a, term.b, term.units, term.gathers, signs)
        found: Tensor = torch.linalg.vector_norm(rest)
        return found

    def _rounding(self, group: Units, kept: _Kept, norms: Mapping[str, tuple[float, float]]) -> float:
        """What `_rest` may be."""
        bound = sum(
            math.sqrt(math.prod(norms[use.leaf.parameter]))
            for use, indices in zip(self._uses[group], kept.indices, strict=True)
            if indices is not None
        )
        return rounding_of(kept.gain.dtype, bound, kept.corrected)


def rounding_of(dtype: torch.dtype, bound: float, corrected: float) -> float:
    """What rounding may make of a gain in this dtype that was corrected so often, times a vector of signs.

    Args:
        bound: of the norms of what is multiplied, the sum of their products.
    """
    numbers_of = torch.finfo(dtype)
    return ROUNDINGS * (1 + corrected) * (numbers_of.eps * bound + numbers_of.tiny)


def _are_alike(a: Tensor, b: Tensor) -> bool:
    return (a.device, a.dtype) == (b.device, b.dtype)

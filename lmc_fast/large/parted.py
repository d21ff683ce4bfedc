"""Gains whose sum does not depend on who has summed what: the same bits from one process as from any number.

A gain is a sum over parameters, and these lie in parts (see `shares`). What one part adds is a sum of products in
float32 (or float64), in one order, by whoever has the part. Where a gain has several parts, these are rounded to whole
multiples of one tiny number, 2^-50 of what the gain can be at most, and added in float64: exactly, since no sum comes
to 2^53 of them, so that their order is of no account. An entry that is a thousandth of that most is rounded by 2^-40
of itself, where a product in float32 rounds by 2^-24 and more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from .._chunks import rows_at_once
from ..matching.engine.descent import CoordinateDescent
from ..matching.engine.gains import GainCache
from ..matching.engine.operands import Workspace
from ..matching.engine.products import at_most, threads_for
from ..symmetry.views import Leaf, Units
from .ahead import Ahead, Road
from .shares import Shares
from .team import Team

__all__ = ["PartedGains"]

# Bits of the largest whole number that a gain can become, and none of its sums over parts has more.
BITS = 50
# What a number of at most 51 bits is added to, and freed from, to be rounded to a whole one: float64 has none between.
ROUND = 1.5 * 2.0**52
# What an entry takes that is read from memory, in operations of a product.
ENTRY = 100.0


class PartedGains(GainCache):
    """Gains over all parts, by one process or with others. None is kept.

    Args:
        descent: whose tensors and choices they are of.
        shares: which tensors go together.
        team: who has them.
        road: to the device where gains are computed, while tensors are on the host; None: where tensors are.
    """

    def __init__(self, descent: CoordinateDescent, shares: Shares, team: Team, road: Road | None = None) -> None:
        whole = Workspace(come_back=True, by_rows=True)
        super().__init__(descent.a, descent.b, descent.leaves, descent.index, room=0, workspace=whole)
        # What one part adds is looked at once, and its memory serves for the next part.
        parts = Workspace(come_back=True)
        parts.operands, parts.products = whole.operands, whole.products
        self._one_part = GainCache(descent.a, descent.b, {}, descent.index, room=0, workspace=parts)
        self._one_part.told = lambda operations: self.told(operations)
        self._shares, self._team, self._norms = shares, team, descent.norms
        self._ahead = None if road is None else Ahead(descent.a, descent.b, road)
        # By the index on the host, as long as that lives: the same on the device.
        self._indices_there: WeakIdKeyDictionary = WeakIdKeyDictionary()
        # Sums with others that are about to be asked for, by their leaves.
        self._ready: dict[frozenset[Leaf], Tensor | None] = {}

    def gain(self, group: Units) -> Tensor | None:
        """[units, units] over all units of `group`, None if it has no entries of its own."""
        return self.partial_gain(group, [use.leaf for use in self.uses(group)])

    def gains(self, groups: Iterable[Units]) -> Iterator[tuple[Units, Tensor | None]]:
        """Each group with its `gain`, one after another."""
        return ((group, self.gain(group)) for group in groups)

    def partial_gain(self, group: Units, leaves: Collection[Leaf]) -> Tensor | None:
        """The gain of some of a group's leaves alone. None without leaves."""
        return self.gain_of(list(leaves)) if leaves else None

    def gain_of(self, leaves: Sequence[Leaf]) -> Tensor:
        """The gain of leaves, one at least, all of the same units."""
        found = self._ready.pop(frozenset(leaves), None)
        if found is not None:
            return found
        parts = self._by_part(leaves)
        if len(parts) == 1:
            return self._summed(leaves)
        whole = self._whole(leaves, parts.values())
        assert whole is not None
        return self._from_whole(whole, leaves)

    def bring(self, key: str, asked: Mapping[Units, Collection[Leaf]], ranks: Collection[int], home: int) -> None:
        """Sum gains of one step with others; what `home` asks for next is there then. Ranks that have no part do not.

        Args:
            key: of the step.
            asked: the leaves of each gain.
            ranks: who has tensors of them.
            home: who is to have the gains.
        """
        me = self._team.rank
        for number, leaves in enumerate(map(list, asked.values())):
            parts = self._by_part(leaves)
            owners = sorted({self._shares.owner[part] for part in parts})
            if me != home and me not in owners:
                continue
            use = self.use_of(leaves[0])
            shape = (use.count, use.count)
            if len(parts) == 1:
                mine = self._summed(leaves) if me in owners else None
                dtype = self.dtype_of(leaves)
            else:
                own = [some for part, some in parts.items() if self._shares.owner[part] == me]
                mine, dtype = self._whole(leaves, own), torch.float64
            found = self._team.summed(f"{key}/{number}", mine, owners, home, shape, dtype)
            if me != home:
                continue
            assert found is not None
            self._ready[frozenset(leaves)] = found if len(parts) == 1 else self._from_whole(found, leaves)
        if me != home:
            self.take_back()

    def expect(self, asked: Iterable[Collection[Leaf]], then: Iterable[Collection[Leaf]] = ()) -> None:
        """Leaves of the gains that are asked for next, in their order, and after them: read ahead to a device."""
        if self._ahead is not None:
            batches = [self._own_batches(leaves) for leaves in (*asked, *then)]
            self._ahead.expect([names for some in batches for names in some])

    def _own_batches(self, leaves: Iterable[Leaf]) -> list[list[str]]:
        """What this rank sums together of a gain, by parameter."""
        parts, me = self._by_part(leaves), self._team.rank
        return [[leaf.parameter for leaf in some] for part, some in parts.items() if self._shares.owner[part] == me]

    def _by_part(self, leaves: Iterable[Leaf]) -> dict[int, list[Leaf]]:
        parts: dict[int, list[Leaf]] = {}
        for leaf in leaves:
            parts.setdefault(self._shares.part_of[leaf.parameter], []).append(leaf)
        return parts

    def _summed(self, leaves: Sequence[Leaf]) -> Tensor:
        """The gain of leaves of one part."""
        with at_most(threads_for(self.use_of(leaves[0]).count)):
            return super().gain_of(leaves) if self._ahead is None else self._there(self._ahead, leaves)

    def _there(self, ahead: Ahead, leaves: Sequence[Leaf]) -> Tensor:
        """The gain of leaves of one part, on the device."""
        a, b = ahead.take(leaf.parameter for leaf in leaves)
        return GainCache(a, b, {}, partial(self._index_there, next(iter(a.values())).device), room=0).gain_of(leaves)

    def _index_there(
        self, device: torch.device, parameter: str, axis: int, still: tuple[str, ...] = ()
    ) -> Tensor | None:
        index = self._index_of(parameter, axis, still)
        if index is None:
            return None
        if index not in self._indices_there:
            # Pageable memory has been read when the call returns.
            self._indices_there[index] = index.to(device, non_blocking=True)
        found: Tensor = self._indices_there[index]
        return found

    def _whole(self, leaves: Sequence[Leaf], parts: Iterable[Sequence[Leaf]]) -> Tensor | None:
        """The sum over some parts of a gain in multiples of `_unit`: float64 [units, units]. None without parts."""
        rounding, total = ROUND * self._unit(leaves), None
        for some in parts:
            with at_most(threads_for(self.use_of(leaves[0]).count)):
                gain = self._one_part.gain_of(some) if self._ahead is None else self._there(self._ahead, some)
            is_first = total is None
            if total is None:
                total = torch.empty(gain.shape, dtype=torch.float64, device=gain.device)
            self._over_rows(total, partial(_add_rounded, total, gain, rounding, is_first))
            self._one_part.take_back()
        return total

    def _from_whole(self, whole: Tensor, leaves: Sequence[Leaf]) -> Tensor:
        """The gain that `_whole` is the sum of."""
        gain = self._workspace.sums.empty(len(whole), self.dtype_of(leaves), whole.device)
        self._over_rows(gain, lambda rows: _copy(gain, whole, rows))
        return gain

    def _over_rows(self, tensor: Tensor, task: Callable[[slice], None]) -> None:
        """A task that looks at every entry of a matrix once."""
        self._workspace.products.over_rows(tensor, task, ENTRY * tensor.numel())

    def _unit(self, leaves: Iterable[Leaf]) -> float:
        """What a gain's parts are multiples of: a power of two."""
        bound = sum(math.prod(map(math.sqrt, self._norms[leaf.parameter])) for leaf in leaves)
        # Small and large enough for what is reckoned with it.
        return math.ldexp(1.0, min(960, max(-1000, math.frexp(bound)[1] - BITS)))


def _add_rounded(total: Tensor, gain: Tensor, rounding: float, is_first: bool, some: slice) -> None:
    """Add some rows of a gain, rounded, to a total in float64, or put them there first."""
    rows = rows_at_once(gain)
    piece = torch.empty(0 if is_first else rows, len(gain), dtype=torch.float64, device=gain.device)
    for to, part in zip(torch.split(total[some], rows), torch.split(gain[some], rows), strict=True):
        held = to if is_first else piece[: len(part)]
        held.copy_(part).add_(rounding).sub_(rounding)
        if not is_first:
            to.add_(held)


def _copy(to: Tensor, tensor: Tensor, rows: slice) -> None:
    to[rows].copy_(tensor[rows])

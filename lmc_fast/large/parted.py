"""Gains whose sum does not depend on who has summed what: the same bits from one process as from any number.

A gain is a sum over parameters, and these lie in parts (see `shares`). What one part adds is a sum of products in
float32 (or float64), in one order, by whoever has the part. Where a gain has several parts, these are brought to whole
multiples of one tiny number, 2^-61 of what the gain can be at most, and added as integers of 64 bits: exactly, so that
their order is of no account. What is lost is 2^-36 and less of the rounding of the products themselves.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from .._chunks import rows_at_once
from ..matching.engine.descent import CoordinateDescent
from ..matching.engine.gains import GainCache
from ..matching.engine.operands import Workspace
from ..symmetry.views import Leaf, Units
from .shares import Shares
from .team import Team

__all__ = ["PartedGains"]

# Bits of the largest integer that a gain can become; its sum over parts has no more, and one is left for rounding.
BITS = 61
# Of fewer units for each of its threads than this, a product on a CPU comes out by how many threads there are.
UNITS_A_THREAD = 64


class PartedGains(GainCache):
    """Gains over all parts, by one process or with others. None is kept.

    Args:
        descent: whose tensors and choices they are of.
        shares: which tensors go together.
        team: who has them.
    """

    def __init__(self, descent: CoordinateDescent, shares: Shares, team: Team) -> None:
        super().__init__(descent.a, descent.b, descent.leaves, descent.index, room=0)
        # What one part adds is looked at once, and its memory serves for the next part.
        parts = Workspace(come_back=True)
        parts.operands = self._workspace.operands
        self._one_part = GainCache(descent.a, descent.b, {}, descent.index, room=0, workspace=parts)
        self._one_part.told = lambda operations: self.told(operations)
        self._shares, self._team, self._norms = shares, team, descent.norms
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
                mine, dtype = self._whole(leaves, own), torch.int64
            found = self._team.summed(f"{key}/{number}", mine, owners, home, shape, dtype)
            if me != home:
                continue
            assert found is not None
            self._ready[frozenset(leaves)] = found if len(parts) == 1 else self._from_whole(found, leaves)
        if me != home:
            self.take_back()

    def _by_part(self, leaves: Iterable[Leaf]) -> dict[int, list[Leaf]]:
        parts: dict[int, list[Leaf]] = {}
        for leaf in leaves:
            parts.setdefault(self._shares.part_of[leaf.parameter], []).append(leaf)
        return parts

    def _summed(self, leaves: Sequence[Leaf]) -> Tensor:
        """The gain of leaves of one part."""
        with _threads_for(self.use_of(leaves[0]).count):
            return super().gain_of(leaves)

    def _whole(self, leaves: Sequence[Leaf], parts: Iterable[Sequence[Leaf]]) -> Tensor | None:
        """The sum over some parts of a gain in whole multiples of `_unit`: int64 [units, units]. None without parts."""
        scale, total = 1 / self._unit(leaves), None
        for some in parts:
            with _threads_for(self.use_of(leaves[0]).count):
                gain = self._one_part.gain_of(some)
            if total is None:
                total = torch.zeros(gain.shape, dtype=torch.int64, device=gain.device)
            rows = rows_at_once(gain)
            for to, part in zip(torch.split(total, rows), torch.split(gain, rows), strict=True):
                to.add_(part.double().mul_(scale).to(torch.int64))
            self._one_part.take_back()
        return total

    def _from_whole(self, whole: Tensor, leaves: Sequence[Leaf]) -> Tensor:
        """The gain that `_whole` stands for."""
        gain = self._workspace.sums.empty(len(whole), self.dtype_of(leaves), whole.device)
        rows, unit = rows_at_once(whole), self._unit(leaves)
        for to, part in zip(torch.split(gain, rows), torch.split(whole, rows), strict=True):
            to.copy_(part.double().mul_(unit))
        return gain

    def _unit(self, leaves: Iterable[Leaf]) -> float:
        """What a gain's parts are multiples of: a power of two."""
        bound = sum(math.sqrt(math.prod(self._norms[leaf.parameter])) for leaf in leaves)
        # No smaller than what can be divided by.
        return math.ldexp(1.0, max(-1000, math.frexp(bound)[1] - BITS))


@contextmanager
def _threads_for(units: int) -> Iterator[None]:
    """As many threads as a product of so many units comes out the same with, whatever the number."""
    threads = torch.get_num_threads()
    most = max(1, min(threads, units // UNITS_A_THREAD))
    if most == threads:
        yield
        return
    torch.set_num_threads(most)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

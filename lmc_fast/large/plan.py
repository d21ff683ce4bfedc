"""What a run will do, as plain data: groups, bytes, operations, memory, time; no weight is read for it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._models import accumulate_dtype
from ..matching.engine.gains import COLUMNS, PIECE
from ..symmetry import PermutationSpec
from ..symmetry.views import Leaf, Units, leaves
from .watch import Rates, Work

__all__ = ["GroupPlan", "Plan", "RankPlan", "calibrated", "plan_of"]

# Sweeps over all groups that the expected time counts with: the pass outwards, and one in which something moved.
SWEEPS = 2
# A process of torch before it has done anything, about.
BASE_BYTES = 300 << 20


@dataclass(frozen=True)
class GroupPlan:
    """One root group with all that it owns.

    Attributes:
        name: of the root.
        units: of each group of the tree, in all units of its owners.
        tensors: that it shows up in.
        read: bytes of these, of both models.
        operations: of the products that its gains take.
        memory: bytes of its gains, operands and assignments.
    """

    name: str
    units: Mapping[str, int]
    tensors: tuple[str, ...]
    read: int
    operations: float
    memory: int


@dataclass(frozen=True)
class RankPlan:
    """What one process of several does: parameters by bytes, and what is exchanged in a sweep.

    Attributes:
        ranks: how many processes.
        read: the most bytes that one of them reads, of all models.
        operations: the most that one of them does in a sweep.
        traffic: the most bytes of partial gains that one of them sends in a sweep.
        memory: of one of them.
    """

    ranks: int
    read: int
    operations: float
    traffic: int
    memory: int


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    Attributes:
        models: how many.
        parameters: numbers in each.
        nbytes: bytes of each.
        groups: every root group, in the spec's order.
        pinned: parameters that no group touches.
        written: bytes of the output.
        shards: how many files that makes.
        memory: the process's own at its largest: page cache aside.
        rates: of this machine, measured or assumed.
        seconds: about how long it takes where everything is found in one sweep after the pass outwards.
        ranks: the same shared out, if it was asked for.
    """

    models: int
    parameters: int
    nbytes: tuple[int, ...]
    groups: tuple[GroupPlan, ...]
    pinned: int
    written: int
    shards: int
    memory: int
    rates: Rates
    seconds: float
    ranks: RankPlan | None = None

    @property
    def operations(self) -> float:
        """Of the products of one sweep over all groups."""
        return sum(group.operations for group in self.groups)

    def __str__(self) -> str:
        lines = [
            f"{self.models} models of {_short(self.parameters)} parameters, "
            f"{' and '.join(_bytes(size) for size in self.nbytes)}",
            f"{len(self.groups)} groups that nothing owns, {sum(len(g.units) for g in self.groups)} in all; "
            f"{self.pinned} tensors that no group touches",
            "",
            f"{'group':<44} {'like it':>7} {'units':>18} {'tensors':>7} {'reads':>9} {'products':>10} {'memory':>9}",
        ]
        for group, count in _alike(self.groups):
            units = " + ".join(str(size) for size in group.units.values())
            lines.append(
                f"{_cut(group.name, 44):<44} {count:>7} {_cut(units, 18):>18} {len(group.tensors):>7} "
                f"{_bytes(group.read):>9} {_short(group.operations) + 'FLOP':>10} {_bytes(group.memory):>9}"
            )
        lines += [
            "",
            f"one sweep over all groups: {_short(self.operations)}FLOP; later ones visit what is stale then",
            f"own memory: {_bytes(self.memory)}, page cache aside",
            f"output: {_bytes(self.written)} in {self.shards} file{'s' if self.shards > 1 else ''}",
            f"expected: {_duration(self.seconds)} at {_short(self.rates.operations)}FLOP/s and "
            f"{_bytes(int(self.rates.read))}/s",
        ]
        if self.ranks is not None:
            r = self.ranks
            lines.append(
                f"on {r.ranks} ranks, each at most: reads {_bytes(r.read)}, {_short(r.operations)}FLOP and "
                f"{_bytes(r.traffic)} of partial gains a sweep, own memory {_bytes(r.memory)}"
            )
        return "\n".join(lines)


def plan_of(
    spec: PermutationSpec,
    shapes: Mapping[str, Tensor],
    *,
    models: int = 2,
    nbytes: Sequence[int] | None = None,
    freeze: Sequence[str] = (),
    dtype: torch.dtype | None = None,
    shards: int = 1,
    rates: Rates | None = None,
    ranks: int = 1,
) -> Plan:
    """Plan a run.

    Args:
        spec: bound.
        shapes: every tensor, on the meta device or not: no number is looked at.
        models: how many go in.
        nbytes: of each; None: as these shapes have them.
        freeze: groups that stay.
        dtype: of the output; None: as these shapes have it.
        shards: how many files are written.
        rates: of the machine; None: assumed ones.
        ranks: processes to share it out over.
    """
    rates = Rates() if rates is None else rates
    size = sum(tensor.nbytes for tensor in shapes.values())
    sizes = tuple([size] * models if nbytes is None else nbytes)
    groups = tuple(
        _group(spec, root, shapes)
        for root in spec.roots
        if not set(freeze) >= {name for name in spec.groups if spec.root_of(name) == root}
    )
    touched = {name for group in groups for name in group.tensors}
    written = sum(
        tensor.numel() * (dtype.itemsize if dtype and tensor.is_floating_point() else tensor.element_size())
        for tensor in shapes.values()
    )
    block = 1 << 26
    memory = BASE_BYTES + max([group.memory for group in groups] + [3 * block])
    # Norms, gains, objective and the sum; the sum alone where nothing is aligned.
    passes = 3 if groups else 1
    work = Work(
        read=passes * sum(sizes),
        written=written,
        operations=(models - 1) * sum(group.operations for group in groups) * SWEEPS,
    )
    return Plan(
        models=models,
        parameters=sum(tensor.numel() for tensor in shapes.values()),
        nbytes=sizes,
        groups=groups,
        pinned=sum(name not in touched for name in shapes),
        written=written,
        shards=shards,
        memory=memory,
        rates=rates,
        seconds=work.seconds(rates),
        ranks=None if ranks == 1 else _shared(groups, shapes, models, ranks),
    )


def _group(spec: PermutationSpec, root: str, shapes: Mapping[str, Tensor]) -> GroupPlan:
    tree = [name for name in spec.groups if spec.root_of(name) == root]
    found = list(leaves(spec, root))
    found = [leaf for leaf in found if leaf.parameter in shapes and shapes[leaf.parameter].is_floating_point()]
    gains: dict[Units, int] = {}
    operations = 0.0
    operands = 0
    for leaf in found:
        tensor = spec.view(leaf.parameter, shapes[leaf.parameter])
        units, entries = _extent(leaf, tensor)
        gains[leaf.group] = units
        operations += 2.0 * units * units * entries
        width = accumulate_dtype(tensor.dtype).itemsize
        columns = max(COLUMNS, PIECE // max(1, units))
        operands = max(operands, 2 * units * min(entries, columns) * width)
    tensors = tuple(dict.fromkeys(leaf.parameter for leaf in found))
    # A gain, and beside it the solver's copies of rows and its lists of candidates.
    memory = sum(4 * units * units for units in gains.values()) + operands
    return GroupPlan(
        root,
        {name: spec.units(name) for name in tree},
        tensors,
        2 * sum(shapes[name].nbytes for name in tensors),
        operations,
        memory,
    )


def _extent(leaf: Leaf, tensor: Tensor) -> tuple[int, int]:
    """Units of a leaf, and entries of each."""
    units, part = 1, leaf.tail[1]
    for level, (_, outer, count, _) in enumerate(leaf.levels):
        if level in leaf.turning:
            units *= count
            part *= outer
        else:
            part *= outer * count
    return units, part * (tensor.numel() // max(1, tensor.shape[leaf.axis]))


def _shared(groups: Sequence[GroupPlan], shapes: Mapping[str, Tensor], models: int, ranks: int) -> RankPlan:
    """Tensors go to the rank that has the fewest bytes so far, the largest first; gains are summed where they are."""
    held = [0] * ranks
    owner: dict[str, int] = {}
    for name in sorted(shapes, key=lambda name: (-shapes[name].nbytes, name)):
        rank = held.index(min(held))
        owner[name] = rank
        held[rank] += shapes[name].nbytes
    done, sent = [0.0] * ranks, [0] * ranks
    for group in groups:
        size = sum(shapes[name].numel() for name in group.tensors) or 1
        ranks_of = {owner[name] for name in group.tensors}
        gain = sum(4 * units * units for units in group.units.values())
        for name in group.tensors:
            done[owner[name]] += group.operations * shapes[name].numel() / size
        for rank in ranks_of if len(ranks_of) > 1 else ():
            sent[rank] += gain
    memory = BASE_BYTES + max((group.memory for group in groups), default=0)
    return RankPlan(ranks, models * max(held), max(done), max(sent), memory)


def calibrated(*, seconds: float = 0.5, clock: Callable[[], float] = time.perf_counter) -> Rates:
    """What this machine does in a second: products of float32 on all threads, and reads from memory."""
    n = 512
    a = torch.ones(n, n)
    (a @ a).sum()
    began, count = clock(), 0
    while clock() - began < seconds / 2:
        a @ a
        count += 1
    operations = 2.0 * n**3 * count / (clock() - began)
    block = torch.ones(1 << 22, dtype=torch.bfloat16)
    began, count = clock(), 0
    while clock() - began < seconds / 2:
        block.float()
        count += 1
    return Rates(read=block.nbytes * count / (clock() - began), operations=operations)


def _alike(groups: Sequence[GroupPlan]) -> list[tuple[GroupPlan, int]]:
    """Groups of one size and work once, with how many there are."""
    found: dict[tuple[object, ...], list[GroupPlan]] = {}
    for group in groups:
        key = (tuple(group.units.values()), len(group.tensors), group.read, group.operations)
        found.setdefault(key, []).append(group)
    return [(same[0], len(same)) for same in found.values()]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def _short(number: float) -> str:
    for step, name in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= step:
            return f"{number / step:.3g} {name}"
    return f"{number:.3g} "


def _bytes(count: int) -> str:
    size = float(count)
    for name in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.3g} {name}"
        size /= 1024
    return f"{size:.4g} TiB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, math.ceil(seconds))} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"

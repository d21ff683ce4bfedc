"""What a run will do, as plain data: groups, bytes, operations, memory, time; no weight is read for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._models import accumulate_dtype
from ..matching.engine.terms import COLUMNS, PIECE
from ..symmetry import PermutationSpec
from ..symmetry.views import Leaf, Units, leaves
from .amounts import duration, in_bytes, short
from .rank_plan import BASE_BYTES, SWEEPS, GroupPlan, RankPlan, shared_plan
from .shares import Shares, parts_of, shared_out
from .watch import Rates, Work

__all__ = ["Plan", "calibrated", "plan_of"]


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
            f"{self.models} models of {short(self.parameters)} parameters, "
            f"{' and '.join(in_bytes(size) for size in self.nbytes)}",
            f"{len(self.groups)} groups that nothing owns, {sum(len(g.units) for g in self.groups)} in all; "
            f"{self.pinned} tensors that no group touches",
            "",
            f"{'group':<44} {'like it':>7} {'units':>18} {'tensors':>7} {'reads':>9} {'products':>10} {'memory':>9}",
        ]
        for group, count in _alike(self.groups):
            units = " + ".join(str(size) for size in group.units.values())
            lines.append(
                f"{_cut(group.name, 44):<44} {count:>7} {_cut(units, 18):>18} {len(group.tensors):>7} "
                f"{in_bytes(group.read):>9} {short(group.operations) + 'FLOP':>10} {in_bytes(group.memory):>9}"
            )
        lines += [
            "",
            f"one sweep over all groups: {short(self.operations)}FLOP; later ones visit what is stale then",
            f"own memory: {in_bytes(self.memory)}, page cache aside",
            f"output: {in_bytes(self.written)} in {self.shards} file{'s' if self.shards > 1 else ''}",
            f"expected: {duration(self.seconds)} at {short(self.rates.operations)}FLOP/s and "
            f"{in_bytes(int(self.rates.read))}/s",
        ]
        if self.ranks is not None:
            lines += ["", *self.ranks.lines(len(self.groups))]
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
    left_out: Collection[str] = (),
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
        left_out: names of `shapes` that are other names of tensors.
    """
    rates = Rates() if rates is None else rates
    size = sum(tensor.nbytes for tensor in shapes.values())
    sizes = tuple([size] * models if nbytes is None else nbytes)
    shares = shared_out(parts_of(spec, shapes, left_out), shapes, ranks)
    groups = tuple(
        _group(spec, root, {name: tensor for name, tensor in shapes.items() if name not in left_out}, shares)
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
        ranks=None if ranks == 1 else shared_plan(groups, shares, models, ranks, work, rates),
    )


def _group(spec: PermutationSpec, root: str, shapes: Mapping[str, Tensor], shares: Shares) -> GroupPlan:
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
    parts = len({shares.part_of[name] for name in tensors})
    # A gain; where there are several parts, one of these and their sum in float64 as well.
    gain = sum(units * units for units in gains.values())
    memory = (4 if parts < 2 else 16) * gain + operands
    return GroupPlan(
        root,
        {name: spec.units(name) for name in tree},
        tensors,
        parts,
        2 * sum(shapes[name].nbytes for name in tensors),
        operations,
        memory,
        gain,
    )


def _extent(leaf: Leaf, tensor: Tensor) -> tuple[int, int]:
    """Units of a leaf, and entries of each."""
    units, part = 1, leaf.tail.length
    for level, (_, outer, count, *_) in enumerate(leaf.levels):
        if level in leaf.turning:
            units *= count
            part *= outer
        else:
            part *= outer * count
    return units, part * (tensor.numel() // max(1, tensor.shape[leaf.axis]))


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

"""Descents over small groups on a CPU in the compiled core, where a pass over all of them is one call.

What torch's calls take for groups of 16 to 512 units is more than their sums do. The core reads the weights where they
are, a few columns at a time, gathered and multiplied in one pass; sums the gains of groups that are no neighbours side
by side; and goes on from the last assignment of each. The steps are those of `CoordinateDescent`, and so is what they
come to, but for the order in which products are added.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ... import _native
from ..._progress import Progress, tracking
from ..._tensors import addresses, addresses_at_once, in_one_run, obstacle_of
from ...symmetry import Axis, Segment
from ...symmetry.groups import axis_size, walk
from ...symmetry.placing import placed
from ...symmetry.views import Leaf, Units
from .gains import MOST_CORRECTIONS, WORTH_CORRECTING, rounding_of
from .layout import Layout
from .leading import Factors
from .steps import Step

__all__ = ["SmallDescent", "small_descent"]

# Larger groups have candidates looked for and are summed by the library's products.
MOST_UNITS = 512


class SmallDescent:
    """The state of one search in the core: gains, and assignments to go on from. Weights must not change under it.

    Args:
        layout: one that `small_descent` takes.
        factors: what stands in the place of parameters, by name, as `LeadingGains` has it; float32.
    """

    def __init__(self, layout: Layout, factors: Mapping[str, Factors] = MappingProxyType({})) -> None:
        spec = layout.spec
        self._layout = layout
        self._names = list(spec.groups)
        self._numbers = {name: k for k, name in enumerate(self._names)}
        used = list(dict.fromkeys(leaf.parameter for found in layout.leaves.values() for leaf in found))
        cpu = torch.device("cpu")
        self._orders = {name: [_order(axis, spec.sizes) for axis in spec.axes[name]] for name in used}
        # What lies at the addresses lives as long as this does.
        self._held = [
            tuple(_in_order(side[name], self._orders[name]) for side in (layout.a, layout.b)) for name in used
        ]
        of_a = addresses("model_a", [a for a, _ in self._held], cpu, (torch.float32,))
        of_b = addresses("model_b", [b for _, b in self._held], cpu, (torch.float32,))
        parameters = []
        for name, (a, b), at_a, at_b in zip(used, self._held, of_a, of_b, strict=True):
            axes = [
                (size, a_stride, b_stride, [self._segment(segment, size) for segment in axis.segments])
                for size, a_stride, b_stride, axis in zip(a.shape, a.stride(), b.stride(), spec.axes[name], strict=True)
            ]
            parameters.append((at_a, at_b, axes))
        places = {name: k for k, name in enumerate(used)}
        groups = [
            (
                spec.sizes[name],
                layout.scale[name],
                [(places[leaf.parameter], *self._leaf(leaf)) for leaf in layout.leaves[name]],
                sorted(self._numbers[other] for other in layout.neighbours[name]),
            )
            for name in self._names
        ]
        sides = [
            (places[name], of.axis, of.q_a.shape[1], self._sides(of, self._orders[name]))
            for name, of in factors.items()
        ]
        self._held_factors = [of_sides for *_, of_sides in sides]
        told = [
            (place, axis, rank, addresses("factors", of_sides, cpu, (torch.float32,)))
            for place, axis, rank, of_sides in sides
        ]
        self._core = _native.Descent(parameters, groups, WORTH_CORRECTING, MOST_CORRECTIONS, told)
        self._threads = torch.get_num_threads()

    @property
    def choices(self) -> dict[str, NDArray[np.int64]]:
        """Where every group is, copied."""
        return {name: self._core.choice(k) for k, name in enumerate(self._names)}

    def choose_all(self, choices: Mapping[str, NDArray[np.int64]]) -> None:
        """Put every group elsewhere."""
        for k, name in enumerate(self._names):
            self._core.choose(k, choices[name])

    def anchor(self, visits: Iterable[tuple[str, Mapping[Units, Sequence[Leaf]]]]) -> list[str]:
        """Settle groups in this order, each by the leaves that are known of it, as `Layout.outward` gives them."""
        order, told = [], []
        for name, known in visits:
            place = {leaf: k for k, leaf in enumerate(self._layout.leaves[name])}
            order.append(name)
            told.append((self._numbers[name], sorted(place[leaf] for leaf in known[name])))
        self._core.anchor(told, threads=self._threads)
        return order

    def run(
        self, batches: Callable[[], Sequence[Sequence[str]]], max_sweeps: int, progress: Progress, title: str
    ) -> tuple[list[Step], bool]:
        """Sweep over stale groups until none is left, as `CoordinateDescent.run` does, each sweep in one call.

        Args:
            batches: gives the groups of the next sweep, those that are no neighbours together.
        """
        stale = self._set_stale(self._layout.open)
        steps: list[Step] = []
        with tracking(progress, title, max_sweeps) as advance:
            while len(steps) < max_sweeps:
                if not stale and not self._set_stale(self.forget_off()):
                    break
                began = time.perf_counter()
                numbers = [[self._numbers[name] for name in batch] for batch in batches()]
                gained, moved, solved, stale = self._core.sweep(numbers, threads=self._threads)
                steps.append(Step(gained, moved, solved, time.perf_counter() - began))
                note = f"sweep {len(steps)}: {moved} units moved, objective {gained:+.4g}"
                advance(note, moved=moved, solved=solved, gained=gained)
        return steps, not stale

    def _set_stale(self, names: Collection[str]) -> bool:
        """Which groups the next pass is to visit; whether there are any."""
        self._core.set_stale([self._numbers[name] for name in names])
        return bool(names)

    def forget_off(self) -> set[str]:
        """Forget the corrected gains that are not what their parameters say, beyond rounding; which they are.

        As `GainCache.off` looks for them, but over a block of each: a correction that is wrong is of all rows and
        columns.
        """
        off = set()
        for k, rest, bound, corrected in self._core.check(threads=self._threads):
            if not rest <= rounding_of(torch.float32, bound, corrected):
                self._core.forget(k)
                off.add(self._names[k])
        return off

    def _segment(self, segment: Segment, size: int) -> tuple[int, int, int]:
        if segment.group is None:
            return -1, 1, size if segment.length is None else segment.length
        return self._numbers[segment.group], segment.outer, axis_size(segment.parts, self._layout.spec.sizes)

    def _leaf(self, leaf: Leaf) -> tuple[int, int, int, int, int, int]:
        ((run, outer, _, inner),) = leaf.levels
        order = self._orders[leaf.parameter][leaf.axis]
        start = run.offset if order is None else int((order == run.offset).nonzero())
        return leaf.axis, start, outer, inner, leaf.tail.offset, leaf.tail.length

    def _sides(self, of: Factors, orders: Sequence[Tensor | None]) -> list[Tensor]:
        """The factors, with rows and columns in the order that the parameter's entries are laid out in."""
        along, across = [orders[of.axis]], [None, *orders[: of.axis], *orders[of.axis + 1 :]]
        found = [_in_order(side, along if k < 2 else across) for k, side in enumerate(of.sides)]
        return [in_one_run("factors", side) for side in found]


def small_descent(layout: Layout, room: int) -> SmallDescent | None:
    """A search in the core over these models; None where it does not take them.

    It takes float32 on the CPU; groups of up to 512 units that own nothing, lie beside each other alone and once on a
    parameter; and as many as all gains of find room.

    Args:
        room: entries of all gains that may be kept.
    """
    spec = layout.spec
    if (
        any(group.owner is not None for group in spec.groups.values())
        or max(spec.sizes.values(), default=0) > MOST_UNITS
    ):
        return None
    if sum(size**2 for size in spec.sizes.values()) > room:
        return None
    if any(name in layout.neighbours[name] for name in spec.groups):
        return None
    if any(leaf.beside or len(leaf.levels) > 1 for found in layout.leaves.values() for leaf in found):
        return None
    # Segments are laid end to end for the core, and what is inside their units is not.
    inside = (part for axes in spec.axes.values() for axis in axes for each in axis.segments for part in each.parts)
    if not all(part.is_in_one for part in walk(tuple(inside))):
        return None
    if not _are_plain([tensor for side in (layout.a, layout.b) for tensor in side.values()]):
        return None
    return SmallDescent(layout)


def _are_plain(tensors: Sequence[Tensor]) -> bool:
    """Whether the core can read them."""
    if addresses_at_once(tensors, torch.device("cpu"), (torch.float32,)) is not None:
        return True
    return all(
        tensor.dtype == torch.float32
        and tensor.device.type == "cpu"
        and obstacle_of(tensor) is None
        and not tensor.is_neg()
        for tensor in tensors
    )


def _order(axis: Axis, sizes: Mapping[str, int]) -> Tensor | None:
    """Where the entries of an axis come from, for its segments to lie end to end; None where they do."""
    if all(segment.is_in_one for segment in axis.segments):
        return None
    return torch.from_numpy(np.concatenate([place.run.entries for place in placed(axis.segments, sizes)]))


def _in_order(tensor: Tensor, orders: Sequence[Tensor | None]) -> Tensor:
    """A tensor with the entries of some of its dimensions in another order: a copy, or itself."""
    for dim, order in enumerate(orders):
        tensor = tensor if order is None else tensor.index_select(dim, order)
    return tensor

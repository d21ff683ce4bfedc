"""Where a group's units lie in a parameter: strided views, so that nobody else has to know about segments."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .groups import Segment, axis_size
from .spec import PermutationSpec

__all__ = ["Leaf", "axis_orbits", "leaves"]


@dataclass(frozen=True)
class Leaf:
    """Entries of one axis that belong to the units of one group, and to nothing that those own.

    Attributes:
        parameter, axis: which axis (of the spec's).
        group: whose units.
        levels: for each group from the root in, (offset, outer, units, inner): the part of the axis, or of one
            unit of the level above, that its view covers.
        tail: (offset, length) within one unit of `group`.
    """

    parameter: str
    axis: int
    group: str
    levels: tuple[tuple[int, int, int, int], ...]
    tail: tuple[int, int]

    @property
    def unit_dims(self) -> tuple[int, ...]:
        """Dimensions of `view` that run over the units, the root's first."""
        return tuple(self.axis + 1 + 2 * level for level in range(len(self.levels)))

    @property
    def added_dims(self) -> int:
        """How many dimensions `view` has more than the parameter has axes; they follow dimension `axis`."""
        return 2 * len(self.levels)

    def view(self, tensor: Tensor) -> Tensor:
        """The leaf's part of a parameter (one dimension for each axis), the axis split at every level."""
        dim = self.axis
        for offset, outer, units, inner in self.levels:
            tensor = torch.unflatten(tensor.narrow(dim, offset, outer * units * inner), dim, (outer, units, inner))
            dim += 2
        return tensor.narrow(dim, *self.tail)


def leaves(spec: PermutationSpec, root: str) -> Iterator[Leaf]:
    """All leaves of a root group and of what it owns, over all parameters of a bound spec."""
    for parameter, axes in spec.axes.items():
        for position, axis in enumerate(axes):
            if root in axis.groups:
                for group, levels, tail in _split(axis.segments, None, (), spec):
                    if spec.root_of(group) == root:
                        yield Leaf(parameter, position, group, levels, tail)


def axis_orbits(spec: PermutationSpec, segments: tuple[Segment, ...], groups: Collection[str]) -> NDArray[np.int64]:
    """For each entry of an axis a label from 0 up, one label for the entries that these groups exchange."""
    parts, offset = [np.zeros(0, dtype=np.int64)], 0
    for segment in segments:
        if segment.group is None:
            labels = np.arange(segment.length or 0, dtype=np.int64)
        else:
            inside = axis_orbits(spec, segment.parts, groups)
            units = spec.sizes[segment.group]
            # [outer, units]: an exchanged unit's entries are labelled as those of any other.
            runs = np.arange(segment.outer * units, dtype=np.int64).reshape(segment.outer, units)
            if segment.group in groups:
                runs = np.broadcast_to(np.arange(segment.outer, dtype=np.int64)[:, None], runs.shape)
            labels = (runs[..., None] * (inside.max(initial=-1) + 1) + inside).reshape(-1)
        parts.append(labels + offset)
        offset += int(labels.max(initial=-1)) + 1
    return np.concatenate(parts)


_Level = tuple[int, int, int, int]


def _split(
    segments: tuple[Segment, ...], owner: str | None, levels: tuple[_Level, ...], spec: PermutationSpec
) -> Iterator[tuple[str, tuple[_Level, ...], tuple[int, int]]]:
    offset = 0
    for segment in segments:
        length = axis_size((segment,), spec.sizes)
        if segment.group is None:
            if owner is not None and length:
                yield owner, levels, (offset, length)
        else:
            inner = axis_size(segment.parts, spec.sizes)
            level = (offset, segment.outer, spec.sizes[segment.group], inner)
            yield from _split(segment.parts, segment.group, (*levels, level), spec)
        offset += length

"""Where the segments of an axis lie, and tensors that are put together from what lies at each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .groups import Segment, axis_size

__all__ = ["Place", "laid", "placed"]


@dataclass(frozen=True)
class Place:
    """Where a segment lies on an axis: `length` entries, the first at `offset`, each `step` behind the one before."""

    segment: Segment
    offset: int
    step: int
    length: int

    def of(self, x: Any, dim: int) -> Any:
        """The segment's part of a tensor or an array along a dimension: a view."""
        at = slice(self.offset, self.offset + max(0, self.length - 1) * self.step + min(1, self.length), self.step)
        return x[(slice(None),) * (dim % x.ndim) + (at,)]


def placed(segments: tuple[Segment, ...], sizes: Mapping[str, int]) -> list[Place]:
    """Where each of an axis's segments lies.

    Raises:
        ValueError: their steps leave entries out, or run over each other.
    """
    lengths = [axis_size((segment,), sizes) for segment in segments]
    if all(segment.step == 1 for segment in segments):
        starts = accumulate(lengths, initial=0)
        return [
            Place(segment, start, 1, length) for segment, start, length in zip(segments, starts, lengths, strict=False)
        ]
    free, found = np.ones(sum(lengths), dtype=bool), []
    for segment, length in zip(segments, lengths, strict=True):
        place = Place(segment, int(free.argmax()), segment.step if length > 1 else 1, length)
        here = place.of(free, 0)
        if len(here) < length or not here.all():
            raise ValueError(f"{length} entries in steps of {segment.step} do not fit beside the other segments")
        here[:] = False
        found.append(place)
    return found


def laid(parts: Sequence[Tensor], places: Sequence[Place], dim: int) -> Tensor:
    """What lies at each of an axis's places, as one tensor along that dimension."""
    if all(place.step == 1 for place in places):
        return torch.cat(list(parts), dim=dim) if len(parts) > 1 else parts[0]
    shape = list(parts[0].shape)
    shape[dim] = sum(place.length for place in places)
    whole = parts[0].new_empty(shape)
    for part, place in zip(parts, places, strict=True):
        place.of(whole, dim).copy_(part)
    return whole

"""Where the segments of an axis lie, and tensors that are put together from what lies at each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .groups import Segment, axis_size

__all__ = ["Place", "Run", "laid", "placed"]


@dataclass(frozen=True)
class Run:
    """Where some entries lie along a dimension.

    Attributes:
        offset: of the first.
        length: how many there are.
        step: how far each lies behind the one before it.
        runs: where they lie in several runs, as of `Segment.runs`: how many lie together, how many others follow, and
            so on.
    """

    offset: int
    length: int
    step: int = 1
    runs: tuple[int, ...] = ()

    def of(self, x: Any, dim: int) -> Any:
        """These entries of a tensor or an array along a dimension: a view, or of several runs a copy."""
        dim %= x.ndim
        if not self.runs:
            return x[(slice(None),) * dim + (self._steps,)]
        parts = [x[at] for at, _ in self._slices(dim)]
        return torch.cat(parts, dim) if isinstance(x, Tensor) else np.concatenate(parts, dim)

    def put(self, x: Any, dim: int, values: Any) -> None:
        """Write to these entries of a tensor or an array along a dimension.

        Args:
            values: in the shape of `of`.
        """
        dim %= x.ndim
        for at, here in self._slices(dim):
            x[at] = values[(slice(None),) * dim + (here,)]

    def at(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where those of these numbers among them lie."""
        if not self.runs:
            return numbers * self.step + self.offset
        ends = list(accumulate(self.runs, initial=self.offset))
        entries = [np.arange(*of, dtype=np.int64) for of in zip(ends[::2], ends[1::2], strict=True)]
        found: NDArray[np.int64] = np.concatenate(entries)[numbers]
        return found

    @property
    def entries(self) -> NDArray[np.int64]:
        """Where each of them lies: int64 [length]."""
        return self.at(np.arange(self.length, dtype=np.int64))

    @property
    def _steps(self) -> slice:
        """What is in one run, as a slice."""
        end = self.offset + max(0, self.length - 1) * self.step + min(1, self.length)
        return slice(self.offset, end, self.step)

    def _slices(self, dim: int) -> Iterator[tuple[tuple[slice, ...], slice]]:
        """Each run as an index of what they lie along, and as a slice of them."""
        ahead = (slice(None),) * dim
        if not self.runs:
            yield (*ahead, self._steps), slice(None)
            return
        at, done = self.offset, 0
        for own, gap in zip(self.runs[::2], (*self.runs[1::2], 0), strict=True):
            yield (*ahead, slice(at, at + own)), slice(done, done + own)
            at, done = at + own + gap, done + own


@dataclass(frozen=True)
class Place:
    """A segment, and where it lies on an axis."""

    segment: Segment
    run: Run

    @property
    def length(self) -> int:
        """How many entries it has."""
        return self.run.length

    def of(self, x: Any, dim: int) -> Any:
        """The segment's part of a tensor or an array along a dimension: a view, or of several runs a copy."""
        return self.run.of(x, dim)


def placed(segments: tuple[Segment, ...], sizes: Mapping[str, int]) -> list[Place]:
    """Where each of an axis's segments lies.

    Raises:
        ValueError: their steps or runs leave entries out, or run over each other.
    """
    lengths = [axis_size((segment,), sizes) for segment in segments]
    if all(segment.is_in_one for segment in segments):
        starts = accumulate(lengths, initial=0)
        return [
            Place(segment, Run(start, length))
            for segment, start, length in zip(segments, starts, lengths, strict=False)
        ]
    free, found = np.ones(sum(lengths), dtype=bool), []
    for segment, length in zip(segments, lengths, strict=True):
        own = sum(segment.runs[::2])
        if segment.runs and own != length:
            raise ValueError(f"runs {segment.runs} hold {own} entries of a Segment that has {length}")
        run = Run(int(free.argmax()) if length else 0, length, segment.step if length > 1 else 1, segment.runs)
        here = run.entries
        if length and (here[-1] >= len(free) or not free[here].all()):
            how = f"runs {segment.runs}" if segment.runs else f"steps of {segment.step}"
            raise ValueError(f"{length} entries in {how} do not fit beside the other segments")
        free[here] = False
        found.append(Place(segment, run))
    return found


def laid(parts: Sequence[Tensor], places: Sequence[Place], dim: int) -> Tensor:
    """What lies at each of an axis's places, as one tensor along that dimension."""
    if all(place.segment.is_in_one for place in places):
        return torch.cat(list(parts), dim=dim) if len(parts) > 1 else parts[0]
    shape = list(parts[0].shape)
    shape[dim] = sum(place.length for place in places)
    whole = parts[0].new_empty(shape)
    for part, place in zip(parts, places, strict=True):
        place.run.put(whole, dim, part)
    return whole

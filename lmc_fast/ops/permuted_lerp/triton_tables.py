"""What interpolation's kernels read beside the tensors: tables of addresses, and indices that were looked at before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

__all__ = ["Known", "known_indices", "sent"]


@dataclass(eq=False)
class Known:
    """An index that was looked at.

    Attributes:
        version: how often it had been written to by then; None: it may not be kept.
        copy: it in one run, where it is not.
        short: it in 32 bits.
        places: of the rows that it gathers, by the other arguments of `of_row`.
    """

    version: int | None
    copy: Tensor | None
    short: Tensor
    places: dict[tuple[int, torch.dtype], Tensor] = field(default_factory=dict)

    def run(self, index: Tensor) -> Tensor:
        """`index`, which this is of, in one run."""
        return index if self.copy is None else self.copy

    def of_row(self, inside: int, dtype: torch.dtype) -> Tensor:
        """Where the entries of a row lie of which this gathers runs of `inside` entries; [its length * inside]."""
        key = inside, dtype
        if key not in self.places:
            offsets = torch.arange(inside, device=self.short.device)
            self.places[key] = (self.short[:, None] * inside + offsets).to(dtype).flatten()
        return self.places[key]


# By the caller's index.
_known: WeakIdKeyDictionary = WeakIdKeyDictionary()


def sent(device: torch.device, flat: np.ndarray) -> Tensor:
    """Numbers on a device. Nobody waits: pageable memory has been read when the call returns."""
    return torch.from_numpy(flat).to(device, non_blocking=True)


def known_indices(found: Sequence[Tensor]) -> list[Known]:
    """What is known of indices: all of them of their dimensions.

    They are looked at once, with one wait for the device; after that as long as nobody writes to them.

    Raises:
        IndexError: indices beyond their dimension.
    """
    ready: dict[int, Known] = {}
    new: list[Tensor] = []
    for index in found:
        kept = _known.get(index)  # type: ignore[no-untyped-call]
        if kept is None or kept.version != _version(index):
            new.append(index)
        else:
            ready[id(index)] = kept
    if not new:
        return [ready[id(index)] for index in found]
    whole = torch.cat(new)
    sizes = torch.tensor([index.numel() for index in new])
    limits = torch.repeat_interleave(sizes, sizes).to(whole.device)
    if bool(((whole < 0) | (whole >= limits)).any()):
        raise IndexError("gathers must hold indices of their dimensions")
    for index, short in zip(new, torch.split(whole.to(torch.int32), sizes.tolist()), strict=True):
        # Not the index itself: it would live as long as this does.
        known = Known(_version(index), None if index.is_contiguous() else index.contiguous(), short)
        ready[id(index)] = known
        if known.version is not None:
            _known[index] = known
    return [ready[id(index)] for index in found]


def _version(index: Tensor) -> int | None:
    """How often an index was written to; None for those of inference mode, which do not count."""
    return None if index.is_inference() else index._version

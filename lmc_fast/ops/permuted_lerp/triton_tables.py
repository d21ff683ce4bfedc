"""What interpolation's kernels read beside the tensors: tables of addresses, and indices that were looked at before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

__all__ = ["known_indices", "sent"]

# By the caller's index: its version when it was looked at, a copy in one run where it is not, and one in 32 bits.
_known: WeakIdKeyDictionary = WeakIdKeyDictionary()


def sent(device: torch.device, flat: np.ndarray) -> Tensor:
    """Numbers on a device. Nobody waits: pageable memory has been read when the call returns."""
    return torch.from_numpy(flat).to(device, non_blocking=True)


def known_indices(found: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Indices in one run, in 64 and in 32 bits, all of them of their dimensions.

    They are looked at once, with one wait for the device; after that as long as nobody writes to them.

    Raises:
        IndexError: indices beyond their dimension.
    """
    ready: dict[int, tuple[Tensor, Tensor]] = {}
    new: list[Tensor] = []
    for index in found:
        kept = _known.get(index)  # type: ignore[no-untyped-call]
        if kept is None or kept[0] != _version(index):
            new.append(index)
        else:
            _, run, short = kept
            ready[id(index)] = (index if run is None else run, short)
    if not new:
        return [ready[id(index)] for index in found]
    whole = torch.cat(new)
    sizes = torch.tensor([index.numel() for index in new])
    limits = torch.repeat_interleave(sizes, sizes).to(whole.device)
    if bool(((whole < 0) | (whole >= limits)).any()):
        raise IndexError("gathers must hold indices of their dimensions")
    for index, short in zip(new, torch.split(whole.to(torch.int32), sizes.tolist()), strict=True):
        run = None if index.is_contiguous() else index.contiguous()
        ready[id(index)] = (index if run is None else run, short)
        version = _version(index)
        if version is not None:
            # Not the index itself: it would live as long as this does.
            _known[index] = (version, run, short)
    return [ready[id(index)] for index in found]


def _version(index: Tensor) -> int | None:
    """How often an index was written to; None for those of inference mode, which do not count."""
    return None if index.is_inference() else index._version

"""What goes between a GPU and the host without either waiting for the other before it has to."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

__all__ = ["Leaving", "moved_between", "placed"]

# Larger ones go through memory that is not pinned, five times as slowly: what is pinned once is kept, and the rest of
# the machine does without it.
MOST_PINNED = 1 << 30

# By the index on a device: what was put there.
_hosts: WeakIdKeyDictionary = WeakIdKeyDictionary()


class Leaving:
    """A tensor on its way to the host: the copy is under way when this is made, in the order of the device's work."""

    def __init__(self, tensor: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if tensor.device.type != "cuda" or tensor.nbytes > MOST_PINNED:
            self._host = tensor.cpu()
            return
        self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._host.copy_(tensor, non_blocking=True)
        with torch.cuda.device(tensor.device):
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def arrived(self) -> Tensor:
        """The tensor on the host, waited for if it has to be; in any thread."""
        if self._event is not None:
            self._event.synchronize()
        return self._host


def placed(index: NDArray[np.int64], device: torch.device) -> Tensor:
    """Indices on a device; what they are is known on the host as long as they live."""
    host = torch.from_numpy(index)
    if device.type == "cpu":
        return host
    # Pageable memory has been read when the call returns.
    there = host.to(device, non_blocking=True)
    _hosts[there] = host
    return there


def moved_between(old: Tensor, new: Tensor) -> Tensor:
    """Where two indices differ, int64 on their device; without asking the device where `placed` made both."""
    before, after = _hosts.get(old), _hosts.get(new)  # type: ignore[no-untyped-call]
    if before is None or after is None:
        return (old != new).nonzero().squeeze(1)
    return torch.as_tensor((before != after).nonzero().squeeze(1)).to(old.device, non_blocking=True)

"""How the processes of a run find each other, and how all of them end in the same way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.distributed as dist

from .._backend import Launch, launch
from .ranks import Ranks
from .team import Team

__all__ = ["is_first_rank", "joined"]

# Runs of this process so far: those of all ranks have the same number.
_runs = 0


def is_first_rank() -> bool:
    """Whether this process is to speak: one by itself, or the first of several."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    found = launch()
    return found is None or found.rank == 0


@contextmanager
def joined(device: torch.device | None) -> Iterator[Team]:
    """The team of a run: of this process by itself, or of all that were launched together.

    These are found where `init_process_group` has been called, or by what torchrun tells in the environment. What one
    of them raises, all raise.

    Args:
        device: where gains are computed; "cuda" becomes this rank's own.

    Raises:
        ConnectionError: a rank did not arrive, or died on the way.
    """
    global _runs
    is_begun = dist.is_available() and dist.is_initialized()
    if is_begun and dist.get_world_size() > 1:
        rank, size, told = dist.get_rank(), dist.get_world_size(), launch()
        found = Launch(rank, size, rank, 0, "", 0, 0, False)
        if told is not None:
            found = replace(told, rank=rank, size=size, is_hosted=False)
    else:
        launched = None if is_begun or not dist.is_available() else launch()
        if launched is None:
            yield Team(device)
            return
        found = launched
    _runs += 1
    team = Ranks(found, _own_device(device, found), _runs, is_begun=is_begun)
    try:
        team.open()
        yield team
        team.gathered(None)
    except BaseException as error:
        verdict = team.failed(error)
        if verdict is error:
            raise
        raise verdict from None
    finally:
        team.close()


def _own_device(device: torch.device | None, found: Launch) -> torch.device | None:
    """The GPU of a rank, where GPUs are asked for and none is named."""
    if device is None or device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", found.local_rank % max(1, torch.cuda.device_count()))

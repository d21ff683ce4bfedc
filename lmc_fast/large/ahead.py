"""Tensors on their way to a device: read ahead into pinned memory, and copied while the device multiplies.

A model on disk need not fit on the device, and no step waits for all of it: while the gain of some tensors is summed, a
thread reads those of the next one. What fits beside the work stays there for the next visit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["Ahead", "Cuda", "Elsewhere", "Machine", "Road", "road_to"]

# Bytes of pinned memory that are filled while as many are on their way; a tensor goes through them in pieces.
PIECE = 1 << 25
# The share of a device's free memory that tensors may stay in: gains need the rest.
KEPT = 0.5


class Machine(Protocol):
    """What a device does for those who bring it something."""

    def memory(self, nbytes: int) -> Tensor:
        """Bytes on the host that copies are made from: uint8 [nbytes]."""

    def empty(self, like: Tensor) -> Tensor:
        """A contiguous tensor of this shape and dtype on the device, of anything."""

    def copy(self, to: Tensor, part: Tensor) -> Any:
        """Begin to copy bytes from the host to the device; what `wait` and `arrive` take."""

    def wait(self, copied: Any) -> None:
        """Return when a copy has been made: its source may be written to."""

    def arrive(self, tensor: Tensor, copied: Any) -> None:
        """Have what the device is asked for next wait for a copy, and the tensor's memory for that."""

    def free(self) -> int:
        """Bytes of memory that nobody uses."""


class Cuda:
    """A GPU: copies have a stream of their own.

    Args:
        device: of type "cuda".
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def memory(self, nbytes: int) -> Tensor:
        """Pinned bytes."""
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def empty(self, like: Tensor) -> Tensor:
        """Memory of the copies' stream."""
        with torch.cuda.stream(self._stream):
            return torch.empty(like.shape, dtype=like.dtype, device=self.device)

    def copy(self, to: Tensor, part: Tensor) -> Any:
        """Begin to copy; an event."""
        with torch.cuda.stream(self._stream):
            to.copy_(part, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._stream)
        return event

    def wait(self, copied: Any) -> None:
        """Have the host wait."""
        copied.synchronize()

    def arrive(self, tensor: Tensor, copied: Any) -> None:
        """Have the stream of the caller's work wait."""
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(copied)
        tensor.record_stream(stream)

    def free(self) -> int:
        """As the driver has it."""
        return int(torch.cuda.mem_get_info(self.device)[0])


class Elsewhere:
    """Any other device, which copies when it is asked to; nothing is kept there.

    Args:
        device: of any type.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def memory(self, nbytes: int) -> Tensor:
        """Bytes as they come."""
        return torch.empty(nbytes, dtype=torch.uint8)

    def empty(self, like: Tensor) -> Tensor:
        """Memory there."""
        return torch.empty(like.shape, dtype=like.dtype, device=self.device)

    def copy(self, to: Tensor, part: Tensor) -> Any:
        """Copy."""
        to.copy_(part)

    def wait(self, copied: Any) -> None:
        """It has been made."""

    def arrive(self, tensor: Tensor, copied: Any) -> None:
        """It has been made."""

    def free(self) -> int:
        """Not known."""
        return 0


def road_to(device: torch.device) -> Road:
    """The road to a device."""
    return Road(Cuda(device) if device.type == "cuda" else Elsewhere(device))


class Road:
    """The way to a device, for one thread at a time: two pieces of memory, one filled while the other is copied.

    Args:
        machine: what is at its end.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._memory: list[Tensor] = []
        # The last copy from each piece.
        self._copied: list[Any] = [None, None]
        self._turn = 0

    def send(self, tensor: Tensor) -> tuple[Tensor, Any]:
        """Send a tensor of the host's; it is there when the copy that is given beside it has been made."""
        whole = tensor.contiguous()
        there = self.machine.empty(whole)
        come, gone = (x.reshape(-1).view(torch.uint8) for x in (there, whole))
        copied: Any = None
        for start in range(0, len(gone), PIECE):
            some = gone[start : start + PIECE]
            copied = self._send_piece(come[start : start + PIECE], some)
        return there, copied

    def _send_piece(self, to: Tensor, some: Tensor) -> Any:
        if not self._memory:
            self._memory = [self.machine.memory(PIECE) for _ in self._copied]
        turn, self._turn = self._turn, 1 - self._turn
        if self._copied[turn] is not None:
            self.machine.wait(self._copied[turn])
        part = self._memory[turn][: len(some)].copy_(some)
        self._copied[turn] = self.machine.copy(to, part)
        return self._copied[turn]


class Ahead:
    """The tensors of two models on a device, those that are needed next on their way.

    Args:
        a, b: the models' tensors on the host, by parameter.
        road: to the device.
        room: bytes of tensors that stay there; None: a share of what is free now.
    """

    def __init__(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor], road: Road, room: int | None = None) -> None:
        self._a, self._b, self._road = a, b, road
        self._room = int(KEPT * road.machine.free()) if room is None else room
        self._reader = ThreadPoolExecutor(1, "lmc_fast reading ahead")
        self._coming: dict[str, Future[list[tuple[Tensor, Any]]]] = {}
        self._now: dict[str, list[Tensor]] = {}
        self._kept: dict[str, list[Tensor]] = {}
        self._route: deque[list[str]] = deque()

    def expect(self, batches: Iterable[Sequence[str]]) -> None:
        """What `take` will be called for next, as far as is known; the first of it sets out."""
        self._route = deque(list(dict.fromkeys(names)) for names in batches)
        wanted = {name for names in self._route for name in names}
        for name in self._coming.keys() - wanted:
            self._coming.pop(name).cancel()
        if self._route:
            self._start(self._route[0])

    def take(self, names: Iterable[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Tensors of both models on the device, until the next call; those that are expected after them set out.

        Raises:
            what reading them raises.
        """
        batch = list(dict.fromkeys(names))
        self._start(batch)
        self._now = {name: self._held(name) or self._arrived(name) for name in batch}
        if self._route and self._route[0] == batch:
            self._route.popleft()
        if self._route:
            self._start(self._route[0])
        a, b = ({name: sides[k] for name, sides in self._now.items()} for k in range(2))
        return a, b

    def _held(self, name: str) -> list[Tensor] | None:
        return self._kept.get(name) or self._now.get(name)

    def _start(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self._coming and self._held(name) is None:
                self._coming[name] = self._reader.submit(self._send, name)

    def _send(self, name: str) -> list[tuple[Tensor, Any]]:
        return [self._road.send(model[name]) for model in (self._a, self._b)]

    def _arrived(self, name: str) -> list[Tensor]:
        tensors = []
        for tensor, copied in self._coming.pop(name).result():
            if copied is not None:
                self._road.machine.arrive(tensor, copied)
            tensors.append(tensor)
        size = sum(tensor.nbytes for tensor in tensors)
        if size <= self._room:
            self._room -= size
            self._kept[name] = tensors
        return tensors

"""Several processes that work on one run, on one machine or many, started by torchrun or by hand.

What is small goes through a store that all can reach (torch's TCPStore), is asked for again and again, and can be
given up at any moment. Partial gains go from process to process by torch.distributed, once both ends are ready.
"""

from __future__ import annotations

import json
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .._backend import Launch
from .._files import this_process
from .._signals import explain
from .faults import Fault, error_of, fault_of, sentence_of
from .pulse import SILENCE, Pulse
from .shares import tree
from .team import Team

# What a build without them lacks, and what it does not say that it has.
_dist: Any = dist

__all__ = ["Ranks"]

# Seconds that ranks have to arrive, a transfer to get on, and others to leave before the rank that has the store.
ARRIVAL, TRANSFER, LEAVING = 120.0, 60.0, 5.0
# Seconds in which the look after others finds what has happened here.
LOOKS = 3.0
# Seconds between two looks for what others say: of the first, and of later ones.
SHORTEST, LONGEST = 0.001, 0.03
# The store takes no more than 8 MiB at once.
MOST = 4 << 20
# Bytes of a partial gain that are on their way at a time.
PIECE = 64 << 20

# The stores that are here, by the port that was asked for. They stay: others may come to the next run before this one.
_stores: dict[int, Any] = {}


class Ranks(Team):
    """This process among all that were launched together.

    Args:
        found: which it is.
        device: where it computes gains.
        run: which run of these processes it is.
        is_begun: whether torch.distributed has been begun by someone else, who ends it.

    Raises:
        ConnectionError: ranks did not arrive in time; they are named.
    """

    def __init__(self, found: Launch, device: torch.device | None, run: int, *, is_begun: bool) -> None:
        super().__init__(device)
        self.rank, self.size = found.rank, found.size
        self.is_begun = is_begun
        self._said = 0
        self._own: dict[str, str] = {}
        self._verdict: BaseException | None = None
        self._server: Any = None
        self._group: Any = None
        connect = self._meet(found)
        prefix = f"lmc_fast/{found.attempt}/{run}"
        self._store = _dist.PrefixStore(prefix, connect())
        self.ranks = self._arrive(found)
        is_main = threading.current_thread() is threading.main_thread()
        self._pulse = Pulse(_dist.PrefixStore(prefix, connect()), self.rank, self.ranks, is_main=is_main)
        self._pulse.start()
        self._found = found

    def _meet(self, found: Launch) -> Callable[[], Any]:
        """Have the store be there; returns what makes a connection to it."""
        timeout = timedelta(seconds=ARRIVAL)

        def here(port: int) -> Any:
            if port not in _stores:
                _stores[port] = _dist.TCPStore(
                    "localhost", port, is_master=True, wait_for_workers=False, timeout=timeout, multi_tenant=True
                )
            return _stores[port]

        host, port = found.host, found.port
        if self.is_begun:
            # Of the group's own store nothing is known.
            place: list[Any] = [None]
            if self.rank == 0:
                self._server = here(0)
                place = [[host or platform.node(), self._server.port]]
            dist.broadcast_object_list(place, src=0)
            host, port = place[0]
        elif self.rank == 0 and not found.is_hosted:
            self._server = here(port)
        if self._server is not None:
            host = "localhost"

        def connect() -> Any:
            try:
                return _dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)
            except RuntimeError:
                raise ConnectionError(
                    f"waited {ARRIVAL:.0f} s for rank 0 of {self.size} at {host}:{port} in vain"
                ) from None

        return connect

    def _arrive(self, found: Launch) -> list[dict[str, Any]]:
        machine, process, started = this_process()
        me = {
            "machine": machine,
            "process": process,
            "started": started,
            "host": platform.node(),
            "apart": found.is_hosted,
        }
        self._store.set(f"here/{self.rank}", json.dumps(me))
        # Whoever has the store gives up last.
        until = time.monotonic() + ARRIVAL + (LEAVING if self._server is not None else 0.0)
        missing = list(range(self.size))
        while missing:
            missing = [rank for rank in missing if not self._store.check([f"here/{rank}"])]
            if missing and time.monotonic() > until:
                raise ConnectionError(
                    f"waited {ARRIVAL:.0f} s for rank {', '.join(map(str, missing))} of {self.size} in vain: all ranks "
                    "must make the same call"
                )
            if missing:
                time.sleep(LONGEST)
        return [json.loads(self._store.get(f"here/{rank}")) for rank in range(self.size)]

    def open(self) -> None:
        """Open what partial gains go through: NCCL where each rank has a GPU of its own, else Gloo."""
        timeout = timedelta(seconds=TRANSFER)
        here = self._found.local_size or self.size
        has_own = self.device is not None and self.device.type == "cuda" and torch.cuda.device_count() >= here
        backend = "nccl" if has_own and dist.is_nccl_available() else "gloo"
        self.wire = self.device if backend == "nccl" and self.device is not None else torch.device("cpu")
        if self.wire.type == "cuda":
            torch.cuda.set_device(self.wire)
        if self.is_begun:
            self._group = dist.new_group(backend=backend, timeout=timeout)
            return
        store = _dist.PrefixStore("group", self._store)
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=timeout)
        self._group = dist.group.WORLD

    def told(self, what: Callable[[], Any]) -> Any:
        """What the first rank has found."""
        self._said += 1
        key = f"told/{self._said}"
        if self.is_first:
            self.post(key, what())
        return self.take(key)

    def gathered(self, mine: Any) -> list[Any]:
        """What each rank has found, by rank."""
        self._said += 1
        self.post(f"gathered/{self._said}/{self.rank}", mine)
        return [self.take(f"gathered/{self._said}/{rank}") for rank in range(self.size)]

    def post(self, key: str, found: Any) -> None:
        """Leave something for all to take, each once."""
        text = json.dumps(found, separators=(",", ":"))
        parts = [text[start : start + MOST] for start in range(0, len(text), MOST)]
        with self._reaching():
            for k, part in enumerate(parts):
                self._store.set(f"{key}/{k}", part)
            self._store.set(key, str(len(parts)))
        self._own[key] = text

    def has(self, key: str) -> bool:
        """Whether something has been left."""
        self._heed()
        if key in self._own:
            return True
        with self._reaching():
            return bool(self._store.check([key]))

    def take(self, key: str) -> Any:
        """What was left, once it is there."""
        if key in self._own:
            return json.loads(self._own.pop(key))
        self._await(key)
        with self._reaching():
            count = int(self._store.get(key))
            text = b"".join(self._store.get(f"{key}/{k}") for k in range(count))
            # The last to read it clears it away.
            if self._store.add(f"{key}/read", 1) == self.size - 1:
                for name in (key, f"{key}/read", *(f"{key}/{k}" for k in range(count))):
                    self._store.delete_key(name)
        return json.loads(text)

    def summed(
        self,
        key: str,
        mine: Tensor | None,
        ranks: Sequence[int],
        home: int,
        shape: Sequence[int],
        dtype: torch.dtype,
    ) -> Tensor | None:
        """The sum of what some ranks have, at one of them; None elsewhere. See `Team`.

        It runs up a binomial tree: each rank sends once, and adds what it gets from at most log2 of them.
        """
        below, above = tree(home, ranks, self.rank)
        total = mine
        for child in below:
            self._await(f"{key}/ready/{child}")
            with self._reaching():
                self._store.set(f"{key}/go/{child}", "")
            is_new = total is None
            if total is None:
                total = torch.empty(tuple(shape), dtype=dtype, device=self.wire)
            for part in torch.split(total.view(-1), PIECE // dtype.itemsize):
                come = torch.empty(part.shape, dtype=dtype, device=self.wire)
                with self._moving(child):
                    dist.recv(come, src=child, group=self._group)
                part.copy_(come) if is_new else part.add_(come.to(part.device))
        if above is None:
            return total
        assert total is not None
        with self._reaching():
            self._store.set(f"{key}/ready/{self.rank}", "")
        self._await(f"{key}/go/{self.rank}")
        with self._reaching():
            for name in ("ready", "go"):
                self._store.delete_key(f"{key}/{name}/{self.rank}")
        for part in torch.split(total.view(-1), PIECE // dtype.itemsize):
            with self._moving(above):
                dist.send(part.to(self.wire), dst=above, group=self._group)
        return None

    def failed(self, error: BaseException) -> BaseException:
        """What is to be raised, by all ranks, after this one has met with `error`."""
        if self._verdict is not None:
            return self._verdict
        self._pulse.stop()
        fault = self._pulse.fault
        if fault is None:
            mine = fault_of(error, self.rank)
            # A launcher ends the others as soon as one is dead, and a connection breaks: that is not why.
            dead = self._pulse.dead_here() if mine["kind"] in ("stop", "ConnectionError") else []
            fault = self._published(self._pulse.death_of(dead[0]) if dead else mine)
            if fault == mine:
                self._verdict = error
        if self._verdict is None:
            self._verdict = error_of(fault)
        explain(*sentence_of(fault))
        return self._verdict

    def outlast(self) -> None:
        """Wait for the others to leave a run that has failed; not for long."""
        until = time.monotonic() + LEAVING
        with suppress(RuntimeError):
            while time.monotonic() < until and self._are_here():
                time.sleep(SHORTEST)

    def close(self) -> None:
        """Leave; whoever has the store does so last."""
        self._pulse.stop()
        self._pulse.join(ARRIVAL)
        if self._group is not None:
            dist.destroy_process_group(None if not self.is_begun else self._group)
        # With the store gone there is no one to tell.
        with suppress(RuntimeError):
            if 0 not in self._pulse.dead_here() or self.ranks[0]["apart"]:
                self._store.set(f"left/{self.rank}", "")
        if self._server is not None:
            self.outlast()

    def _are_here(self) -> bool:
        """Whether others still use the store."""
        dead = {self.rank, *self._pulse.dead_here()}
        return any(rank not in dead and not self._store.check([f"left/{rank}"]) for rank in range(self.size))

    def _published(self, fault: Fault) -> Fault:
        """Why the run ends: what this rank says, or what was said before."""
        if self._has_lost_store():
            return self._pulse.death_of(0)
        try:
            return self._pulse.publish(fault)
        except RuntimeError:
            return fault

    def _has_lost_store(self) -> bool:
        """Whether the store is surely gone; one that is asked then tells of it at length, on stderr."""
        return not self.ranks[0]["apart"] and 0 in self._pulse.dead_here()

    def _heed(self) -> None:
        """Raise what has ended the run, if anything."""
        if self._pulse.fault is not None:
            raise error_of(self._pulse.fault)
        if self._has_lost_store():
            raise error_of(self._pulse.death_of(0))

    def _await(self, key: str) -> None:
        pause = SHORTEST
        while not self.has(key):
            time.sleep(pause)
            pause = min(LONGEST, 1.5 * pause)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """While the store is asked."""
        try:
            yield
        except RuntimeError:
            raise error_of(self._found_out(LOOKS) or self._pulse.without_store()) from None

    @contextmanager
    def _moving(self, peer: int) -> Iterator[None]:
        """While something is on its way to or from another rank."""
        try:
            yield
        except RuntimeError as error:
            who = self.ranks[peer]
            is_here = who["machine"] == self.ranks[self.rank]["machine"] != "0"
            fault = self._found_out(LOOKS if is_here else SILENCE + LOOKS)
            if fault is not None:
                raise error_of(fault) from None
            raise ConnectionError(
                f"rank {self.rank} of {self.size} lost rank {peer} (process {who['process']} on {who['host']}): "
                f"{str(error).splitlines()[0]}"
            ) from None

    def _found_out(self, seconds: float) -> Fault | None:
        """What has ended the run, once that is known."""
        until = time.monotonic() + seconds
        while self._pulse.fault is None and time.monotonic() < until:
            time.sleep(LONGEST)
        return self._pulse.fault

"""What a long run has done so far: one line a step, each handed to the system before the next begins.

A line says what it is about and what came out, and carries a checksum; the last one may be torn where the process was
killed. A run that goes on reads what is there in place of doing it again, and so ends where an undisturbed one does.
The disk has a line soon after: the run goes on meanwhile, and does again what a power cut takes of the last steps.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .._files import open_log

__all__ = ["Choices", "Copy", "Journal", "Place", "Record", "choices_from", "choices_to"]

FORMAT = "lmc_fast.journal 1"
Choices: TypeAlias = dict[str, NDArray[np.int64]]
Place: TypeAlias = Sequence[str | int]


class Record(Protocol):
    """Steps of one run, by where they stand in it, as all processes of the run have them."""

    def get(self, at: Place) -> Any:
        """What came out of a step; None where it has not been done."""

    def add(self, at: Place, found: Any) -> Any:
        """Note what came out of a step; returns it."""


class Copy:
    """What a process that does not write the journal has of it.

    Args:
        done: what the journal had to begin with.
    """

    def __init__(self, done: Mapping[str, Any]) -> None:
        self._found = dict(done)

    def get(self, at: Place) -> Any:
        """What came out of a step; None where it has not been done."""
        return self._found.get(_key(at))

    def add(self, at: Place, found: Any) -> Any:
        """Note what came out of a step, which whoever writes the journal notes as well; returns it."""
        self._found[_key(at)] = found
        return found


class Journal:
    """Steps of one run, by where they stand in it.

    Args:
        path: of the file; made if it is not there.
        task: what the run is, as JSON has it: a journal of another task is not gone on with.
        anew: whether to begin with nothing, whatever is there.

    Raises:
        BlockingIOError: another process writes it.
        ValueError: it is of another task, or no journal.
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, task: Mapping[str, Any], *, anew: bool = False) -> None:
        self.path = path
        self._found: dict[str, Any] = {}
        self._file = open_log(path)
        self._disk = ThreadPoolExecutor(1, "lmc_fast journal")
        self._syncing: list[Future[None]] = []
        try:
            self._lock()
            if anew:
                self._file.truncate(0)
            self._read(task)
        except BaseException:
            self.close()
            raise

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise BlockingIOError(errno.EWOULDBLOCK, "another run is at work here", str(self.path.parent)) from None
            # File systems without locks.
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP):
                raise

    def _read(self, task: Mapping[str, Any]) -> None:
        self._file.seek(0)
        end = 0
        for line in self._file:
            entry = _entry_of(line)
            if entry is None:
                break
            self._found[_key(entry["at"])] = entry["found"]
            end += len(line)
        # What stands behind a torn line was never relied on.
        self._file.truncate(end)
        self._file.seek(end)
        told = self.get(["task"])
        wanted = json.loads(json.dumps({"format": FORMAT, **task}))
        if told is None and not end:
            self.add(["task"], wanted)
        elif told != wanted:
            raise ValueError(f"journal {str(self.path)!r} is of a run with other inputs or options")

    def get(self, at: Place) -> Any:
        """What came out of a step; None where it has not been done."""
        return self._found.get(_key(at))

    def add(self, at: Place, found: Any) -> Any:
        """Note what came out of a step; returns it.

        Raises:
            OSError: it, or what was noted before, cannot be written, with the folder's name.
        """
        text = json.dumps({"at": list(at), "found": found}, separators=(",", ":")).encode()
        try:
            self._file.write(_sum(text) + b" " + text + b"\n")
            self._file.flush()
            self._sync()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path.parent)) from None
        self._found[_key(at)] = found
        return found

    def _sync(self) -> None:
        """Have the disk take what is written, while the run goes on.

        Raises:
            OSError: it did not take what was written before.
        """
        while self._syncing and self._syncing[0].done():
            self._syncing.pop(0).result()
        # One that has not begun yet takes this line along.
        if not self._syncing or self._syncing[-1].running():
            self._syncing.append(self._disk.submit(os.fsync, self._file.fileno()))

    @property
    def done(self) -> dict[str, Any]:
        """All that has been done, for a `Copy`."""
        return dict(self._found)

    def close(self) -> None:
        """Let others go on with it, once the disk has it."""
        self._disk.shutdown()
        # What a full disk did not take is done again by a run that goes on.
        with suppress(OSError):
            self._file.close()


def _entry_of(line: bytes) -> dict[str, Any] | None:
    """The entry of a line; None for one that is torn."""
    told, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or told != _sum(text):
        return None
    entry: dict[str, Any] = json.loads(text)
    return entry


def _sum(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:16].encode()


def _key(at: Place) -> str:
    return json.dumps(list(at))


def choices_to(choices: Mapping[str, NDArray[np.int64]]) -> dict[str, Any]:
    """Choices as JSON has them."""
    return {
        name: [list(choice.shape), base64.b64encode(choice.astype("<i4").tobytes()).decode()]
        for name, choice in choices.items()
    }


def choices_from(entries: Mapping[str, Any]) -> Choices:
    """What `choices_to` was given."""
    return {
        name: np.frombuffer(base64.b64decode(text), "<i4").astype(np.int64).reshape(shape)
        for name, (shape, text) in entries.items()
    }

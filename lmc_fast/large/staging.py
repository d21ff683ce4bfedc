"""Where a run works until its output is whole: a folder beside the output, with the journal in it.

    .OUT.lmc_fast/journal     what has been done
    .OUT.lmc_fast/scratch/    tensors that were put together to be read
    .OUT.lmc_fast/out         what becomes OUT, by one rename

Of several processes the first has it, and the others are guests: they write what is theirs, and read the journal. It is
what an interrupted run leaves, for another one to go on with.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .._files import is_unfinished, sync_to_disk
from .journal import Copy, Journal

__all__ = ["Guest", "Staging", "check_output"]


def check_output(out: Path, inputs: Sequence[Path], *, is_file: bool, force: bool) -> None:
    """Raise, before any work is done, unless `out` can be written and is none of the inputs.

    Args:
        inputs: which must stay as they are.
        is_file: whether one file is written, or a folder.
        force: whether what is at `out` may be replaced.
    """
    here = Path(os.path.realpath(out))
    for path in inputs:
        there = Path(os.path.realpath(path))
        if here == there or here in there.parents or there in here.parents:
            raise ValueError(f"output {str(out)!r} must lie apart from the inputs, and {str(path)!r} does not")
    if is_file and out.suffix.lower() != ".safetensors":
        raise ValueError(f"output {str(out)!r} must end in .safetensors, as the inputs are files")
    if os.path.lexists(out):
        if not force:
            raise FileExistsError(f"output {str(out)!r} exists already: force=True (--force) replaces it")
        if out.is_dir() == is_file or out.is_symlink():
            kind = "a link" if out.is_symlink() else "a folder" if out.is_dir() else "a file"
            raise ValueError(
                f"output {str(out)!r} is {kind}, and is not replaced by a {'file' if is_file else 'folder'}"
            )
    folder = out.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder of output {str(out)!r} does not exist")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(out))


class Staging:
    """The work folder of one output.

    Args:
        out: what it is for.
        task: what the run is, as JSON has it.
        resume: whether to go on with what is there.
        force: whether to throw away what is there.
        needed: bytes that the run will write.

    Raises:
        FileExistsError: an interrupted run left something, and neither was said.
        ValueError: what is there is of other inputs or options.
        OSError: there is not enough room, or another run is at work.
    """

    def __init__(self, out: Path, task: Mapping[str, Any], *, resume: bool, force: bool, needed: int) -> None:
        self.target = out.absolute()
        self.folder = folder_of(out)
        self.out, self.scratch = self.folder / "out", self.folder / "scratch"
        there = self.folder.is_dir()
        if there and not resume:
            if not force:
                raise FileExistsError(
                    f"output {str(out)!r} was begun, in {str(self.folder)!r}: resume=True (--resume) goes on with it, "
                    "force=True (--force) begins anew"
                )
            Journal(self.folder / "journal", task, anew=True).close()
            shutil.rmtree(self.folder)
        written = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        free = shutil.disk_usage(self.target.parent).free
        if free + written < needed:
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({needed} bytes are to be written)", str(out))
        self.folder.mkdir(exist_ok=True)
        self.journal = Journal(self.folder / "journal", task)
        self.scratch.mkdir(exist_ok=True)

        # No other run is at work here: what one was writing as it was killed will not be written on.
        for path in self.folder.rglob("*"):
            if is_unfinished(path):
                path.unlink(missing_ok=True)

    def publish(self, *, force: bool) -> None:
        """Make the output be what it is for, by one rename, and remove the rest.

        Raises:
            FileExistsError: something has come to be there meanwhile.
        """
        old = self.folder / "old"
        if os.path.lexists(self.target):
            if not force:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self.target))
            if self.out.is_dir():
                self.target.rename(old)
        sync_to_disk(self.out)
        self.out.rename(self.target) if self.out.is_dir() else self.out.replace(self.target)
        sync_to_disk(self.target.parent)
        self.remove()

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        self.journal.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Leave it for another run."""
        self.journal.close()


class Guest:
    """The work folder of one output, as a process sees it that is not the first of several.

    Args:
        out: what it is for.
        done: what the journal has.
    """

    def __init__(self, out: Path, done: Mapping[str, Any]) -> None:
        self.folder = folder_of(out)
        self.out, self.scratch = self.folder / "out", self.folder / "scratch"
        self.journal = Copy(done)


def folder_of(out: Path) -> Path:
    """Where the run for an output works."""
    target = out.absolute()
    return target.parent / f".{target.name}.lmc_fast"

"""Files that are whole or not there: the one place through which this package writes.

What is written comes to be aside, in the folder where it goes, and is renamed into place once it is whole and on the
disk. Its name until then says which process writes it; what a dead process of this machine left is removed by the next
write to the same folder.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import platform
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

__all__ = [
    "check_new_folder",
    "check_writable",
    "has_ended",
    "is_unfinished",
    "next_free_name",
    "open_log",
    "remove_unfinished",
    "sync_to_disk",
    "this_process",
    "write_aside",
    "write_bytes",
    "write_folder",
    "write_text",
]

PREFIX, SUFFIX = ".lmc_fast-", ".part"
ACCESS_LIST = "system.posix_acl_access"

# What this process is writing.
_unfinished: set[str] = set()


def check_writable(path: Path, *, overwrite: bool, flag: str = "overwrite=True", ending: str = ".safetensors") -> None:
    """Raise, before any work is done, unless a file of this kind can be written to `path`.

    Args:
        flag: what the caller says to have a file replaced, for the message.
        ending: of the file's name.
    """
    if path.suffix.lower() != ending:
        raise ValueError(f"output {str(path)!r} must end in {ending}")
    try:
        path.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise OSError(f"output {str(path)!r} cannot be written: {error.strerror}") from None
    else:
        if not overwrite:
            raise FileExistsError(f"output {str(path)!r} exists already: {flag} replaces it")
        if path.is_dir():
            raise IsADirectoryError(f"output {str(path)!r} is a folder")
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(f"output {str(path)!r} cannot be written: it is read-only")
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder of output {str(path)!r} does not exist")
    _check_folder(path, folder)


def check_new_folder(path: Path) -> None:
    """Raise, before any work is done, unless a folder can be made at `path`."""
    if os.path.lexists(path):
        raise FileExistsError(f"output folder {str(path)!r} exists already")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder of output {str(path)!r} does not exist")
    _check_folder(path, folder)


def _check_folder(path: Path, folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"output {str(path)!r} cannot be written: {error.strerror}") from None


def write_aside(path: Path, write: Callable[[Path], object], *, overwrite: bool = True) -> None:
    """Let `write` make a file aside, and rename it to `path` once it is whole; nothing is left of it otherwise.

    A link is followed. A file that is replaced hands on its mode, its access list and, where that is allowed, its
    owner and group; a new one gets what a plain open() gives. A device or a pipe is written into.

    Args:
        path: where to.
        write: called with the path of an empty file, beside it and of another name.
        overwrite: whether a file that has come to be at `path` is replaced.

    Raises:
        OSError: it cannot be written (a full disk, say): named by `path`. What was there stays as it was.
        FileExistsError: it exists, and `overwrite` is False.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))
    try:
        found = path.stat()
    except FileNotFoundError:
        found = None
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if found is not None and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    replaces = found is None or stat.S_ISREG(found.st_mode)
    folder = target.parent if replaces else Path(tempfile.gettempdir())

    def fill(part: Path) -> None:
        """Write `part`, with the mode and owner that the file is to have; what is no file is written through."""
        part.touch(exist_ok=False)
        plain = part.stat().st_mode
        # Until it is known who may read it.
        part.chmod(0o600)
        write(part)
        if not replaces:
            with part.open("rb") as source, path.open("wb") as sink:
                shutil.copyfileobj(source, sink)
            return
        sync_to_disk(part)
        if found is None:
            part.chmod(stat.S_IMODE(plain))
        else:
            _hand_on(found, target, part)
        if not overwrite and os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        part.replace(target)
        sync_to_disk(folder)

    _beside(folder, fill, lambda name: path)


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8) as `write_aside` does."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file of these bytes as `write_aside` does."""
    write_aside(path, lambda part: part.write_bytes(content))


def open_log(path: Path) -> BinaryIO:
    """A file that lines are added to and read from, made if it is not there: its reader must bear a torn last line."""
    return path.open("a+b")


def write_folder(path: Path, fill: Callable[[Path], object]) -> Path:
    """Let `fill` make the files of a folder aside, and rename it to `path` once all are whole.

    Returns:
        Where it stands: `path`, or the next free name where something else has come to be there meanwhile.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    path = Path(path)
    placed: list[Path] = []

    def make(inside: Path) -> None:
        """Fill `inside`, and rename it to the first name that is free by then."""
        inside.mkdir()
        fill(inside)
        sync_to_disk(inside)
        while not placed:
            free = next_free_name(path)
            try:
                inside.rename(free)
            except OSError as error:
                # Somebody else was there between the look and the rename.
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR) or not os.path.lexists(free):
                    raise
            else:
                placed.append(free)
        sync_to_disk(path.absolute().parent)

    _beside(path.absolute().parent, make, path.joinpath)
    return placed[0]


def next_free_name(path: Path) -> Path:
    """`path`, or where something is there already the first of ``path-2``, ``path-3``, ... that is free."""
    free, number = path, 1
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def is_unfinished(path: Path) -> bool:
    """Whether `path` has the name of something that is being written, or was when its writer died."""
    return path.name.startswith(PREFIX) and path.name.endswith(SUFFIX)


def remove_unfinished() -> None:
    """Remove what is being written, for one who ends the process without unwinding it."""
    for path in list(_unfinished):
        _remove(path)


def _beside(folder: Path, fill: Callable[[Path], None], named: Callable[[str], Path]) -> None:
    """Call `fill` with a free path in `folder`, at which nothing is left afterwards, whatever happens.

    Args:
        named: the path to name in errors, for one relative to that path.
    """
    _sweep(folder)
    aside = folder / f"{PREFIX}{_writer()}-{secrets.token_hex(4)}{SUFFIX}"
    try:
        _unfinished.add(str(aside))
        fill(aside)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(_named(error, aside, named))) from error
    finally:
        try:
            _remove(aside)
        # An interrupt in the middle is no reason to leave the rest.
        except BaseException:
            _remove(aside)
            raise
        finally:
            _unfinished.discard(str(aside))


def _remove(path: str | Path) -> None:
    """Remove a file or a folder with all that is in it, as far as that can be done."""
    try:
        Path(path).unlink()
    except FileNotFoundError:
        return
    # A folder is no file, of which there are two ways to be told.
    except OSError:
        shutil.rmtree(path, ignore_errors=True)


def _named(error: OSError, aside: Path, named: Callable[[str], Path]) -> object:
    """What an error is to be about: not a file aside, but the one that it was to become."""
    if error.filename is None:
        return named("")
    about = Path(os.fsdecode(error.filename))
    return named(str(about.relative_to(aside))) if about.is_relative_to(aside) else error.filename


def sync_to_disk(path: Path) -> None:
    """Have a file or a folder on the disk; OSError where that fails, but not where it is unknown."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):
            raise
    finally:
        os.close(handle)


def _hand_on(found: os.stat_result, old: Path, new: Path) -> None:
    """Give a new file what the one that it replaces has: owner, group, access list, mode."""
    mode = stat.S_IMODE(found.st_mode)
    if hasattr(os, "chown"):
        made = new.stat()
        if made.st_gid != found.st_gid:
            try:
                os.chown(new, -1, found.st_gid)
            except PermissionError:
                # Another group gets no more than everybody.
                mode = mode & ~0o2070 | (mode & 0o007) << 3
        if made.st_uid != found.st_uid:
            with suppress(PermissionError):
                os.chown(new, found.st_uid, -1)
    new.chmod(mode)
    if hasattr(os, "getxattr"):
        # Most files have none, and some disks know none.
        with suppress(OSError):
            os.setxattr(new, ACCESS_LIST, os.getxattr(old, ACCESS_LIST))


@functools.cache
def _machine() -> str | None:
    """This machine since it was started, and the space that process numbers are told in; None where unknown."""
    try:
        if str(Path("/proc/self").readlink()) != str(os.getpid()):
            return None
        started = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return None
    return hashlib.sha256(f"{platform.node()} {started} {space}".encode()).hexdigest()[:12]


def _started(process: int) -> str | None:
    """When a process was started, in ticks of the kernel; None for one that has ended or cannot be seen."""
    try:
        # The name of the program is in brackets, and may hold anything.
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def this_process() -> tuple[str, int, str]:
    """This process, in a way that tells later whether it still lives: machine, number, start; "0" for the unknown."""
    return _machine() or "0", os.getpid(), _started(os.getpid()) or "0"


def has_ended(machine: str, process: int, started: str) -> bool:
    """Whether a process is one of this machine that has surely ended.

    Args:
        machine, process, started: as `this_process` told them there.
    """
    if machine != _machine() or started == "0" or process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    now = _started(process)
    # One that has ended and that its parent has not asked after is still listed; one that is hidden from us is not.
    return now != started if now is not None else Path(f"/proc/{process}/stat").exists()


def _writer() -> str:
    return "-".join(map(str, this_process()))


def _is_dead(name: str) -> bool:
    """Whether the writer of something unfinished is surely dead: a process of this machine that has ended."""
    words = name.removeprefix(PREFIX).removesuffix(SUFFIX).split("-")
    if len(words) != 4 or not words[1].isdecimal() or not words[2].isdecimal():
        return False
    return has_ended(words[0], int(words[1]), words[2])


def _sweep(folder: Path) -> None:
    """Remove what dead processes of this machine and user left in a folder."""
    try:
        with os.scandir(folder) as entries:
            left = [entry for entry in entries if is_unfinished(Path(entry.name)) and _is_dead(entry.name)]
        for entry in left:
            if entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                _remove(entry.path)
    # A folder that cannot be listed may be written to all the same.
    except OSError:
        return

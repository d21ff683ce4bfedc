"""Files are whole or not there: full disks, modes, links, interrupts, and what the dead leave behind."""

from __future__ import annotations

import errno
import os
import re
import resource
import stat
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

import lmc_fast as lmc
from lmc_fast import _files
from lmc_fast._files import next_free_name, write_aside, write_bytes, write_folder, write_text
from lmc_fast.checkpoints import save_checkpoint
from lmc_fast.experiments.paper.store import ResultsFolder

from . import forked

SMALL = 64 * 1024


@contextmanager
def limited(folder: Path) -> Iterator[None]:
    """No file may grow beyond `SMALL` bytes: a full disk where none can be made."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """A disk of `SMALL` bytes in `folder`; where this user may mount none, as `limited`."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        with limited(folder):
            yield
        return
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(params=[limited, mounted], ids=["limit", "disk"])
def full(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder in which 64 KiB fit into a file and no more."""
    folder = tmp_path / "full"
    folder.mkdir()
    with request.param(folder):
        yield folder


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(60, 400), nn.ReLU(), nn.Linear(400, 30))


def long_spec() -> lmc.PermutationSpec:
    return lmc.PermutationSpec.from_axes({f"layer{i}.weight": (f"P{i}", None) for i in range(4000)})


def matching(path: Path) -> None:
    spec = lmc.PermutationSpec.from_axes({"w": ("p", None)}, model={"w": torch.zeros(20_000, 1)})
    permutations = lmc.Permutations.random(spec, 1)
    result = lmc.Matching(permutations, 0.0, 1.0, 1.0, True, (), 0.0, "none")
    result.save(path, overwrite=True)


WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "checkpoint": ("m.safetensors", lambda path: save_checkpoint(path, wide().state_dict(), overwrite=True)),
    "spec": ("m.json", lambda path: long_spec().to_json(path)),
    "matching": ("m.safetensors", matching),
    "text": ("m.csv", lambda path: write_text(path, "x" * 2 * SMALL)),
    "bytes": ("m.png", lambda path: write_bytes(path, b"x" * 2 * SMALL)),
}


@pytest.mark.parametrize(("name", "write"), WRITERS.values(), ids=WRITERS.keys())
def test_a_full_disk_is_an_oserror_that_names_the_file_and_keeps_the_old_one(
    full: Path, name: str, write: Callable[[Path], object]
) -> None:
    path = full / name
    path.write_text("precious")
    with pytest.raises(OSError) as raised:
        write(path)
    assert raised.value.errno in (errno.ENOSPC, errno.EFBIG)
    assert raised.value.filename == str(path)
    assert path.read_text() == "precious" and list(full.iterdir()) == [path]


def test_a_full_disk_takes_a_whole_folder_away(full: Path) -> None:
    def fill(folder: Path) -> None:
        write_text(folder / "small.txt", "here")
        write_text(folder / "large.txt", "x" * 2 * SMALL)

    with pytest.raises(OSError) as raised:
        write_folder(full / "demo", fill)
    assert raised.value.filename == str(full / "demo" / "large.txt")
    assert list(full.iterdir()) == []


def test_nothing_else_in_the_package_writes_a_file() -> None:
    root = Path(lmc.__file__).parent
    writing = re.compile(
        r"write_text\(|write_bytes\(|savefig\(|save_file\(|\.open\(\"[wax]|torch\.save\(|np\.save|mkstemp"
    )
    found = {
        f"{path.relative_to(root)}: {line.strip()}"
        for path in root.rglob("*.py")
        if path.name != "_files.py"
        for line in path.read_text(encoding="utf-8").splitlines()
        if writing.search(line) and not re.match(r"\s*(write_text|write_bytes|write_aside)\(", line)
    }
    allowed = {
        '_safetensors.py: with part.open("wb") as file:',
        'report/figures.py: figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)',
        'report/figures.py: figure.savefig(out, format="png", dpi=dpi, facecolor="white")',
        "report/plots.py: A matplotlib Figure, known to no window; ``figure.savefig(path)`` writes it.",
    }
    assert {line for line in found if "pip install" not in line and "torch.save(model" not in line} == allowed


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077], ids=oct)
def test_a_new_file_gets_what_open_gives(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        (tmp_path / "plain").write_text("")
        write_text(tmp_path / "ours", "")
        write_folder(tmp_path / "folder", lambda inside: write_text(inside / "file", ""))
        (tmp_path / "made").mkdir()
    finally:
        os.umask(before)
    assert mode(tmp_path / "ours") == mode(tmp_path / "plain") == mode(tmp_path / "folder" / "file")
    assert mode(tmp_path / "folder") == mode(tmp_path / "made")


@pytest.mark.parametrize("bits", [0o600, 0o640, 0o664, 0o755], ids=oct)
def test_a_file_that_is_replaced_hands_on_its_mode(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(bits)
    write_text(path, "new")
    assert mode(path) == bits and path.read_text() == "new"


def test_a_private_file_is_private_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o600)
    seen = []
    write_aside(path, lambda part: seen.append(mode(part)))
    assert seen == [0o600]


def test_a_file_that_is_replaced_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    # Only root can give files away; others can give theirs to a group of their own.
    owner = (12345, 23456) if os.geteuid() == 0 else (os.geteuid(), min([os.getegid(), *os.getgroups()]))
    os.chown(path, *owner)
    write_text(path, "new")
    assert (path.stat().st_uid, path.stat().st_gid) == owner


def test_a_group_that_cannot_be_kept_gets_no_more_than_everybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, new = tmp_path / "file", tmp_path / "new"
    path.write_text("old")
    path.chmod(0o664)
    new.write_text("new")

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "chown", refuse)
    other = os.stat_result([*path.stat()[:5], path.stat().st_gid + 1, *path.stat()[6:10]])
    _files._hand_on(other, path, new)
    assert mode(new) == 0o644


def test_links_are_followed_also_where_they_lead_to_nothing_yet(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link.json"
    link.symlink_to("there/spec.json")
    for text in ("one", "two"):
        write_text(link, text)
        assert link.is_symlink() and (tmp_path / "there" / "spec.json").read_text() == text
    assert len(list((tmp_path / "there").iterdir())) == 1


def test_a_device_and_a_pipe_are_written_into(tmp_path: Path) -> None:
    write_text(Path("/dev/null"), "x")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True) as reader:
        write_text(pipe, "hello")
        assert reader.communicate()[0] == "hello"
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path, "x")
    with pytest.raises(FileNotFoundError) as raised:
        write_text(tmp_path / "none" / "x", "x")
    assert raised.value.filename == str(tmp_path / "none" / "x")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError, MemoryError], ids=lambda e: e.__name__)
def test_whatever_happens_nothing_is_left(tmp_path: Path, error: type[BaseException]) -> None:
    def half(part: Path) -> None:
        part.write_text("half")
        raise error

    def half_folder(folder: Path) -> None:
        write_text(folder / "a", "whole")
        write_aside(folder / "b", half)

    with pytest.raises(error):
        write_aside(tmp_path / "file", half)
    with pytest.raises(error):
        write_folder(tmp_path / "folder", half_folder)
    assert list(tmp_path.iterdir()) == [] and _files._unfinished == set()


def test_an_interrupt_in_the_cleaning_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove, calls = _files._remove, []

    def interrupted(path: Path) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise KeyboardInterrupt
        remove(path)

    monkeypatch.setattr(_files, "_remove", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_aside(tmp_path / "file", lambda part: 1 / 0)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_came_meanwhile_is_kept_where_none_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def write(part: Path) -> None:
        part.write_text("ours")
        path.write_text("theirs")

    with pytest.raises(FileExistsError):
        write_aside(path, write, overwrite=False)
    assert path.read_text() == "theirs" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_came_meanwhile_is_kept_and_so_is_the_work(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        write_text(folder / "result", "ours")
        (tmp_path / "demo").mkdir()
        (tmp_path / "demo" / "result").write_text("theirs")

    assert write_folder(tmp_path / "demo", fill) == tmp_path / "demo-2"
    assert (tmp_path / "demo" / "result").read_text() == "theirs"
    assert (tmp_path / "demo-2" / "result").read_text() == "ours"
    assert next_free_name(tmp_path / "demo") == tmp_path / "demo-3"


KILLED = """
import os, signal, sys
from pathlib import Path
from lmc_fast import _files
def half(part):
    part.write_text("half")
    print("writing", flush=True)
    if sys.argv[2] == "die": os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
_files.write_aside(Path(sys.argv[1]) / "out", half)
"""


def test_what_a_killed_process_left_is_swept_by_the_next_write(tmp_path: Path) -> None:
    forked.run(["-c", KILLED, str(tmp_path), "die"])
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".part") and left.read_text() == "half"
    write_text(tmp_path / "file", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_another_is_still_writing_is_not_touched(tmp_path: Path) -> None:
    words = ["-c", KILLED, str(tmp_path), "live"]
    with forked.start(words, stdin=forked.PIPE, stdout=forked.PIPE) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
        write_text(tmp_path / "file", "x")
        assert len([path for path in tmp_path.iterdir() if path.name.endswith(".part")]) == 1
        writer.communicate("")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out"]


def dead_name(machine: str | None = None, process: int = 2**22 - 7, started: str = "123") -> str:
    return f".lmc_fast-{machine or _files._machine()}-{process}-{started}-0011aabb.part"


def test_only_the_surely_dead_are_swept(tmp_path: Path) -> None:
    kept = [
        dead_name("0123456789ab"),
        dead_name("0"),
        dead_name(started="0"),
        dead_name(process=os.getpid(), started=_files._started(os.getpid()) or ""),
        ".lmc_fast-x7h3k2.part",
        ".lmc_fast-notes.txt",
        "model.part",
    ]
    for name in kept:
        (tmp_path / name).write_text("")
    # Another process has the number now.
    swept = [dead_name(), dead_name(process=1, started="1234567890123")]
    for name in swept:
        (tmp_path / name).mkdir()
        (tmp_path / name / "inside").write_text("")
    write_text(tmp_path / "file", "x")
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "file"}


def test_where_processes_cannot_be_told_apart_nothing_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = dead_name()
    (tmp_path / name).write_text("")
    monkeypatch.setattr(_files, "_machine", lambda: None)
    write_text(tmp_path / "file", "x")
    assert (tmp_path / name).exists()


def test_a_results_folder_with_only_such_a_rest_is_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / dead_name()).write_text("half")
    store = ResultsFolder(tmp_path / "out", {"seed": 0})
    assert store.path == tmp_path / "out" and not (tmp_path / "out" / dead_name()).exists()


def test_a_read_only_file_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    path.write_text("precious")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match=r"m\.safetensors"):
        write_text(path, "new")
    with pytest.raises(PermissionError, match="it is read-only"):
        save_checkpoint(path, {"w": torch.zeros(1)}, overwrite=True)
    assert path.read_text() == "precious"


def test_two_threads_write_one_file_whole(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda k: write_text(tmp_path / "file", str(k % 10) * 10_000), range(40)))
    text = (tmp_path / "file").read_text()
    assert len(text) == 10_000 and len(set(text)) == 1 and len(list(tmp_path.iterdir())) == 1

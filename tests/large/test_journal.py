"""The journal of a long run."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmc_fast.large.journal import Journal, choices_from, choices_to

TASK = {"what": "a test", "numbers": [1, 2]}


def begun(path: Path) -> Journal:
    journal = Journal(path, TASK)
    journal.add(["settled", "a"], {"gained": 0.1})
    journal.add(["sweep", 0, "b"], 1 / 3)
    return journal


def test_what_was_noted_is_found_again(tmp_path: Path) -> None:
    begun(tmp_path / "journal").close()
    again = Journal(tmp_path / "journal", TASK)
    assert again.get(["settled", "a"]) == {"gained": 0.1}
    assert again.get(["sweep", 0, "b"]) == 1 / 3
    assert again.get(["sweep", 1, "b"]) is None


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_line_is_as_if_it_had_never_been(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "journal"
    begun(path).close()
    path.write_bytes(path.read_bytes()[:-cut])
    again = Journal(path, TASK)
    assert again.get(["settled", "a"]) == {"gained": 0.1}
    assert again.get(["sweep", 0, "b"]) is None
    again.add(["sweep", 0, "b"], 7)
    again.close()
    assert Journal(path, TASK).get(["sweep", 0, "b"]) == 7


def test_a_changed_line_and_what_follows_it_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    begun(path).close()
    path.write_bytes(path.read_bytes().replace(b"0.1", b"0.2"))
    again = Journal(path, TASK)
    assert again.get(["settled", "a"]) is None
    assert again.get(["sweep", 0, "b"]) is None


def test_a_journal_of_another_run_is_refused(tmp_path: Path) -> None:
    begun(tmp_path / "journal").close()
    with pytest.raises(ValueError, match="is of a run with other inputs or options"):
        Journal(tmp_path / "journal", {**TASK, "numbers": [1, 3]})
    anew = Journal(tmp_path / "journal", {**TASK, "numbers": [1, 3]}, anew=True)
    assert anew.get(["settled", "a"]) is None


@pytest.mark.skipif(os.name != "posix", reason="locks of files are told here")
def test_one_run_at_a_time(tmp_path: Path) -> None:
    journal = begun(tmp_path / "journal")
    with pytest.raises(BlockingIOError, match="another run is at work here"):
        Journal(tmp_path / "journal", TASK)
    journal.close()
    Journal(tmp_path / "journal", TASK).close()


@pytest.mark.parametrize("known", [errno.ENOLCK, errno.EIO], ids=["no locks", "broken"])
def test_a_file_system_without_locks_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: int) -> None:
    fcntl = pytest.importorskip("fcntl")

    def flock(*_: object) -> None:
        raise OSError(known, os.strerror(known))

    monkeypatch.setattr(fcntl, "flock", flock)
    if known == errno.ENOLCK:
        assert begun(tmp_path / "journal").get(["settled", "a"]) == {"gained": 0.1}
    else:
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            begun(tmp_path / "journal")


def test_a_full_disk_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = begun(tmp_path / "journal")

    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)

    def note_until_it_is_told() -> None:
        for n in range(10_000):
            journal.add(["x", n], 1)
            time.sleep(0.001)

    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
        note_until_it_is_told()
    assert caught.value.filename == str(tmp_path)
    journal.close()


def test_a_slow_disk_is_waited_for_at_the_end_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are readable as soon as they are noted; the disk is asked for all of them, and not once for each."""
    path, go_on, synced = tmp_path / "journal", threading.Event(), []

    def fsync(_: int) -> None:
        go_on.wait(10)
        synced.append(len(path.read_bytes().splitlines()))

    monkeypatch.setattr(os, "fsync", fsync)
    journal = begun(path)
    for n in range(20):
        journal.add(["x", n], n)
        assert len(path.read_bytes().splitlines()) == 4 + n
    go_on.set()
    journal.close()
    assert synced[-1] == 23
    assert len(synced) <= 4


def test_a_run_that_cannot_begin_leaves_it_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the disk still takes of it holds the file, and with it the lock."""

    def fsync(file: int) -> None:
        held = os.dup(file)
        time.sleep(0.1)
        os.close(held)

    def add(self: Journal, at: Any, found: Any) -> Any:
        plain(self, at, found)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", fsync)
    plain = Journal.add
    with monkeypatch.context() as broken:
        broken.setattr(Journal, "add", add)
        with pytest.raises(KeyboardInterrupt):
            Journal(tmp_path / "journal", TASK)
    Journal(tmp_path / "journal", TASK).close()


def test_choices_come_back() -> None:
    choices = {"a": np.array([2, 0, 1]), "b": np.array([[1, 0], [0, 1]])}
    found = choices_from(choices_to(choices))
    assert set(found) == {"a", "b"}
    for name, choice in choices.items():
        assert found[name].dtype == np.int64
        assert np.array_equal(found[name], choice)

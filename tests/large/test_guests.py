"""What the ranks beside the first have of a run, and what one of them makes of others that cannot be reached."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lmc_fast.large import ranks
from lmc_fast.large.faults import died
from lmc_fast.large.journal import Copy, Journal
from lmc_fast.large.ranks import Ranks
from lmc_fast.large.staging import Guest, Staging
from lmc_fast.large.team import Team

TASK = {"what": "a test"}


def test_a_copy_has_what_the_journal_has_and_writes_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", TASK)
    journal.add(["settled", "a"], {"gained": 0.1})
    size = (tmp_path / "journal").stat().st_size
    copy = Copy(journal.done)
    assert copy.get(["settled", "a"]) == {"gained": 0.1}
    assert copy.add(["settled", "b"], 3) == 3
    assert copy.get(["settled", "b"]) == 3
    assert journal.get(["settled", "b"]) is None
    assert (tmp_path / "journal").stat().st_size == size


def test_a_guest_works_where_the_first_does(tmp_path: Path) -> None:
    staging = Staging(tmp_path / "out", TASK, resume=False, force=False, needed=1)
    guest = Guest(tmp_path / "out", staging.journal.done)
    assert (guest.folder, guest.out, guest.scratch) == (staging.folder, staging.out, staging.scratch)
    assert guest.journal.get(["task"]) == staging.journal.get(["task"])
    staging.close()


def test_what_another_machine_was_writing_as_it_died_is_no_part_of_the_output(tmp_path: Path) -> None:
    staging = Staging(tmp_path / "out", TASK, resume=False, force=False, needed=1)
    staging.out.mkdir()
    (staging.out / ".lmc_fast-elsewhere-1-2-3.part").write_bytes(b"half")
    (staging.out / "model.safetensors").write_bytes(b"whole")
    staging.close()
    again = Staging(tmp_path / "out", TASK, resume=True, force=False, needed=1)
    assert [path.name for path in again.out.iterdir()] == ["model.safetensors"]
    again.close()


def test_one_process_is_a_team() -> None:
    team = Team()
    error = ValueError("no good")
    assert team.is_first
    assert team.told(lambda: 3) == 3
    assert team.gathered("mine") == ["mine"]
    assert team.after_first(lambda: 4) == 4
    assert not team.has("key")
    team.post("key", 5)
    assert team.has("key")
    assert team.take("key") == 5
    assert not team.has("key")
    assert team.summed("key", None, [0], 0, (), ranks.torch.float64) is None
    assert team.failed(error) is error
    team.outlast()


def lost(monkeypatch: pytest.MonkeyPatch, fault: Any) -> Ranks:
    """One of two ranks, after a connection broke."""
    monkeypatch.setattr(ranks, "LOOKS", 0.05)
    monkeypatch.setattr(ranks, "SILENCE", 0.05)
    team = Ranks.__new__(Ranks)
    team.rank, team.size = 0, 2
    team.ranks = [{"machine": name, "process": 7, "host": f"host {name}", "apart": False} for name in "xy"]
    team._verdict = None
    team._pulse = SimpleNamespace(  # type: ignore[assignment]
        fault=fault,
        without_store=lambda: died(0, 2, "process 7"),
        death_of=lambda rank: died(rank, 2, "process 8"),
        dead_here=list,
        stop=lambda: None,
    )
    return team


def breaks(inside: AbstractContextManager[None]) -> None:
    with inside:
        raise RuntimeError("Connection closed by peer [10.0.0.1]:1234\nwith a long tail")


WAYS: dict[str, Callable[[Ranks], AbstractContextManager[None]]] = {
    "the store": lambda team: team._reaching(),
    "a rank": lambda team: team._moving(1),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_a_connection_that_breaks_is_told_by_who_has_died(
    monkeypatch: pytest.MonkeyPatch, way: Callable[[Ranks], AbstractContextManager[None]]
) -> None:
    team = lost(monkeypatch, died(1, 2, "process 9"))
    with pytest.raises(ConnectionAbortedError, match=r"^rank 1 of 2 \(process 9\) has died"):
        breaks(way(team))


def test_a_connection_that_breaks_for_no_known_reason_is_told_by_its_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConnectionError, match=r"^rank 0 of 2 lost rank 1 \(process 7 on host y\): Connection .*1234$"):
        breaks(WAYS["a rank"](lost(monkeypatch, None)))
    with pytest.raises(ConnectionAbortedError, match=r"^rank 0 of 2 \(process 7\) has died"):
        breaks(WAYS["the store"](lost(monkeypatch, None)))


def test_a_rank_whose_store_has_gone_ends_with_what_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(fault: Any) -> Any:
        raise RuntimeError("Broken pipe")

    monkeypatch.setattr(ranks, "explain", lambda *_: None)
    error = ValueError("no good")
    team = lost(monkeypatch, None)
    team._pulse.publish = gone  # type: ignore[method-assign]
    assert team.failed(error) is error
    # It stays with it.
    assert team.failed(KeyboardInterrupt()) is error
    team = lost(monkeypatch, None)
    team._pulse.dead_here = lambda: [0]  # type: ignore[method-assign]
    team._pulse.publish = gone  # type: ignore[method-assign]
    assert str(team.failed(error)).startswith("rank 0 of 2 (process 8) has died")
    # Nor does it wait for what is no more.
    with pytest.raises(ConnectionAbortedError, match=r"^rank 0 of 2 \(process 8\) has died"):
        team._heed()

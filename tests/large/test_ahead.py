"""Tensors read ahead to a device that copies when it gets round to it: what is there is right, and was on its way."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lmc_fast as lmc
from lmc_fast import Permutations
from lmc_fast.large import ahead, matcher
from lmc_fast.large.ahead import Ahead, Cuda, Elsewhere, Road, road_to
from lmc_fast.large.parted import PartedGains
from lmc_fast.large.shares import parts_of, shared_out
from lmc_fast.large.team import Team
from lmc_fast.matching.engine.descent import CoordinateDescent

from . import models
from .test_parted import Desk

CPU = torch.device("cpu")


class Later(Elsewhere):
    """A device that makes copies in their order, and none before somebody waits for it or works with it."""

    def __init__(self, free: int = 0) -> None:
        super().__init__(CPU)
        self._free, self._lock = free, threading.Lock()
        self.asked: list[tuple[Tensor, Tensor]] = []
        self.made = 0

    def empty(self, like: Tensor) -> Tensor:
        return torch.full(like.shape, float("nan")).to(like.dtype)

    def copy(self, to: Tensor, part: Tensor) -> Any:
        with self._lock:
            self.asked.append((to, part))
            return len(self.asked)

    def wait(self, copied: Any) -> None:
        with self._lock:
            while self.made < copied:
                to, part = self.asked[self.made]
                to.copy_(part)
                self.made += 1

    def arrive(self, tensor: Tensor, copied: Any) -> None:
        self.wait(copied)

    def free(self) -> int:
        return self._free


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(ahead, "PIECE", 64)
    return 64


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class TestRoad:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64, torch.int64], ids=str)
    @pytest.mark.usefixtures("small_pieces")
    def test_what_is_sent_arrives_through_pieces_that_are_used_again(self, dtype: torch.dtype) -> None:
        shapes = [(), (1,), (0, 3), (7, 9), (2, 3, 4), (63,), (1000,)]
        tensors = [(100 * drawn(k, *shape)).to(dtype) for k, shape in enumerate(shapes)]
        tensors.append(drawn(9, 12, 5).to(dtype).T)
        machine = Later()
        road = Road(machine)
        sent = [road.send(tensor) for tensor in tensors]
        assert machine.made < len(machine.asked)
        for wanted, (found, copied) in zip(tensors, sent, strict=True):
            if copied is not None:
                machine.arrive(found, copied)
            assert found.dtype == dtype
            assert torch.equal(found, wanted)
        assert len({part.data_ptr() for _, part in machine.asked}) == 2

    def test_any_device_has_one(self) -> None:
        road = road_to(CPU)
        assert isinstance(road.machine, Elsewhere)
        assert road.machine.free() == 0
        tensor = drawn(0, 300, 7)
        found, copied = road.send(tensor)
        road.machine.wait(copied)
        road.machine.arrive(found, copied)
        assert torch.equal(found, tensor)
        assert found.data_ptr() != tensor.data_ptr()


def pair(names: str = "abcd", size: int = 50) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    first, second = ({name: drawn(10 * k + side, size) for k, name in enumerate(names)} for side in range(2))
    return first, second


def sent(machine: Later, models_: Sequence[dict[str, Tensor]]) -> list[str]:
    """Names by their copies, of the first model's tensors as they were sent."""
    machine.wait(len(machine.asked))
    return [name for to, _ in machine.asked for name, x in models_[0].items() if torch.equal(to.view(x.dtype), x)]


class TestAhead:
    def test_what_comes_next_is_on_its_way_before_it_is_asked_for(self) -> None:
        (a, b), machine = pair(), Later()
        there = Ahead(a, b, Road(machine))
        there.expect([["a"], ["b", "c"], ["d"]])
        for names, after in ((["a"], ["b", "c"]), (["b", "c"], ["d"]), (["d"], [])):
            found = there.take(names)
            for side, model in zip(found, (a, b), strict=True):
                assert list(side) == names
                assert all(torch.equal(side[name], model[name]) for name in names)
            assert list(there._coming) == after
        assert sent(machine, (a, b)) == ["a", "b", "c", "d"]

    def test_what_was_not_expected_comes_as_well_and_what_is_not_wanted_goes(self) -> None:
        (a, b), machine = pair(), Later()
        there = Ahead(a, b, Road(machine))
        there.expect([["a"], ["b"]])
        assert torch.equal(there.take(["c"])[1]["c"], b["c"])
        assert torch.equal(there.take(["d", "c"])[0]["d"], a["d"])
        there.expect([["b"]])
        assert list(there._coming) == ["b"]
        there.expect([])
        assert not there._coming
        assert torch.equal(there.take(["b", "b"])[0]["b"], a["b"])

    def test_what_two_gains_in_turn_take_is_sent_once(self) -> None:
        (a, b), machine = pair(), Later()
        there = Ahead(a, b, Road(machine))
        there.expect([["a", "b"], ["b", "c"]])
        there.take(["a", "b"])
        there.take(["b", "c"])
        assert sent(machine, (a, b)) == ["a", "b", "c"]

    @pytest.mark.parametrize(
        ("free", "wanted"), [(0, "abcabc"), (3 * 400, "abcbc"), (1 << 20, "abc")], ids=["none", "a little", "much"]
    )
    def test_what_there_is_room_for_stays(self, free: int, wanted: str) -> None:
        (a, b), machine = pair("abc"), Later(free)
        there = Ahead(a, b, Road(machine))
        for _ in range(2):
            for name in "abc":
                assert torch.equal(there.take([name])[1][name], b[name])
        assert "".join(sent(machine, (a, b))) == wanted

    def test_what_cannot_be_read_is_told_where_it_is_asked_for(self) -> None:
        a, b = pair("ab")
        del b["b"]
        there = Ahead(a, b, Road(Later()), room=0)
        there.expect([["a"], ["b"]])
        there.take(["a"])
        with pytest.raises(KeyError, match="b"):
            there.take(["b"])


class TestCuda:
    """What is asked of torch.cuda, by a torch.cuda that only writes down what it is asked."""

    @pytest.fixture
    def said(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        said: list[str] = []
        where = ["the work's"]

        class Stream:
            def __init__(self, device: object, name: str = "the copies'") -> None:
                self.name = name

            def wait_event(self, event: object) -> None:
                said.append(f"{self.name} waits")

        class Event:
            def record(self, stream: Stream) -> None:
                said.append(f"recorded in {stream.name}")

            def synchronize(self) -> None:
                said.append("the host waits")

        @contextmanager
        def stream(of: Stream) -> Any:
            where.append(of.name)
            yield
            where.pop()

        plain_empty, plain_copy = torch.empty, Tensor.copy_

        def empty(*sizes: Any, pin_memory: bool = False, **more: Any) -> Tensor:
            said.append("pinned" if pin_memory else f"memory of {where[-1]}")
            return plain_empty(*sizes, **more)

        def copy(self: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
            if non_blocking:
                said.append(f"copied in {where[-1]}")
            return plain_copy(self, source)

        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "stream", stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(device, "the work's"))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 4000))
        monkeypatch.setattr(torch, "empty", empty)
        monkeypatch.setattr(Tensor, "copy_", copy)
        monkeypatch.setattr(Tensor, "record_stream", lambda self, of: said.append(f"memory is {of.name} too"))
        return said

    def test_copies_have_a_stream_of_their_own(self, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ahead, "PIECE", 40)
        a, b = {"x": torch.arange(25.0)}, {"x": torch.arange(25.0, 50.0)}
        there = Ahead(a, b, Road(Cuda(CPU)))
        assert there._room == 500
        found = there.take(["x"])
        assert torch.equal(found[0]["x"], a["x"])
        assert torch.equal(found[1]["x"], b["x"])
        copied = ["copied in the copies'", "recorded in the copies'"]
        wanted = ["memory of the copies'", "pinned", "pinned", *copied, *copied, "the host waits", *copied]
        wanted += ["memory of the copies'", *(["the host waits", *copied] * 3)]
        wanted += ["the work's waits", "memory is the work's too"] * 2
        assert said == wanted

    def test_a_gpu_is_reached_by_it(self, said: list[str]) -> None:
        assert isinstance(road_to(torch.device("cuda", 1)).machine, Cuda)
        assert not said


@pytest.mark.gpu
def test_a_gpu_gets_what_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "PIECE", 1 << 16)
    a, b = ({f"{k}": drawn(2 * k + side, 500, 700).bfloat16() for k in range(6)} for side in range(2))
    there = Ahead(a, b, road_to(torch.device("cuda")), room=1_400_000)
    there.expect([[name] for name in a])
    for _ in range(2):
        for name in a:
            for side, model in zip(there.take([name]), (a, b), strict=True):
                assert side[name].is_cuda
                assert torch.equal((side[name] + 0).cpu(), model[name])


def descent() -> CoordinateDescent:
    a, b = (models.weights(seed) for seed in (0, 1))
    spec = models.spec().bind(a)
    return CoordinateDescent(spec, a, b, dict.fromkeys(a, 1.0), Permutations.random(spec, 3), (), None, room=0)


def test_gains_are_those_of_tensors_that_are_there() -> None:
    search = descent()
    shares = shared_out(parts_of(search.spec, search.a), search.a, 1)
    machine = Later(2000)
    here, there = (PartedGains(search, shares, Team(), road) for road in (None, Road(machine)))
    for group, leaves in search.leaves.items():
        there.expect([leaves])
        wanted, found = here.gain(group), there.gain(group)
        assert (wanted is None) == (found is None)
        if wanted is not None and found is not None:
            assert torch.equal(found, wanted)
    assert machine.made > 0


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_rank_reads_ahead_what_it_has_itself(ranks: int) -> None:
    search = descent()
    shares = shared_out(parts_of(search.spec, search.a), search.a, ranks)
    gains = PartedGains(search, shares, Team(), road_to(CPU))
    leaves = search.leaves["D"]
    found = [name for batch in gains._own_batches(leaves) for name in batch]
    assert sorted(found) == sorted(leaf.parameter for leaf in leaves if shares.rank_of(leaf.parameter) == 0)
    assert found
    assert len(gains._own_batches(leaves)) > 1


def test_ranks_that_read_ahead_sum_what_one_does() -> None:
    search = descent()
    leaves = search.leaves["D"]
    alone = PartedGains(search, shared_out(parts_of(search.spec, search.a), search.a, 1), Team()).gain("D")
    shares = shared_out(parts_of(search.spec, search.a), search.a, 2)
    left: list[Tensor] = []
    for rank in (1, 0):
        gains = PartedGains(search, shares, Desk(rank, left), Road(Later()))
        gains.expect([leaves])
        gains.bring("step", {"D": leaves}, [0, 1], 0)
    found = gains.gain("D")
    assert found is not None
    assert alone is not None
    assert torch.equal(found, alone)


def test_a_merge_on_a_device_writes_the_same_and_is_read_ahead_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = models.weights(0)
    first = models.write_directory(tmp_path / "A", a)
    # So far from the first that the stream moves again, and all others after it.
    second = models.write_directory(tmp_path / "B", models.planted(a, 4, noise=3.0)[0])
    told: dict[str, Any] = {"spec": models.spec(), "search": "coordinate_descent", "dtype": "float32"}
    lmc.merge_checkpoints(first, second, out=tmp_path / "here", **told)
    machine = Later()
    monkeypatch.setattr(matcher, "road_to", lambda device: Road(machine))
    late: list[list[str]] = []
    ready: list[bool] = []
    plain, plain_expect = Ahead.take, Ahead.expect

    def expect(self: Ahead, batches: Any) -> None:
        route = [list(names) for names in batches]
        ready.append(all(name in self._coming or name in self._now for name in route[0]))
        plain_expect(self, route)

    def take(self: Ahead, names: Any) -> Any:
        batch = list(names)
        if any(name not in self._coming and name not in self._now for name in batch):
            late.append(batch)
        return plain(self, batch)

    monkeypatch.setattr(Ahead, "take", take)
    monkeypatch.setattr(Ahead, "expect", expect)
    result = lmc.merge_checkpoints(first, second, out=tmp_path / "there", device="cpu", **told)
    assert machine.made > 0
    assert late == []
    # All but the first visit of each pass, and the second of the one where all others become stale by the first.
    assert len(ready) == 11
    assert ready.count(False) == 2 + len(result.matches[0].history) == 4
    here, there = (models.contents(tmp_path / name) for name in ("here", "there"))
    assert here == there

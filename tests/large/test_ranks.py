"""Several processes at one merge: the bytes of one, one end for all of them, and going on with another number."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from lmc_fast import _safetensors, _signals
from lmc_fast.large import merge_checkpoints, ranks
from lmc_fast.large.ranks import Ranks

from . import models
from .launched import Ended, command, launched

pytestmark = pytest.mark.skipif(
    os.name != "posix" or not dist.is_available() or not dist.is_gloo_available(), reason="processes that are forked"
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    a = models.weights(0)
    # With noise enough for some sweeps.
    b = models.planted(a, 1, noise=1.5)[0]
    models.spec().to_json(folder / "spec.json")
    return models.write_directory(folder / "A", a), models.write_directory(folder / "B", b, shards=3)


@pytest.fixture(scope="module")
def whole(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "out"
    merge_checkpoints(*pair, out=out, spec=models.spec(), shard_size=900)
    return models.contents(out)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first does not wait long for what does not come."""
    monkeypatch.setattr(ranks, "LEAVING", 1.0)


@pytest.fixture
def said(tmp_path: Path) -> Path:
    (tmp_path / "said").mkdir()
    return tmp_path / "said"


def words(pair: tuple[Path, Path], out: Path, *more: str) -> list[str]:
    return ["merge", *map(str, pair), "-o", str(out), "--spec", str(pair[0].parent / "spec.json"), *more]


def merge(pair: tuple[Path, Path], out: Path, *more: str) -> Callable[[int], object]:
    return command(*words(pair, out, "--shard-size", "900B", "--log", "json", *more))


def sentences(ended: list[Ended]) -> set[str]:
    return {one.err.splitlines()[-1] for one in ended if one.code > 0}


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_any_number_of_ranks_writes_the_bytes_of_one(
    pair: tuple[Path, Path], whole: dict[str, bytes], tmp_path: Path, said: Path, count: int
) -> None:
    ended = launched(count, merge(pair, tmp_path / "out"), said)
    assert [one.code for one in ended] == [0] * count, ended
    assert models.contents(tmp_path / "out") == whole
    # One of them speaks.
    assert "wrote" in ended[0].out
    assert '"event": "done"' in ended[0].err
    assert [(one.out, one.err) for one in ended[1:]] == [("", "")] * (count - 1)
    assert not list(tmp_path.glob(".*"))


# What befalls one rank: after so many of its steps, or as it writes.
def after(steps: int, happens: Callable[[], object]) -> Callable[[], None]:
    def prepare() -> None:
        plain, count = Ranks.post, iter(range(10**9))

        def post(self: Ranks, key: str, found: Any) -> None:
            if next(count) == steps:
                happens()
            plain(self, key, found)

        Ranks.post = post  # type: ignore[method-assign]

    return prepare


def at_writing(happens: Callable[[], object]) -> Callable[[], None]:
    def prepare() -> None:
        plain = _safetensors._bytes_of

        def bytes_of(tensor: Any) -> Any:
            happens()
            return plain(tensor)

        _safetensors._bytes_of = bytes_of

    return prepare


def only(rank: int, prepare: Callable[[], None], work: Callable[[int], object]) -> Callable[[int], object]:
    def run(mine: int) -> object:
        if mine == rank:
            prepare()
        return work(mine)

    return run


def kill(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def fill_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("dead", "prepare"),
    [
        pytest.param(1, after(9, kill(signal.SIGKILL)), id="the second in the search"),
        pytest.param(0, after(12, kill(signal.SIGKILL)), id="the first in the search"),
        pytest.param(2, at_writing(kill(signal.SIGKILL)), id="the third as it writes"),
    ],
)
def test_a_rank_that_dies_is_named_and_another_number_of_ranks_goes_on(
    pair: tuple[Path, Path],
    whole: dict[str, bytes],
    tmp_path: Path,
    said: Path,
    dead: int,
    prepare: Callable[[], None],
) -> None:
    ended = launched(3, only(dead, prepare, merge(pair, tmp_path / "out")), said)
    assert [one.code for one in ended] == [-signal.SIGKILL if rank == dead else 2 for rank in range(3)], ended
    (sentence,) = sentences(ended)
    assert sentence.startswith(f"lmc-fast: rank {dead} of 3 (process ")
    assert "has died" in sentence
    assert "--resume" in sentence
    assert not (tmp_path / "out").exists()
    assert (tmp_path / ".out.lmc_fast" / "journal").exists()
    if dead == 1:
        merge_checkpoints(*pair, out=tmp_path / "out", spec=models.spec(), shard_size=900, resume=True)
    else:
        ended = launched(2, merge(pair, tmp_path / "out", "--resume"), said)
        assert [one.code for one in ended] == [0, 0], ended
    assert models.contents(tmp_path / "out") == whole
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_told_to_stop_stops_all(
    pair: tuple[Path, Path], whole: dict[str, bytes], tmp_path: Path, said: Path, rank: int
) -> None:
    ended = launched(2, only(rank, after(9, kill(signal.SIGTERM)), merge(pair, tmp_path / "out")), said)
    assert [one.code for one in ended] == [128 + signal.SIGTERM] * 2, ended
    assert sentences(ended) == {"lmc-fast: terminated; with --resume the same command goes on from here"}
    assert not (tmp_path / "out").exists()
    merge_checkpoints(*pair, out=tmp_path / "out", spec=models.spec(), shard_size=900, resume=True)
    assert models.contents(tmp_path / "out") == whole


@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_of_one_rank_ends_all_and_is_gone_on_from(
    pair: tuple[Path, Path], whole: dict[str, bytes], tmp_path: Path, said: Path, rank: int
) -> None:
    ended = launched(2, only(rank, at_writing(fill_disk), merge(pair, tmp_path / "out")), said)
    assert [one.code for one in ended] == [2, 2], ended
    (sentence,) = sentences(ended)
    assert "No space left on device" in sentence
    merge_checkpoints(*pair, out=tmp_path / "out", spec=models.spec(), shard_size=900, resume=True)
    assert models.contents(tmp_path / "out") == whole


@pytest.mark.parametrize("name", ["1.up.weight", "embed.weight"])
def test_a_bad_tensor_of_one_rank_is_one_sentence_of_all_and_leaves_nothing(
    pair: tuple[Path, Path], tmp_path: Path, said: Path, name: str
) -> None:
    state = models.read_directory(pair[1])
    state[name][0, 0] = float("nan")
    bad = models.write_directory(tmp_path / "bad", state)
    ended = launched(2, merge((pair[0], bad), tmp_path / "out", "--spec", str(pair[0].parent / "spec.json")), said)
    assert [one.code for one in ended] == [2, 2], ended
    (sentence,) = sentences(ended)
    assert f"{name!r} holds nan or infinity" in sentence
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad", "said"]


@pytest.mark.slow
def test_a_rank_that_hears_nothing_is_ended_with_the_sentence_of_all(
    pair: tuple[Path, Path], tmp_path: Path, said: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An earlier command of this process was stopped, and said so.
    monkeypatch.setattr(_signals, "_told", True)

    def work(rank: int) -> object:
        if rank:
            plain, count = Ranks._heed, iter(range(10**9))
            # It waits for the other.
            Ranks._heed = lambda self: fill_disk() if next(count) == 150 else plain(self)  # type: ignore[method-assign]
        else:
            # As native code does that does not listen.
            after(5, lambda: ctypes.CDLL(None).sleep(60))()
            _signals.GRACE = 0.5
        return merge(pair, tmp_path / "out")(rank)

    ended = launched(2, work, said)
    assert [one.code for one in ended] == [2, 2], ended
    assert len(sentences(ended)) == 1


def test_a_fault_of_the_program_itself_ends_all(pair: tuple[Path, Path], tmp_path: Path, said: Path) -> None:
    def break_down() -> None:
        raise ZeroDivisionError("that should not be")

    ended = launched(2, only(1, after(9, break_down), merge(pair, tmp_path / "out")), said)
    assert [one.code for one in ended] == [1, 1], ended
    assert ended[1].err.splitlines()[-1] == "ZeroDivisionError: that should not be"
    assert ended[0].err.splitlines()[-1] == "RuntimeError: rank 1 failed: ZeroDivisionError: that should not be"


def test_ranks_that_are_told_different_things_say_so(pair: tuple[Path, Path], tmp_path: Path, said: Path) -> None:
    def work(rank: int) -> object:
        return merge(pair, tmp_path / "out", "--lambda", f"0.{rank + 2}")(rank)

    ended = launched(2, work, said)
    assert [one.code for one in ended] == [2, 2], ended
    (sentence,) = sentences(ended)
    assert "all ranks must have the same inputs and options" in sentence
    assert "'weights': [" in sentence
    assert sorted(path.name for path in tmp_path.iterdir()) == ["said"]


def test_a_rank_that_does_not_come_is_named(pair: tuple[Path, Path], tmp_path: Path, said: Path) -> None:
    def work(rank: int) -> object:
        ranks.ARRIVAL = 1.0
        return merge(pair, tmp_path / "out")(rank)

    ended = launched(3, work, said, absent=(1,))
    sentence = "lmc-fast: waited 1 s for rank 1 of 3 in vain: all ranks must make the same call"
    assert [one.err.splitlines() for one in ended] == [[sentence], [], [sentence]]
    assert [one.code for one in ended] == [2, 0, 2]
    ended = launched(2, work, said, absent=(0,))
    assert ended[1].err.splitlines()[-1].startswith("lmc-fast: waited 1 s for rank 0 of 2 at 127.0.0.1:")
    assert ended[1].code == 2


def test_a_group_that_was_begun_is_worked_in_and_left_as_it_was(
    pair: tuple[Path, Path], whole: dict[str, bytes], tmp_path: Path, said: Path
) -> None:
    def work(rank: int) -> None:
        for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            del os.environ[name]
        dist.init_process_group("gloo", init_method=f"file://{said}/meet", rank=rank, world_size=2)
        for name in ("first", "second"):
            found = merge_checkpoints(*pair, out=tmp_path / name, spec=models.spec(), shard_size=900)
            assert set(found.checksums) == set(whole) - {"SHA256SUMS"}
        with pytest.raises(FileExistsError, match="exists already"):
            merge_checkpoints(*pair, out=tmp_path / "first", spec=models.spec(), shard_size=900)
        total = torch.ones(1)
        dist.all_reduce(total)
        assert total.item() == 2
        dist.destroy_process_group()

    ended = launched(2, work, said)
    assert [one.code for one in ended] == [0, 0], ended
    assert models.contents(tmp_path / "first") == models.contents(tmp_path / "second") == whole


@pytest.mark.slow
def test_torchrun_runs_the_same_command(pair: tuple[Path, Path], whole: dict[str, bytes], tmp_path: Path) -> None:
    options = ["--shard-size", "900B", "--log", "json"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"),
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"),
            # It would take --log for its own otherwise.
            *("-m", "--", "lmc_fast", *words(pair, tmp_path / "out", *options)),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent.parent.parent,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote") == 1
    assert done.stderr.count('"event": "done"') == 1
    assert models.contents(tmp_path / "out") == whole

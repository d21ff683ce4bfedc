"""Runs that are cut off at any step: the output is absent or whole, and going on ends as an undisturbed run does."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmc_fast import _safetensors
from lmc_fast.large import merge_checkpoints
from lmc_fast.large.journal import Journal
from lmc_fast.large.staging import Staging

from .. import forked
from . import models

STEPS = 40


class Cut(BaseException):
    """The process is gone."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    a = models.weights(0)
    # With noise enough for some sweeps.
    b = models.planted(a, 1, noise=1.5)[0]
    return models.write_directory(folder / "A", a), models.write_directory(folder / "B", b, shards=3)


@pytest.fixture(scope="module")
def whole(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "out"
    run(pair, out)
    return models.contents(out)


def run(pair: tuple[Path, Path], out: Path, **options: Any) -> None:
    merge_checkpoints(*pair, out=out, spec=models.spec(), shard_size=900, **options)


@pytest.fixture
def cut_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Has the process end at a step of the journal, before or after it is on the disk."""

    def cut(step: int, after: bool, error: BaseException) -> None:
        plain, count = Journal.add, iter(range(10**9))

        def add(self: Journal, at: Any, found: Any) -> Any:
            is_last = next(count) == step
            if is_last and not after:
                raise error
            plain(self, at, found)
            if is_last:
                raise error
            return found

        monkeypatch.setattr(Journal, "add", add)

    yield cut
    monkeypatch.undo()


# Every other step; the rest of them, and all of the other kind, with --slow.
CUTS = [
    pytest.param(False, 0, id="before even ones"),
    pytest.param(True, 1, id="after odd ones", marks=pytest.mark.slow),
    pytest.param(True, 0, id="after even ones", marks=pytest.mark.slow),
    pytest.param(False, 1, id="before odd ones", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("after", "first"), CUTS)
def test_a_run_goes_on_from_any_step(
    pair: tuple[Path, Path],
    whole: dict[str, bytes],
    tmp_path: Path,
    cut_at: Any,
    after: bool,
    first: int,
    monkeypatch: Any,
) -> None:
    cut_off = 0
    for step in range(first, STEPS, 2):
        out = tmp_path / str(step)
        cut_at(step, after, Cut())
        try:
            run(pair, out)
        except Cut:
            cut_off += 1
            assert not out.exists()
            monkeypatch.undo()
            run(pair, out, resume=True)
        monkeypatch.undo()
        assert models.contents(out) == whole
        assert not list(tmp_path.glob(".*"))
    # Settled groups, sweeps and files of weights: all were among the steps, and the last ones were beyond the end.
    assert 10 < cut_off < STEPS // 2


def test_a_run_that_goes_on_does_nothing_again(
    pair: tuple[Path, Path], tmp_path: Path, cut_at: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_at(12, True, Cut())
    with pytest.raises(Cut):
        run(pair, tmp_path / "out")
    monkeypatch.undo()
    first = (tmp_path / ".out.lmc_fast" / "journal").read_bytes()
    added: list[Any] = []
    plain = Journal.add
    monkeypatch.setattr(Journal, "add", lambda self, at, found: added.append(list(at)) or plain(self, at, found))
    run(pair, tmp_path / "out", resume=True)
    done = [json.loads(line.partition(b" ")[2])["at"] for line in first.splitlines()]
    assert len(done) == 13
    assert [at for at in added if at in done] == []


def test_what_was_begun_is_not_thrown_away_unasked(pair: tuple[Path, Path], tmp_path: Path, cut_at: Any) -> None:
    cut_at(5, True, Cut())
    with pytest.raises(Cut):
        run(pair, tmp_path / "out")
    with pytest.raises(FileExistsError, match=r"was begun, in .* \(--resume\) goes on with it"):
        run(pair, tmp_path / "out")


def test_force_begins_anew(
    pair: tuple[Path, Path], whole: dict[str, bytes], tmp_path: Path, cut_at: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_at(5, True, Cut())
    with pytest.raises(Cut):
        run(pair, tmp_path / "out")
    monkeypatch.undo()
    run(pair, tmp_path / "out", force=True)
    assert models.contents(tmp_path / "out") == whole


def test_another_run_is_refused(pair: tuple[Path, Path], tmp_path: Path, cut_at: Any, monkeypatch: Any) -> None:
    cut_at(5, True, Cut())
    with pytest.raises(Cut):
        run(pair, tmp_path / "out")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="is of a run with other inputs or options"):
        run(pair, tmp_path / "out", resume=True, lam=0.3)
    # It is still there to go on with.
    run(pair, tmp_path / "out", resume=True)


def test_a_file_of_weights_that_was_lost_is_written_again(
    pair: tuple[Path, Path], whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(self: Staging, *, force: bool) -> None:
        raise Cut

    monkeypatch.setattr(Staging, "publish", gone)
    with pytest.raises(Cut):
        run(pair, tmp_path / "out")
    monkeypatch.undo()
    next((tmp_path / ".out.lmc_fast" / "out").glob("model-00002*")).unlink()
    run(pair, tmp_path / "out", resume=True)
    assert models.contents(tmp_path / "out") == whole


def test_a_full_disk_is_gone_on_from(
    pair: tuple[Path, Path], whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = iter(range(10**9))
    plain = _safetensors._bytes_of

    def full(tensor: Any) -> Any:
        if next(count) == 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(tensor)

    monkeypatch.setattr(_safetensors, "_bytes_of", full)
    with pytest.raises(OSError, match="No space left on device"):
        run(pair, tmp_path / "out")
    monkeypatch.undo()
    assert not (tmp_path / "out").exists()
    run(pair, tmp_path / "out", resume=True)
    assert models.contents(tmp_path / "out") == whole


def test_a_file_comes_to_be_whole_too(tmp_path: Path, cut_at: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    a = models.weights(0)
    save_file(a, tmp_path / "a.safetensors")
    save_file(models.planted(a, 1)[0], tmp_path / "b.safetensors")
    files = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    merge_checkpoints(*files, out=tmp_path / "whole.safetensors", spec=models.spec())
    cut_at(9, True, Cut())
    with pytest.raises(Cut):
        merge_checkpoints(*files, out=tmp_path / "out.safetensors", spec=models.spec())
    monkeypatch.undo()
    assert not (tmp_path / "out.safetensors").exists()
    merge_checkpoints(*files, out=tmp_path / "out.safetensors", spec=models.spec(), resume=True)
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def command(pair: tuple[Path, Path], out: Path, *more: str) -> list[str]:
    spec = str(pair[0].parent / "spec.json")
    options = ["--spec", spec, "--shard-size", "900B", "--log", "json", *more]
    return ["-m", "lmc_fast", "merge", *map(str, pair), "-o", str(out), *options]


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("number", "tries"),
    [(signal.SIGTERM, 2), pytest.param(signal.SIGKILL, 20, marks=pytest.mark.slow)],
    ids=["terminated", "killed at twenty moments"],
)
def test_a_process_that_is_ended_leaves_nothing_half_done(
    pair: tuple[Path, Path], whole: dict[str, bytes], tmp_path: Path, number: signal.Signals, tries: int
) -> None:
    models.spec().to_json(pair[0].parent / "spec.json")
    rng = random.Random(0)
    for attempt in range(tries):
        out = tmp_path / str(attempt)
        process = forked.start(command(pair, out), stderr=forked.PIPE, stdout=forked.PIPE)
        assert process.stderr is not None
        # It has begun; a moment after that.
        process.stderr.readline()
        time.sleep(rng.uniform(0, 0.4))
        process.send_signal(number)
        _, said = process.communicate()
        if process.returncode == 0 or (process.returncode == -number and out.exists()):
            # It had done its work; Python itself, on its way out, has no ears.
            assert models.contents(out) == whole
            continue
        assert process.returncode == (128 + number if number == signal.SIGTERM else -number)
        if number == signal.SIGTERM:
            assert said.splitlines()[-1].startswith("lmc-fast: terminated; with --resume the same command goes on")
        if out.exists():
            assert models.contents(out) == whole
            continue
        done = forked.run(command(pair, out, "--resume"))
        assert done.returncode == 0, done.stderr
        assert models.contents(out) == whole
        assert not list(tmp_path.glob(f".{attempt}.*"))

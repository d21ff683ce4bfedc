"""Work in processes side by side: the same results for any number, and nothing left behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lmc_fast.experiments.demo import run_demo, standard_cases
from lmc_fast.experiments.paper import run_paper
from lmc_fast.experiments.processes import _end, one_thread, side_by_side

from .. import forked
from .tasks import divided, scaled, written
from .test_paper import ONE, write_stripes


@pytest.mark.slow
def test_results_and_messages_are_the_same_for_any_number() -> None:
    common, tasks = torch.arange(5.0), [3, 1, 4, 1, 5]
    before = torch.get_num_threads()
    for processes in (1, 2):
        begun: list[int] = []
        said: dict[int, list[Any]] = {place: [] for place in range(len(tasks))}
        worked = side_by_side(
            scaled,
            common,
            tasks,
            processes=processes,
            begin=begun.append,
            hear=lambda place, message, said=said: said[place].append(message),  # type: ignore[misc]
        )
        found = dict(worked)
        assert begun == sorted(found) == list(range(len(tasks)))
        for place, (tensor, threads, _) in found.items():
            assert torch.equal(tensor, common * tasks[place]) and threads == 1
            assert said[place] == [f"{tasks[place]} begins", {"threads": 1}]
        workers = {pid for _, _, pid in found.values()}
        assert (workers == {os.getpid()}) == (processes == 1) and len(workers) <= processes
    assert torch.get_num_threads() == before and not common.is_shared()


def test_one_task_or_none_needs_no_process() -> None:
    assert [pid for _, (_, _, pid) in side_by_side(scaled, torch.ones(1), [2], processes=8)] == [os.getpid()]
    assert list(side_by_side(scaled, torch.ones(1), [], processes=8)) == []


def test_threads_are_put_back_after_an_error() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with pytest.raises(RuntimeError, match="inside"), one_thread():
            assert torch.get_num_threads() == 1
            raise RuntimeError("inside")
        assert torch.get_num_threads() == 3
        with pytest.raises(ZeroDivisionError):
            list(side_by_side(divided, None, [0]))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize(
    ("task", "error", "message"),
    [(0, ValueError, "task 0 is wrong"), (1, ChildProcessError, "ended before its work was done")],
    ids=["error", "killed"],
)
def test_what_goes_wrong_in_a_process_ends_the_others(
    tmp_path: Path, task: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        list(side_by_side(written, tmp_path, [9, task], processes=2))
    assert multiprocessing.active_children() == [] and list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_a_second_signal_does_not_break_into_what_the_first_has_begun() -> None:
    before = signal.signal(signal.SIGTERM, _end)
    try:
        with pytest.raises(SystemExit):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


STOPPED = """
import os, sys
from pathlib import Path
from lmc_fast.experiments.processes import side_by_side
from tests.experiments.tasks import written

if __name__ == "__main__":
    halves = []
    def hear(place, message):
        halves.append(place)
        if len(halves) == 2:
            print("both", flush=True)
    list(side_by_side(written, Path(sys.argv[1]), [8, 9], processes=2, hear=hear))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
@pytest.mark.parametrize("how", ["Ctrl-C", "killed"])
def test_processes_end_with_their_parent_and_leave_no_part_of_a_file(tmp_path: Path, how: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    script = tmp_path / "stopped.py"
    # It is ignored where the tests are a shell's background job.
    script.write_text(f"import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n{STOPPED}")
    root = Path(__file__).parents[2]
    parent = forked.start(
        [str(script), str(out)],
        stdout=forked.PIPE,
        stderr=forked.PIPE,
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])},
        start_new_session=True,
    )
    assert parent.stdout is not None and parent.stderr is not None
    with parent:
        assert parent.stdout.readline() == "both\n", parent.stderr.read()
        assert len(list(out.iterdir())) == 2
        if how == "killed":
            parent.kill()
        else:
            # As a terminal does it: to every process of the group.
            os.killpg(parent.pid, signal.SIGINT)
        # A pipe ends with the last process that holds it.
        said = parent.stderr.read()
    assert list(out.iterdir()) == []
    assert parent.returncode == (-signal.SIGKILL if how == "killed" else -signal.SIGINT)
    assert said.count("Traceback") == said.count("KeyboardInterrupt") == (how == "Ctrl-C"), said


def same(one: Any, other: Any) -> bool:
    """All but times."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one if "seconds" not in k)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def contents(folder: Path, of: str) -> dict[str, Any]:
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob(of)}


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take longer to draw than all else here."""
    monkeypatch.setattr("lmc_fast.experiments.paper.writing.save_figure", lambda figure, folder, name: "<svg ></svg>")
    for name in ("_draw", "_draw_alignment"):
        monkeypatch.setattr(f"lmc_fast.experiments.demo.{name}", lambda *_: None)


@pytest.mark.slow
def test_the_paper_has_the_same_numbers_from_two_processes(tmp_path: Path, undrawn: None) -> None:
    data = write_stripes(tmp_path / "stripes.npz")
    works: list[str] = []
    notes: list[str] = []

    class Watched:
        def __init__(self, *_: object) -> None:
            pass

        def __enter__(self) -> Callable[[str], Callable[[str, int, int], None]]:
            return lambda work: lambda description, done, total: works.append(work)

        def __exit__(self, *_: object) -> None:
            pass

    for processes in (1, 2):
        folder = tmp_path / f"out{processes}"
        cache = tmp_path / f"models{processes}"
        run_paper(folder, ONE, data=data, cache=cache, processes=processes, watch=Watched, say=notes.append)
        assert {"train seed 0", "train seed 1", "match by ste"} <= set(works)
        works.clear()
        if processes == 1:
            # A damaged entry of the cache is told of by the process that finds it.
            (tmp_path / "models2").mkdir()
            entry = next(cache.iterdir())
            (tmp_path / "models2" / entry.name).write_bytes(entry.read_bytes()[:-10])
    assert notes and all("is damaged, and trained again" in note for note in notes)
    first, second = (contents(tmp_path / f"out{processes}", "stages/*.json") for processes in (1, 2))
    assert len(first) > 3 and same(first, second)


@pytest.mark.slow
def test_the_demo_trains_the_same_models_in_two_processes(tmp_path: Path, undrawn: None) -> None:
    steps: list[tuple[str, str, int, int]] = []

    def stage(case: str, work: str) -> Callable[[str, int, int], None]:
        return lambda description, done, total: steps.append((case, work, done, total))

    cases = standard_cases(quick=True)[:1]
    for processes in (1, 2):
        run_demo(
            tmp_path / f"out{processes}",
            cases=cases,
            models=2,
            lambdas=3,
            methods=["wm"],
            processes=processes,
            stage=stage,
        )
    first, second = (contents(tmp_path / f"out{processes}", "results.json") for processes in (1, 2))
    assert same(first, second) and first["results.json"]["threads"] == torch.get_num_threads()
    assert ("mlp", "train seed 1", 3, 3) in steps and ("mlp", "train 2 models", 6, 6) in steps

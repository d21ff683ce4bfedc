"""`scripts` with a clone that is made here: its rows, its table on the page, and what it says of a clone that fails."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import script_sides, scripts
from benchmarks.run import main

ROOT = Path(__file__).parent.parent.parent

# As a repository of research code has it: with a logger that is not installed, and printing every step.
CLONE = """
import no_such_logger.writers as writers
from no_such_logger import Handler, PATHS
from lmc_fast.compat import git_re_basin_pytorch as ours

writers.register(Handler(PATHS / "log"))


class Callback(writers.Callback):
    pass


def mlp_permutation_spec(count):
    return ours.mlp_permutation_spec(count)


def weight_matching(ps, a, b):
    print("a step")
    return {p: index.flip(0) for p, index in ours.weight_matching(ps, a, b).items()}


apply_permutation = ours.apply_permutation
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "clone" / "utils"
    folder.mkdir(parents=True)
    (folder / "weight_matching.py").write_text(CLONE)
    return folder.parent


@pytest.fixture(autouse=True)
def modules_as_they_were(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sides run in this process here, and a clone's changes where modules come from."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("utils", "no_such_logger"):
            del sys.modules[name]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(make: Any, data: Any, *, seed: int, **_: Any) -> Any:
        torch.manual_seed(seed)
        return make().eval()

    monkeypatch.setattr(scripts, "train", train)


def rows_in(folder: Path) -> list[dict[str, str]]:
    with (folder / "scripts.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_both_sides_are_told(
    tmp_path: Path, clone: Path, quick: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{scripts.BEGIN}\nold\n{scripts.END}\nafter\n")
    monkeypatch.setattr(scripts, "start", lambda command: script_sides.main(command[3:]))
    options = ["--pairs", "1", "--width", "16", "--out", str(tmp_path), "--page", str(page)]
    only = ["--only", "git-re-basin-pytorch", "C2M3", "--clone", f"git-re-basin-pytorch={clone}"]
    assert main(["scripts", *options, *only]) == 0
    port, c2m3 = rows_in(tmp_path)
    assert port["status"] == "ok" and c2m3["status"] == "not there" and c2m3["their_seconds"] == ""
    assert float(port["objective"]) > float(port["their_objective"])
    assert float(port["ratio"]) == pytest.approx(float(port["their_seconds"]) / float(port["seconds"]), rel=1e-4)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert scripts.markdown([port, c2m3]) in text and "`utils.weight_matching`" in text and ", not there |" in text
    capsys.readouterr()


def test_a_clone_that_does_not_run_is_told(
    tmp_path: Path, clone: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clone / "utils" / "weight_matching.py").write_text("raise ValueError('needs a newer torch')\n")
    monkeypatch.setattr(scripts, "start", lambda command: script_sides.main(command[3:]))
    only = ["--only", "git-re-basin-pytorch", "--clone", f"git-re-basin-pytorch={clone}"]
    assert main(["scripts", "--pairs", "1", "--width", "16", "--out", str(tmp_path), *only]) == 0
    (row,) = rows_in(tmp_path)
    assert row["status"] == "theirs does not run: ValueError: needs a newer torch"


def test_each_side_has_a_process_and_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **options: given.append((command, options)))
    scripts.start(["python", "-m", "benchmarks.script_sides"])
    ((command, options),) = given
    assert command[2] == "benchmarks.script_sides" and options["check"] and options["env"]["OMP_NUM_THREADS"] == "1"


def test_names_and_pages_that_are_not_there_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scripts", "--clone", "elsewhere=/"]) == 2
    assert "--clone must be NAME=PATH of a folder, NAME one of C2M3, " in capsys.readouterr().err
    page = tmp_path / "page.md"
    page.write_text("no table\n")
    with pytest.raises(ValueError, match="--page must have a line"):
        scripts.put_table(page, [])


@pytest.mark.parametrize("name", script_sides.SCRIPTS)
def test_every_script_runs_with_our_import_line(name: str, tmp_path: Path) -> None:
    states = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        states.append(script_sides.named(script_sides.build(8).state_dict()))
    pair, result = tmp_path / "pair.pt", tmp_path / "result.pt"
    torch.save({"a": states[0], "b": states[1], "width": 8}, pair)
    script_sides.main([name, str(pair), str(result)])
    told = torch.load(result, weights_only=True)
    assert told["seconds"] > 0 and list(told["moved"]) == list(states[1])
    a, b = (torch.cat([w.flatten() for w in state.values()]) for state in states)
    moved = torch.cat([w.flatten() for w in told["moved"].values()])
    assert torch.equal(moved.sort().values, b.sort().values)
    assert a @ moved > a @ b


def test_the_page_shows_the_rows_that_are_kept() -> None:
    page = (ROOT / "docs" / "use" / "scripts.md").read_text(encoding="utf-8")
    assert scripts.markdown(rows_in(ROOT / "benchmarks" / "results")) in page

"""Configurations are measured once, kept on disk and found again; what is wrong there is survived."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: pip install 'lmc_fast[triton]'")

from triton.runtime.errors import OutOfResources

from lmc_fast import _backend
from lmc_fast.ops import tuning

from .. import forked

CPU = torch.device("cpu")
CONFIGS = [(1, 2), (3, 4), (5, 6)]
TIMES = {(1, 2): 3.0, (3, 4): 1.0, (5, 6): 2.0}
PROBLEM: dict[str, object] = {"dtype": torch.bfloat16, "units": 64}


class Card:
    """A card that needs so long for each configuration, and its clock; what it measured is in `measured`."""

    def __init__(self, times: dict[tuple[int, int], float | Exception]) -> None:
        self.times = times
        self.measured: list[tuple[int, int]] = []

    def prepare(self, config: tuple[int, int]) -> Callable[[], object]:
        return lambda: self.measured.append(config)

    def timer(self, launch: Callable[[], object]) -> float:
        launch()
        time = self.times[self.measured[-1]]
        if isinstance(time, Exception):
            raise time
        return time

    def choose(self, problem: dict[str, object] = PROBLEM, kernel: str = "kernel") -> tuple[int, int]:
        return tuning.tuned(kernel, problem, CONFIGS, self.prepare, CPU, timer=self.timer)


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Tuning is on, with nothing known, on disk or in memory."""
    monkeypatch.setenv("LMC_FAST_AUTOTUNE", "1")
    monkeypatch.setenv("LMC_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tuning, "interpreted", lambda: False)
    monkeypatch.setattr(_backend, "_told", set())
    forget(monkeypatch)
    return tmp_path / "cache"


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process."""
    monkeypatch.setattr(tuning, "_chosen", {})


def kept_in(folder: Path) -> Path:
    (path,) = files_in(folder)
    return path


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_fastest_is_chosen_and_found_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(TIMES)
    assert card.choose() == (3, 4) and card.measured == CONFIGS
    assert card.choose() == (3, 4) and card.measured == CONFIGS
    forget(monkeypatch)
    later = Card(dict.fromkeys(CONFIGS, 0.0))
    assert later.choose() == (3, 4) and later.measured == []
    path = kept_in(folder)
    assert path.name == "kernel-dtype-bfloat16-units-64.json"
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert kept["config"] == [3, 4] and kept["times"] == [[list(config), TIMES[config]] for config in CONFIGS]


@pytest.mark.parametrize("case", ["unasked", "in the interpreter"])
def test_nothing_is_measured_or_read_unasked(case: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Card(TIMES).choose()
    if case == "unasked":
        monkeypatch.delenv("LMC_FAST_AUTOTUNE")
    else:
        monkeypatch.setattr(tuning, "interpreted", lambda: True)
    card = Card(TIMES)
    assert card.choose() == CONFIGS[0] and card.choose({"units": 1}) == CONFIGS[0]
    assert card.measured == [] and kept_in(folder).exists()


def test_of_equally_fast_ones_the_default_is_kept() -> None:
    assert Card(dict.fromkeys(CONFIGS, 1.0)).choose() == CONFIGS[0]


@pytest.mark.parametrize("other", ["problem", "kernel", "card", "triton", "format"])
def test_another_problem_or_card_is_measured_by_itself(
    other: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Card(TIMES).choose()
    card = Card({(1, 2): 1.0, (3, 4): 2.0, (5, 6): 3.0})
    if other == "problem":
        assert card.choose({**PROBLEM, "units": 128}) == (1, 2)
    elif other == "kernel":
        assert card.choose(kernel="another") == (1, 2)
    elif other == "format":
        monkeypatch.setattr(tuning, "FORMAT", "0")
        with pytest.warns(RuntimeWarning, match="holds no choice"):
            assert card.choose() == (1, 2)
    elif other == "triton":
        monkeypatch.setattr(tuning.triton, "__version__", "0.1")
        assert card.choose() == (1, 2)
    else:
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some Card / 80GB")
        device = torch.device("cuda")
        assert tuning.tuned("kernel", PROBLEM, CONFIGS, card.prepare, device, timer=card.timer) == (1, 2)
        assert any(path.name.startswith("Some-Card-80GB-triton-") for path in (folder / "kernels").iterdir())
    assert card.measured == CONFIGS


def test_what_does_not_compile_or_start_is_passed_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = OutOfResources(300000, 232448, "shared memory")
    assert Card({(1, 2): 3.0, (3, 4): shared, (5, 6): 2.0}).choose() == (5, 6)
    assert json.loads(kept_in(folder).read_text(encoding="utf-8"))["times"] == [[[1, 2], 3.0], [[5, 6], 2.0]]
    # Nothing can be said of the default either: the launch proper will tell.
    wrong = RuntimeError("Triton Error [CUDA]: invalid argument")
    card = Card(dict.fromkeys(CONFIGS, wrong))
    assert card.choose(kernel="none") == CONFIGS[0] and card.choose(kernel="none") == CONFIGS[0]
    assert card.measured == CONFIGS and len(files_in(folder)) == 1
    with pytest.raises(ZeroDivisionError):
        Card(dict.fromkeys(CONFIGS, ZeroDivisionError())).choose(kernel="broken")


BAD = {
    "empty": b"",
    "half": b'{"key": {"format"',
    "no text": b"\xff\xfe\x00",
    "another's": b'{"key": {"card": "another"}, "config": [3, 4]}',
    "no object": b"[1, 2]",
    "no list": None,
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_told_once_and_replaced(
    content: bytes | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Card(TIMES).choose()
    path = kept_in(folder)
    if content is None:
        kept = json.loads(path.read_text(encoding="utf-8"))
        content = json.dumps({**kept, "config": "fast"}).encode()
    path.write_bytes(content)
    forget(monkeypatch)
    card = Card(TIMES)
    with pytest.warns(RuntimeWarning, match="is not used: it") as told:
        assert card.choose() == (3, 4)
    assert len(told) == 1 and str(path) in str(told[0].message) and card.measured == CONFIGS
    path.write_bytes(content)
    forget(monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert card.choose() == (3, 4)
        forget(monkeypatch)
        assert Card({}).choose() == (3, 4)


def test_a_choice_that_is_no_longer_listed_is_measured_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Card(TIMES).choose()
    path = kept_in(folder)
    kept = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**kept, "config": [7, 8]}), encoding="utf-8")
    forget(monkeypatch)
    card = Card(TIMES)
    assert card.choose() == (3, 4) and card.measured == CONFIGS


@pytest.mark.parametrize("where", ["no folder", "a folder for the file", "no home"])
def test_without_a_place_to_keep_it_a_choice_holds_for_the_process(
    where: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "no folder":
        folder.write_text("a file", encoding="utf-8")
    elif where == "no home":
        monkeypatch.setattr(tuning, "cache_folder", lambda: None)
    else:
        Card(TIMES).choose()
        path = kept_in(folder)
        path.unlink()
        path.mkdir()
        forget(monkeypatch)
    card = Card(TIMES)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            assert card.choose() == (3, 4)
        assert card.choose({"units": 1}) == (3, 4)
    assert card.measured == CONFIGS * 2
    assert len(told) == {"no folder": 1, "a folder for the file": 2, "no home": 0}[where]
    assert all("not kept in" in str(one.message) or "is not used" in str(one.message) for one in told)
    assert [path for path in files_in(folder) if path.suffix != ".json"] == []


WRITER = """
import warnings
from lmc_fast.ops import tuning

warnings.simplefilter("error")
tuning.interpreted = lambda: False
device = tuning.torch.device("cpu")
for turn in range(200):
    for problem in ({"units": 64}, {"units": turn}):
        tuning._chosen.clear()
        times = iter([2.0, 1.0, 3.0])
        found = tuning.tuned(
            "kernel", problem, [(1, 2), (3, 4), (5, 6)], lambda config: print, device, timer=lambda launch: next(times)
        )
        assert found in ((3, 4), (5, 6))
        if turn % 4 == 0:
            for path in tuning.cache_folder().rglob("kernel-units-64.json"):
                path.unlink(missing_ok=True)
"""


def test_processes_side_by_side_read_and_write_whole_choices(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two write the same file over and over: a half one, or a lost one of their own, would be told."""
    turns = 0
    with forked.start(["-c", WRITER], stderr=forked.PIPE) as writer:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            while writer.poll() is None:
                forget(monkeypatch)
                assert Card({(1, 2): 2.0, (3, 4): 3.0, (5, 6): 1.0}).choose({"units": 64}) in CONFIGS[1:]
                if turns % 3 == 0:
                    for path in folder.rglob("kernel-units-64.json"):
                        path.unlink(missing_ok=True)
                turns += 1
        assert writer.stderr is not None and writer.stderr.read() == "" and writer.returncode == 0
    found_files = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in files_in(folder)}
    assert {f"kernel-units-{turn}.json" for turn in range(200) if turn != 64} <= found_files.keys()
    assert all(name == "kernel-units-64.json" or kept["config"] == [3, 4] for name, kept in found_files.items())


@pytest.mark.parametrize(("size", "expected"), [(0, 0), (1, 1), (2, 2), (3, 2), (63, 32), (64, 64), (1000, 512)])
def test_sizes_share_the_class_of_the_power_of_two_below(size: int, expected: int) -> None:
    assert tuning.size_class(size) == expected

"""`peers`: rows of what is here, and the word "not installed" for what is not; adapters over stand-ins for packages."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import lmc_fast as lmc
from benchmarks import peer_matchers, peers
from benchmarks.pairs import Pair, PairStore
from benchmarks.peer_matchers import PEERS, axes_of
from benchmarks.run import main
from benchmarks.solvers import OURS, Unavailable

from .. import forked


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return PairStore(None, tmp_path_factory.mktemp("cache"), lambda text: None, 40).get("mlp-16")


@pytest.fixture(autouse=True)
def modules() -> Iterator[None]:
    """Whatever is imported from a clone goes again."""
    before, path, finders = dict(sys.modules), list(sys.path), list(sys.meta_path)
    yield
    for name in set(sys.modules) - set(before):
        is_mock = isinstance(sys.modules[name], peer_matchers._StandIn)
        if is_mock or name.partition(".")[0] in ("utils", "ccmm", "rebasin"):
            del sys.modules[name]
    sys.path[:], sys.meta_path[:] = path, finders


def _one(capsys: pytest.CaptureFixture[str], what: str, problem: str, name: str, *options: str) -> dict[str, Any]:
    known = ["--steps", "40", "--seconds", "0", *options]
    assert main(["peers", *known, "--one", what, problem, name]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return answer


@pytest.mark.slow
def test_a_row_comes_from_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", forked.stand_in)
    options = ["--matchers", "--solvers", "--families", "planted", "--note", "busy", "--site", str(tmp_path)]
    folders = ["--out", str(tmp_path), "--cache", str(tmp_path)]
    assert main(["peers", "--quick", "--models", *options, *folders]) == 0
    with (tmp_path / "peers.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["peer"], row["status"], row["problem"], row["note"]) == (OURS, "ok", "planted 64", "busy")
    assert float(row["processor_ms"]) > 0 and float(row["relative_error"]) <= 1e-9


def test_what_processes_say_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of every pair and matrix ours first, whatever was asked for; what failed or took too long is a row."""
    asked: list[list[str]] = []

    def answer(command: list[str], *, env: dict[str, str], **options: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command[command.index("--one") + 1 :][:3])
        assert env["PYTHONPATH"].endswith(str(tmp_path)) and "c2m3=there" in command and "data.npz" in command
        if asked[-1][2] == "scipy":
            raise subprocess.TimeoutExpired(command, options["timeout"])
        if asked[-1][2] == "rebasin":
            return subprocess.CompletedProcess(command, 1, "", "Traceback\nno layer")
        return subprocess.CompletedProcess(command, 0, 'talk\n{"status": "ok", "ratio": 1.0}', "")

    monkeypatch.setenv("LMC_FAST_COMMIT", "some")
    monkeypatch.setattr(subprocess, "run", answer)
    monkeypatch.setattr(peers, "_store", lambda arguments: _Store(None))
    chosen = ["--matchers", "rebasin", "--solvers", "scipy", "--families", "planted", "--clone", "c2m3=there"]
    files = ["--site", str(tmp_path), "--data", "data.npz", "--out", str(tmp_path)]
    assert main(["peers", "--quick", "--limit", "3", *chosen, *files]) == 0
    assert asked == [
        ["matcher", "mlp-16", OURS],
        ["matcher", "mlp-16", "rebasin"],
        ["solver", "planted 64", OURS],
        ["solver", "planted 64", "scipy"],
    ]
    said = capsys.readouterr().out
    assert "mlp-16, rebasin: failed: no layer" in said and "planted 64, scipy: stopped after 3 s" in said


def test_a_matcher_that_is_here_is_judged(pair: Pair, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(peers, "_store", lambda arguments: _Store(pair))
    ours, loop = (_one(capsys, "matcher", "mlp-16", name) for name in (OURS, "textbook loop"))
    assert ours["status"] == loop["status"] == "ok"
    for row in (ours, loop):
        assert row["processor_ms"] > 0 and row["ratio"] > 0 and row["barrier"] >= 0 and row["output_change"] < 1e-5
    assert abs(loop["objective"] / ours["objective"] - 1) < 0.2


class _Store:
    def __init__(self, pair: Pair | None) -> None:
        self._pair = pair

    def get(self, name: str) -> Pair | None:
        return self._pair


@pytest.mark.parametrize(
    "name", [name for name, known in PEERS.items() if known.clone or known.distribution in ("lapjv", "rebasin")]
)
def test_what_is_absent_is_told_so_and_not_guessed(
    name: str, pair: Pair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "_store", lambda arguments: _Store(pair))
    for module in ("lapjv", "rebasin"):
        monkeypatch.setitem(sys.modules, module, None)
    found = _one(capsys, "matcher", "mlp-16", name)
    if name == "rebasin":
        # Imported by the call itself.
        assert found == {"status": found["status"]} and "rebasin" in found["status"]
    else:
        assert found == {"status": found["status"]} and found["status"].startswith("not installed")


def test_a_solver_that_is_absent_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lapjv", None)
    assert _one(capsys, "solver", "planted 16", "lapjv")["status"].startswith("not installed: import of lapjv")
    with pytest.raises(Unavailable, match="no folder"):
        PEERS["sinkhorn-rebasin, 50 steps"](None, Path("nowhere"))  # type: ignore[arg-type]


def test_wrong_answers_get_no_time(pair: Pair, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    permuted = dict(pair.b.state_dict())
    first = next(iter(permuted))
    permuted[first] = permuted[first].flip(0)
    row = peers.judged(pair, permuted, None)
    assert row["status"].startswith("wrong: outputs change") and "objective" not in row
    monkeypatch.setattr(peers, "_store", lambda arguments: _Store(pair))
    monkeypatch.setitem(PEERS, "rebasin", peer_matchers.Peer("rebasin", "rebasin", "", lambda *parts: lambda: permuted))
    row = _one(capsys, "matcher", "mlp-16", "rebasin")
    assert row["status"].startswith("wrong: outputs change") and not {"processor_ms", "ratio"} & set(row)
    monkeypatch.setattr(peers, "relative_error", lambda *parts: 0.5)
    row = _one(capsys, "solver", "planted 16", OURS)
    assert row["status"] == "wrong: relative error 0.5" and "processor_ms" not in row


def test_a_peer_that_raises_is_a_row_and_ours_is_not(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise RuntimeError("no such layer\nat all")

    monkeypatch.setattr(peers, "_store", lambda arguments: _Store(pair))
    for name in ("textbook loop", OURS):
        broken = peer_matchers.Peer(name, "scipy", "", lambda pair, clone: fails)
        monkeypatch.setitem(PEERS, name, broken)
        if name == OURS:
            with pytest.raises(RuntimeError, match="no such layer"):
                _one(capsys, "matcher", "mlp-16", name)
        else:
            assert _one(capsys, "matcher", "mlp-16", name) == {"status": "failed: RuntimeError: no such layer"}


def test_what_takes_long_is_called_once(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = {"long": 4.0, "short": 0.25, "ours": 0.5}
    monkeypatch.setattr(peers, "_timed", lambda call: spent[call()])
    assert peers.measured(lambda: "long", lambda: "ours", 2.0) == {"processor_ms": 4000.0, "calls": 1, "ratio": 8.0}
    assert peers.measured(lambda: "short", lambda: "ours", 1.0) == {"processor_ms": 250.0, "calls": 4, "ratio": 0.5}


PORT = """
def permutation_spec_from_axes_to_perm(axes):
    return axes

def weight_matching(axes, a, b):
    print("talks")
    import torch
    sizes = {p: a[k].shape[i] for k, ps in axes.items() for i, p in enumerate(ps) if p is not None}
    return {p: torch.arange(n).flip(0).float() for p, n in sizes.items()}
"""

C2M3 = """
import logging
import hydra
import pytorch_lightning as pl
from backports.strenum import StrEnum
from enum import auto
from omegaconf import ListConfig, OmegaConf
from scipy.misc import derivative
from tqdm import tqdm
from wandb import Run
import torch

class Order(StrEnum):
    RANDOM = auto()

class Module(pl.LightningModule):
    def told(self, run: Run = None, many: "list[ListConfig]" = ()):
        return Run(1)

OmegaConf.register_new_resolver("path", str)
assert Order.RANDOM.value == "random" and Module().told() is not None and hydra.utils.get() is not None
assert str(hydra.PROJECT_ROOT / "conf") and not hasattr(hydra, "__wrapped__")

def _device(device="cuda"):
    return device

def frank_wolfe_weight_matching(spec, fixed, permutee, start, num_trials, device):
    assert _device() == "cpu" == device and list(tqdm([1])) == [1]
    return {
        p: torch.arange(fixed[axes[0][0]].shape[axes[0][1]]) for p, axes in spec.perm_to_layers_and_axes.items()
    }, None
"""

SINKHORN = """
import torch

class RebasinNet(torch.nn.Module):
    def __init__(self, model, input_shape):
        super().__init__()
        assert len(input_shape) == 4
        self.model, self.p = model, torch.nn.ParameterList([torch.nn.Parameter(torch.eye(2))])

    def identity_init(self):
        self.begun = True

    def forward(self):
        return self.model if not self.training else self.p[0]
"""


def test_a_clone_is_called_as_it_asks(pair: Pair, tmp_path: Path) -> None:
    """Over small modules that have the names and signatures that its own has."""
    (tmp_path / "port" / "utils").mkdir(parents=True)
    (tmp_path / "port" / "utils" / "weight_matching.py").write_text(PORT)
    (tmp_path / "c2m3" / "src" / "ccmm" / "matching").mkdir(parents=True)
    matching = tmp_path / "c2m3" / "src" / "ccmm" / "matching"
    (matching / "frank_wolfe_matching.py").write_text(C2M3)
    (matching / "permutation_spec.py").write_text(
        "import typing\nclass PermutationSpec(typing.NamedTuple):\n"
        "    perm_to_layers_and_axes: dict\n    layer_and_axes_to_perm: dict\n"
    )
    (tmp_path / "sinkhorn" / "rebasin").mkdir(parents=True)
    (tmp_path / "sinkhorn" / "rebasin" / "__init__.py").write_text(SINKHORN)
    (tmp_path / "sinkhorn" / "rebasin" / "loss.py").write_text(
        "class DistL2Loss:\n    def __init__(self, model):\n        pass\n"
        "    def __call__(self, found):\n        return found.sum()\n"
    )
    state = pair.b.state_dict()
    expected = {
        "git-re-basin, PyTorch port": False,
        "C2M3's Frank-Wolfe search": True,
        "sinkhorn-rebasin, 50 steps": True,
    }
    folders = dict(zip(expected, ("port", "c2m3", "sinkhorn"), strict=True))
    for name, same in expected.items():
        sys.modules.pop("rebasin", None)
        found = PEERS[name](pair, tmp_path / folders[name])()
        assert all(torch.equal(found[key], state[key]) for key in state) == same
        assert peers.judged(pair, found, None)["status"] == "ok"
        assert PEERS[name].version(tmp_path / folders[name]) == ""
        (tmp_path / folders[name] / ".git").mkdir()
        # No clone for all that.
        assert PEERS[name].version(tmp_path / folders[name]) == ""
    assert PEERS[OURS].version(None) and PEERS["textbook loop"].version(None)


def test_specs_of_whole_axes_alone_are_told_to_others(pair: Pair) -> None:
    axes = axes_of(pair)
    groups = {group for entries in axes.values() for group in entries if group}
    assert groups == set(pair.spec.groups) and all(len(axes[k]) == pair.b.state_dict()[k].ndim for k in axes)
    spec = lmc.PermutationSpec.from_axes({"w": (lmc.Segment("p", inner=2), None)}, [lmc.Group("p", 3)])
    model = torch.nn.ParameterDict({"w": torch.zeros(6, 2)})
    split = Pair("split", model, pair.b, spec, pair.inputs)
    with pytest.raises(Unavailable, match="does not take split: w is permuted by parts of an axis"):
        axes_of(split)


def test_a_clone_is_named_by_a_known_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["peers", "--clone", "other=/tmp"]) == 2
    assert "--clone must be NAME=PATH with a name of ['c2m3'" in capsys.readouterr().err

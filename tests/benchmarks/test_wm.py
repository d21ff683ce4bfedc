"""The textbook loop is right, contenders take turns, and `wm` gives no time without a permutation that is right."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from benchmarks import models, pairs, textbook, wm
from benchmarks.matchers import CONTENDERS, IDENTITY, TEXTBOOK, Contender, Found, Match
from benchmarks.pairs import Pair, PairStore
from benchmarks.report import COLUMNS
from benchmarks.run import main
from benchmarks.solvers import OURS
from benchmarks.textbook import objective_of, textbook_matching
from benchmarks.wm import compare
from lmc_fast import architectures

MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], lmc.PermutationSpec]]] = {
    "mlp": (lambda: models.small_mlp((9, 8, 7)), architectures.mlp),
    "conv-flatten-linear": (models.ConvNet, architectures.vgg),
    "resnet": (models.small_resnet, architectures.resnet),
    "concat": (models.Concat, lambda m: models.Concat.spec().bind(m)),
    "depthwise": (models.DepthwiseNet, lambda m: models.DepthwiseNet.spec().bind(m)),
}


def states(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor], lmc.PermutationSpec]:
    build, spec = MODELS[name]
    a, b = (models.randomise(build(), seed=seed) for seed in (1, 2))
    return a.state_dict(), b.state_dict(), spec(a)


@pytest.mark.parametrize("name", MODELS)
def test_the_textbook_loop_ends_where_no_exchange_gains(name: str) -> None:
    a, b, spec = states(name)
    found = textbook_matching(a, b, spec)
    best = objective_of(a, b, spec, found.choices)
    start = objective_of(a, b, spec, lmc.Permutations.identity(spec).choices)
    assert found.converged and found.sweeps > 1 and best > start
    for group, choice in found.choices.items():
        for i, j in itertools.combinations(range(len(choice)), 2):
            swapped = choice.copy()
            swapped[[i, j]] = choice[[j, i]]
            assert objective_of(a, b, spec, {**found.choices, group: swapped}) <= best + 1e-5 * abs(best)


@pytest.mark.parametrize("name", MODELS)
def test_it_tells_the_matchers_objective_without_its_code(name: str) -> None:
    a, b, spec = states(name)
    match = lmc.weight_matching(a, b, spec)
    assert objective_of(a, b, spec, match.permutations.choices) == pytest.approx(match.objective, rel=1e-9)
    # From the truth nothing is to be gained; elsewhere the matcher's optimum is one of the loop's as well.
    permuted = match.apply(b)
    again = textbook_matching(a, permuted, spec)
    identity = lmc.Permutations.identity(spec).choices
    assert objective_of(a, permuted, spec, again.choices) <= objective_of(a, permuted, spec, identity) * (1 + 1e-6)


def test_a_warm_start_changes_no_answer() -> None:
    try:
        textbook.recentred()
    except ImportError as error:
        assert "lapjv" in str(error)
        return
    for seed in range(3):
        a, b, spec = states("mlp")
        cold, warm = (
            textbook_matching(a, b, spec, seed=seed, solver=solver) for solver in (textbook.cold, textbook.recentred)
        )
        assert all(np.array_equal(warm.choices[name], cold.choices[name]) for name in cold.choices)
        assert warm.sweeps == cold.sweeps
    assign, rng = textbook.recentred(), np.random.default_rng(0)
    gain = rng.standard_normal((40, 40), np.float32)
    for _ in range(5):
        gain += 0.1 * rng.standard_normal((40, 40), np.float32)
        assert (assign(gain) == textbook.cold()(gain)).all()


def test_the_order_of_visits_comes_from_the_seed() -> None:
    a, b = (models.randomise(models.small_mlp((30,) * 4), seed=seed).state_dict() for seed in (1, 2))
    spec = architectures.mlp(a)
    objectives = {objective_of(a, b, spec, textbook_matching(a, b, spec, seed=seed).choices) for seed in range(5)}
    assert len(objectives) > 1


def test_the_loop_stops_at_its_limits() -> None:
    a, b, spec = states("mlp")
    assert textbook_matching(a, b, spec, max_sweeps=1).sweeps == 1
    stopped = textbook_matching(a, b, spec, limit=0.0)
    assert (stopped.sweeps, stopped.converged) == (0, False)
    with pytest.raises(ValueError, match="no owned groups"):
        textbook_matching({}, {}, models.Attention.spec())


@pytest.fixture
def pair() -> Pair:
    a, b = (models.randomise(models.small_mlp((20, 20)), seed=seed) for seed in (1, 2))
    return Pair("mlp-20", a, b, architectures.mlp(a), torch.randn(8, 4))


def run(pair: Pair, *names: str, **options: Any) -> dict[str, dict[str, Any]]:
    return compare(pair, [IDENTITY, *names], **{"orders": 3, "seconds": 0.01, "limit": 30.0, **options})


def test_rows_hold_what_was_found(pair: Pair) -> None:
    rows = run(pair, OURS, TEXTBOOK)
    a, b = pair.a.state_dict(), pair.b.state_dict()
    for name, init in ((IDENTITY, "identity"), (OURS, "anchored")):
        matches = [lmc.weight_matching(a, b, pair.spec, init=init, seed=seed) for seed in range(3)]
        objectives = [match.objective for match in matches]
        row = rows[name]
        assert row["status"] == "ok" and row["orders"] == 3 and row["calls"] >= 3
        assert row["objective"] == pytest.approx(np.mean(objectives))
        assert (row["objective_min"], row["objective_max"]) == pytest.approx((min(objectives), max(objectives)))
        assert row["l2_after"] ** 2 == pytest.approx(np.mean([match.l2_after**2 for match in matches]))
        assert row["output_change"] < 1e-5
        assert row["p20_ms"] <= row["p50_ms"] <= row["p80_ms"]
    assert rows[IDENTITY]["ratio"] == 1 and rows[TEXTBOOK]["sweeps"] > 1
    assert rows[TEXTBOOK]["ratio"] == rows[IDENTITY]["p50_ms"] / rows[TEXTBOOK]["p50_ms"]
    (line,) = wm.summary(list(rows.values()))
    assert line["times_faster"] == rows[TEXTBOOK]["p50_ms"] / rows[IDENTITY]["p50_ms"]
    assert line["default_obj"] == f"{rows[OURS]['objective']:.6g}" and line["note"] == ""


def test_no_time_without_a_right_permutation(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def scrambled(pair: Pair, limit: float) -> Match:
        state = {name: tensor.flip(0) for name, tensor in pair.b.state_dict().items()}
        return lambda seed: Found(lambda: state)

    def broken(pair: Pair, limit: float) -> Match:
        def match(seed: int) -> Found:
            raise RuntimeError("no such layer\nand more")

        return match

    def absent(pair: Pair, limit: float) -> Match:
        raise ImportError("No module named 'nowhere'")

    for name, prepare in (("scrambled", scrambled), ("broken", broken), ("absent", absent)):
        monkeypatch.setitem(CONTENDERS, name, Contender(name, name, prepare))
    rows = run(pair, "scrambled", "broken", "absent", TEXTBOOK)
    assert rows["scrambled"]["status"].startswith("wrong: outputs change by")
    assert rows["broken"]["status"] == "failed: RuntimeError: no such layer"
    assert rows["absent"]["status"] == "skipped: absent is not installed (No module named 'nowhere')"
    assert all("p50_ms" not in rows[name] for name in ("scrambled", "broken", "absent"))
    assert rows[TEXTBOOK]["status"] == rows[IDENTITY]["status"] == "ok"
    (line,) = wm.summary(list(rows.values()))
    assert "broken failed" in line["note"]


def test_a_failure_of_ours_is_not_hidden(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object, **named: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(lmc, "weight_matching", fail)
    with pytest.raises(RuntimeError, match="ours"):
        run(pair)


def test_a_slow_contender_is_not_repeated(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []

    def slow(pair: Pair, limit: float) -> Match:
        def match(seed: int) -> Found:
            if pair.name != "warm-up":
                seeds.append(seed)
            return Found(pair.b.state_dict)

        return match

    monkeypatch.setitem(CONTENDERS, "slow", Contender("slow", "slow", slow))
    rows = run(pair, "slow", TEXTBOOK, limit=0.0)
    assert seeds == [0] and rows["slow"]["calls"] == rows["slow"]["orders"] == 1
    assert rows[TEXTBOOK]["status"] == "stopped before it converged"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    rng = np.random.default_rng(0)
    labels = np.arange(300, dtype=np.uint8) % 3
    np.savez(
        path, images=rng.integers(0, 60, (300, 12, 12), dtype=np.uint8) + 60 * labels[:, None, None], labels=labels
    )
    return path


def test_wm_writes_rows_and_trains_once(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["wm", "--quick", "--seconds", "0.01", "--data", str(data), "--cache", str(tmp_path / "cache")]
    options += ["--out", str(tmp_path), "--models", "mlp-12", "vgg11-2"]
    assert main(options) == 0
    said = capsys.readouterr().out
    assert said.count("training mlp-12") == said.count("training vgg11-2") == 2
    assert "times_faster" in said
    monkeypatch.setattr(pairs, "train", None)
    assert main([*options, "--contenders", TEXTBOOK]) == 0
    with (tmp_path / "wm.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["solver"]) for row in rows] == [
        (model, name) for model in ("mlp-12", "vgg11-2") for name in (IDENTITY, TEXTBOOK)
    ]
    for row in rows:
        assert set(COLUMNS) < set(row) and row["status"] == "ok" and row["commit"]
        assert float(row["objective"]) > 0 and float(row["l2_after"]) > 0 and float(row["sweeps"]) >= 1
    assert {row["solver_version"] for row in rows if row["solver"] == IDENTITY} == {lmc.__version__}


def test_pairs_are_of_the_size_that_is_asked_for(tmp_path: Path, data: Path) -> None:
    store = PairStore(data, tmp_path, lambda text: None, steps=4)
    pair = store.get("resnet20-1")
    # 12 x 12 is averaged down to 6 x 6.
    assert pair.inputs.shape[1:] == (1, 6, 6)
    assert {pair.spec.sizes[group] for group in pair.spec.groups} == {16, 32, 64}
    vgg = store.get("vgg11-2")
    assert max(vgg.spec.sizes.values()) == 16 and len(vgg.spec.groups) == 10
    change = wm._output_change(vgg.a, lmc.Permutations.random(vgg.spec).apply(vgg.a.state_dict()), vgg.inputs)
    assert change < 1e-4
    assert not any(
        torch.equal(x, y) for x, y in zip(pair.a.parameters(), pair.b.parameters(), strict=True) if x.ndim > 1
    )


@pytest.mark.parametrize(
    "arguments", [["--models", "mlp-0"], ["--models", "gpt-2"], ["--data", "/nowhere.npz"]], ids=lambda a: a[1]
)
def test_bad_options_are_one_line(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wm", *arguments, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("benchmarks: --") and error.count("\n") == 1


def test_the_peak_holds_both_models(pair: Pair) -> None:
    wide = [nn.Sequential(nn.Linear(2000, 2000), nn.ReLU(), nn.Linear(2000, 1)) for _ in range(2)]
    big = dataclasses.replace(pair, a=wide[0], b=wide[1], spec=architectures.mlp(wide[0]))
    found = wm.measure_memory(big)
    models_mb = 2 * 4 * sum(p.numel() for p in wide[0].parameters()) / 1e6
    assert found["bound_mb"] == pytest.approx(models_mb + 3 * 16.0)
    # A gain matrix at least is made.
    assert models_mb + 15 < found["peak_mb"] < models_mb + 200
    assert found["peak_over_bound"] == pytest.approx(found["peak_mb"] / found["bound_mb"])


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[list[str]] = []

    def child(command: list[str], **named: object) -> subprocess.CompletedProcess[str]:
        if "--one" not in command:
            return subprocess.CompletedProcess(command, 0, "", "")
        called.append(command)
        assert main(command[3:]) == 0
        return subprocess.CompletedProcess(command, 0, capsys.readouterr().out, "")

    monkeypatch.setattr(subprocess, "run", child)
    options = ["wm", "--models", "mlp-12", "--contenders", OURS, "--orders", "1", "--seconds", "0.01"]
    options += ["--data", str(data), "--cache", str(tmp_path), "--out", str(tmp_path)]
    assert main(options) == 0
    assert len(called) == 1
    with (tmp_path / "wm.csv").open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["solver"] == OURS)
    assert float(row["peak_mb"]) > 0 and float(row["bound_mb"]) > 0
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\nMemoryError: too much\n")
    monkeypatch.setattr(subprocess, "run", lambda *given, **named: failed)
    assert main(options) == 1
    with (tmp_path / "wm.csv").open(newline="") as file:
        assert "failed: MemoryError: too much" in {row["status"] for row in csv.DictReader(file)}

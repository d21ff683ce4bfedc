"""The benchmark of searches: its rules' formulas, who chooses and who judges, and that it runs, small."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lmc_fast as lmc
from benchmarks import models, search_rules, searches
from benchmarks.run import main
from benchmarks.search_rules import RULES, edge_of, transformed

VALUES = torch.tensor([8.0, 4.0, 2.0, 1.0])


def what_becomes(values: search_rules.Values) -> list[float]:
    return values(VALUES, 4, 6).tolist()


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (search_rules.power(2), [8.0, 2.0, 0.5, 0.125]),
        (search_rules.rank(3), [8.0, 4.0, 2.0, 0.0]),
        (search_rules.times(2, 3), [24.0, 12.0, 2.0, 1.0]),
        (search_rules.beyond(0.5, 3), [24.0, 12.0, 2.0, 1.0]),
        (search_rules.energy(0.8), [8.0, 4.0, 0.0, 0.0]),
        (search_rules.soft(0.2), [6.4, 2.4, 0.4, 0.0]),
        (search_rules.wiener(0.25), [6.4, 2.0, 0.4, 1 / 17]),
    ],
    ids=["power", "rank", "times", "beyond", "energy", "soft", "wiener"],
)
def test_what_becomes_of_singular_values(values: search_rules.Values, wanted: list[float]) -> None:
    assert what_becomes(values) == pytest.approx(wanted)


def test_noise_is_taken_away_and_what_stands_out_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.linalg.svdvals(torch.randn(200, 300, generator=generator, dtype=torch.float64))
    assert edge_of(noise, 2 / 3) == pytest.approx(math.sqrt(200) + math.sqrt(300), rel=0.02)
    # Of a singular value y the noise (of deviation 1) has made sqrt((x^2 + m)(x^2 + n)) / x from one of x.
    x = 60.0
    y = math.sqrt((x**2 + 200) * (x**2 + 300)) / x
    # Least squares want x times the cosines between its vectors and the noisy ones.
    cosines = math.sqrt((x**4 - 200 * 300) ** 2 / ((x**4 + 200 * x**2) * (x**4 + 300 * x**2)))
    kept = search_rules.above_noise(torch.cat([torch.tensor([y]).double(), noise[1:]]), 200, 300)
    assert float(kept[0]) == pytest.approx(x * cosines, rel=0.01)
    # The law of Tracy and Widom: the largest of noise lies about where it ends.
    assert (kept[3:] < 0.1 * y).all() and (kept[20:] == 0).all()
    flat = torch.tensor([3.0, 0.0, 0.0])
    assert torch.equal(search_rules.above_noise(flat, 3, 5), flat)


@pytest.mark.parametrize("name", RULES)
def test_rules_see_permuted_weights_permuted(name: str) -> None:
    model = models.randomise(models.small_resnet(), 0).double()
    rule, spec = RULES[name], lmc.architectures.resnet(model).bind(model)
    truth = lmc.Permutations.random(spec, 1)
    state = model.state_dict()
    made = transformed(state, spec, rule.values, rule.by_norm)
    again = transformed(truth.apply(state), spec, rule.values, rule.by_norm)
    for key, tensor in truth.apply(made).items():
        torch.testing.assert_close(again[key], tensor, rtol=1e-8, atol=1e-8, msg=key)
    if rule.by_norm:
        assert float(made["conv1.weight"].norm() if rule.values is None else 1.0) == pytest.approx(1.0)


def test_the_last_sweeps_are_over_the_weights_as_they_are() -> None:
    states = [models.randomise(models.small_mlp((30, 40)), seed).state_dict() for seed in (1, 2)]
    spec = lmc.architectures.mlp(states[0]).bind(states[0])
    rule = RULES["rank 16, then whole"]
    # Of the two largest alone something is left to gain.
    first = replace(rule, values=search_rules.rank(2), then=0)(*states, spec)
    last = replace(rule, values=search_rules.rank(2))(*states, spec)
    wanted = lmc.weight_matching(*states, spec, init=first, search="coordinate_descent")
    assert last == wanted.permutations and last != first


@pytest.mark.parametrize("choosing", [2, 4, searches.JUDGES_FROM])
@pytest.mark.parametrize("judging", [2, 6, 50])
def test_who_chooses_does_not_judge(choosing: int, judging: int) -> None:
    choose, judge = (searches.seeds_of(part, choosing, judging) for part in searches.PARTS)
    seeds = [seed for pair in judge for seed in pair]
    assert not {seed for pair in choose for seed in pair} & set(seeds)
    # Those that judge share no model.
    assert len(set(seeds)) == len(seeds) == 2 * judging
    assert len(set(choose)) == choosing * (choosing - 1) // 2


def row(search: str, seeds: str, excess: float, part: str = "judge", model: str = "mlp-9") -> dict[str, Any]:
    told = {"part": part, "data": "tiny", "model": model, "search": search, "seeds": seeds, "excess": excess}
    return {**told, "objective": 1.0, "barrier": excess, "seconds": 1.0}


def test_verdicts_are_of_differences_on_the_same_pairs() -> None:
    base = [0.5, 0.1, 0.9, 0.3]
    rows = [row("spectral", str(k), value) for k, value in enumerate(base)]
    rows += [row("less", str(k), value - 0.1 - 0.01 * k) for k, value in enumerate(base)]
    rows += [row("more", str(k), value + 0.1) for k, value in enumerate(base)]
    rows += [row("either", str(k), value + 0.1 * (-1) ** k) for k, value in enumerate(base)]
    # Measured twice: the last one counts. Without the reference on that pair: it does not.
    rows = [row("less", "0", 99.0), row("less", "7", 99.0), *rows]
    found = {each["search"]: each for each in searches.verdicts(rows)}
    assert {name: each["is"] for name, each in found.items()} == {
        "spectral": "",
        "less": "better",
        "more": "worse",
        "either": "",
    }
    less = found["less"]
    assert less["pairs"] == 4 and less["difference"] == pytest.approx(-0.115)
    assert less["error"] == pytest.approx(np.std([0.1, 0.11, 0.12, 0.13], ddof=1) / 2)
    assert found["either"]["excess"] == pytest.approx(0.45)


def test_one_pair_decides_nothing() -> None:
    rows = [row("spectral", "0", 0.5), row("less", "0", 0.1)]
    assert [each["is"] for each in searches.verdicts(rows)] == ["", ""]


def test_the_choice_is_made_over_all_kinds_by_pairs_that_choose() -> None:
    one, other = "16 times 3", "rank 16"
    rows = [row("spectral", "0", 1.0, "choose", model) for model in ("mlp-9", "vgg11-2")]
    # Halved here and doubled there is worth nothing; the mean of the sums would take it.
    rows += [row(one, "0", 0.9, "choose"), row(one, "0", 0.9, "choose", "vgg11-2")]
    rows += [row(other, "0", 0.5, "choose"), row(other, "0", 1.8, "choose", "vgg11-2")]
    # Tried on one kind alone, a search that is no rule, and one that is best where judges are.
    rows += [row("8 times 3", "0", 0.1, "choose"), row("leading", "0", 0.1, "choose")]
    rows += [row("spectral", "100", 1.0), row(other, "100", 0.01)]
    assert searches.chosen(rows) == one
    assert searches.chosen([]) is None


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Little data, short training."""
    rng = np.random.default_rng(0)
    labels = np.arange(320, dtype=np.uint8) % 3
    images = rng.integers(0, 60, (320, 12, 12), dtype=np.uint8) + 60 * labels[:, None, None]
    np.savez(tmp_path / "tiny.npz", images=images, labels=labels)
    short = {name: replace(recipe, steps=4) for name, recipe in searches._FAMILIES.items()}
    monkeypatch.setattr(searches, "_FAMILIES", short)
    monkeypatch.setattr(searches, "STATISTICS", 32)
    common = ["searches", "--data", str(tmp_path / "tiny.npz"), "--cache", str(tmp_path / "cache")]
    return [*common, "--out", str(tmp_path), "--choosing", "2", "--judging", "2"]


@pytest.mark.slow
def test_it_runs_and_tells_what_it_measured(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ways = ["leading", "16 times 3", "16 times 3, one sweep whole"]
    assert main([*tiny, "--models", "mlp-40", "--searches", *ways]) == 0
    assert main([*tiny, "--models", "vgg11-2", "--parts", "judge", "--searches", "by norm", "--append"]) == 0
    with (tmp_path / "searches.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [one["search"] for one in rows[:4]] == ["spectral", *ways]
    assert [one["seeds"] for one in rows[::4]] == ["0,1", "100,101", "102,103", "100,101"]
    assert [one["search"] for one in rows[12:]] == ["spectral", "by norm"] * 2
    assert all(one["commit"] and one["torch"] and float(one["barrier"]) >= float(one["excess"]) for one in rows)
    printed = capsys.readouterr().out
    assert "chosen: 16 times 3" in printed and "difference" in printed
    assert (tmp_path / "searches.png").stat().st_size > 1000


def test_excess_is_that_of_the_barrier(tiny: list[str], tmp_path: Path) -> None:
    from lmc_fast.experiments.cache import ModelCache
    from lmc_fast.experiments.datasets import load_dataset

    data, cache = load_dataset(tmp_path / "tiny.npz"), ModelCache(tmp_path / "cache")
    recipe = searches.recipe_of("resnet-1")
    assert recipe.width == 16
    recipe = replace(recipe, width=6)
    a, b = (cache.get(recipe, data, seed) for seed in (0, 1))
    found = searches.Pair(recipe, data, a, b).measured("coordinate_descent")
    match = lmc.weight_matching(a, b, recipe.spec(a), search="coordinate_descent")
    curve = lmc.loss_barrier(
        a, b, data.test_batches(), match, lambdas=5, batchnorm_batches=data.statistics_batches(searches.STATISTICS)
    )
    assert found["excess"] == pytest.approx(curve.midpoint_barrier, abs=1e-5)
    assert found["barrier"] == pytest.approx(curve.barrier, abs=1e-5)
    assert found["objective"] == pytest.approx(match.objective, rel=1e-6)
    assert found["ends"] == pytest.approx(float(curve.loss[[0, -1]].mean()), abs=1e-5)
    assert found["accuracy"] == curve.midpoint_accuracy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--choosing", "1"], "--choosing must be 2 at least, got 1"),
        (["--judging", "0"], "--judging must be 2 at least, got 0"),
        (["--choosing", "101"], "--choosing must be 100 at most, got 101"),
        (["--data", "missing.npz"], "--data must be an .npz file, got 'missing.npz'"),
        (["--models", "mlp-0"], "--models must be like mlp-256, vgg11-32 or resnet-4, got 'mlp-0'"),
        (["--models", "lstm-4"], "--models must be like mlp-256, vgg11-32 or resnet-4, got 'lstm-4'"),
    ],
)
def test_bad_options_are_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["searches", "--out", str(tmp_path), *options]) == 2
    assert capsys.readouterr().err == f"benchmarks: {message}\n"

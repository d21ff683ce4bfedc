"""Merges that align nothing: the mean of models, entry by entry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import lmc_fast as lmc
from lmc_fast.cli import cli
from lmc_fast.large import plan_merge
from lmc_fast.large.options import Options

from . import models


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    return [
        models.write_directory(tmp_path / name, models.weights(seed, torch.bfloat16), shards=2)
        for seed, name in enumerate("abc")
    ]


def mean(paths: list[Path], weights: list[float]) -> dict[str, torch.Tensor]:
    found = [models.read_directory(path) for path in paths]
    return {
        name: sum(w * x[name].float() for w, x in zip(weights, found, strict=True)).bfloat16()  # type: ignore[union-attr]
        for name in found[0]
    }


@pytest.mark.parametrize(
    ("options", "weights"), [({"lam": 0.25}, [0.75, 0.25]), ({"weights": [0.5, 0.2, 0.3]}, [0.5, 0.2, 0.3])], ids=str
)
def test_it_is_the_weighted_mean_and_needs_no_spec(
    three: list[Path], tmp_path: Path, options: dict[str, Any], weights: list[float]
) -> None:
    paths = three[: len(weights)]
    result = lmc.merge_checkpoints(*paths, out=tmp_path / "out", method="none", **options)
    found, wanted = models.read_directory(tmp_path / "out"), mean(paths, weights)
    assert all(torch.allclose(found[name].float(), x.float(), rtol=2**-7, atol=1e-6) for name, x in wanted.items())
    assert found.keys() == wanted.keys()
    assert result.matches == ()
    assert not (tmp_path / "out" / "lmc_fast").exists()
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "nothing was aligned" in card
    assert "laid over" not in card
    assert "| b | " in card


def test_files_go_in_and_one_comes_out(tmp_path: Path) -> None:
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for seed, path in enumerate(paths):
        save_file(models.weights(seed), path)
    lmc.merge_checkpoints(*paths, out=tmp_path / "out.safetensors", method="none")
    found = load_file(tmp_path / "out.safetensors")
    a, b = (models.weights(seed) for seed in (0, 1))
    assert all(torch.allclose(x, (a[name] + b[name]) / 2) for name, x in found.items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("whose", ["a", "b"])
def test_what_is_not_finite_is_named_and_leaves_nothing(
    three: list[Path], tmp_path: Path, value: float, whose: str
) -> None:
    path = tmp_path / whose / "model-00001-of-00002.safetensors"
    state = dict(load_file(path))
    state["0.k.weight"] = state["0.k.weight"].clone()
    state["0.k.weight"][1, 2] = value
    save_file(state, path, {"format": "pt"})
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=rf"{whose}' must have finite weights, but '0\.k\.weight' holds nan"):
        lmc.merge_checkpoints(*three[:2], out=tmp_path / "out", method="none")
    assert sorted(tmp_path.iterdir()) == before


def test_a_sum_that_overflows_is_written(tmp_path: Path) -> None:
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path in paths:
        save_file({"w": torch.full((2, 2), 6e4, dtype=torch.float16)}, path)
    lmc.merge_checkpoints(*paths, out=tmp_path / "out.safetensors", method="none", weights=[3.0, -2.0])
    assert load_file(tmp_path / "out.safetensors")["w"].isfinite().all()
    save_file({"w": torch.full((2, 2), -6e4, dtype=torch.float16)}, paths[1])
    lmc.merge_checkpoints(*paths, out=tmp_path / "p.safetensors", method="none", weights=[2.0, -1.0])
    assert load_file(tmp_path / "p.safetensors")["w"].isinf().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spec": models.spec()}, "spec must be left out for method='none'"),
        ({"align_only": True}, "method='none' moves nothing"),
        ({"freeze": ["D"]}, "method='none' moves nothing"),
    ],
    ids=["spec", "align_only", "freeze"],
)
def test_options_that_mean_nothing_are_refused(
    three: list[Path], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        lmc.merge_checkpoints(*three[:2], out=tmp_path / "out", method="none", **options)


def test_the_plan_reads_all_once(three: list[Path]) -> None:
    plan = plan_merge(*three[:2], options=Options(method="none"), calibrate=False)
    assert plan.groups == ()
    assert plan.operations == 0
    assert plan.seconds == pytest.approx(sum(plan.nbytes) / plan.rates.read + plan.written / plan.rates.written)


def test_weights_that_are_computed_from_others_are_meant_as_they_are(tmp_path: Path) -> None:
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    names = ("l.parametrizations.weight.original0", "l.parametrizations.weight.original1")
    for seed, path in enumerate(paths):
        save_file({names[0]: torch.full((4, 1), 1.0 + seed), names[1]: torch.full((4, 3), 3.0 + seed)}, path)
    lmc.merge_checkpoints(*paths, out=tmp_path / "out.safetensors", method="none")
    found = load_file(tmp_path / "out.safetensors")
    assert [float(found[name][0, 0]) for name in names] == [1.5, 3.5]


def test_one_shard_alone_keeps_its_index(three: list[Path], tmp_path: Path) -> None:
    for path in three[:2]:
        state = models.read_directory(path)
        for file in path.glob("*.safetensors"):
            file.unlink()
        save_file(state, path / "model-00001-of-00001.safetensors", {"format": "pt"})
        places = dict.fromkeys(state, "model-00001-of-00001.safetensors")
        index = {"metadata": {}, "weight_map": places}
        (path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    lmc.merge_checkpoints(*three[:2], out=tmp_path / "out", method="none")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert index["weight_map"] == places


def test_the_command(three: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["merge", "a", "b", "-o", "out", "--method", "none", "--log", "off"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("wrote out in")

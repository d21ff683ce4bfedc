"""Every model of a line in a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import architectures
from lmc_fast.checkpoints import load_checkpoint


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    return models.randomise(models.ConvNet(), seed=0), models.randomise(models.ConvNet(), seed=1)


def test_each_file_is_the_model_at_its_point(tmp_path: Path, pair: tuple[nn.Module, nn.Module]) -> None:
    spec = architectures.vgg(pair[0])
    match = lmc.weight_matching(*pair, spec)
    told: list[Any] = []
    paths = lmc.save_interpolated(
        *pair, tmp_path / "{index:02d}_{lam:.2f}.safetensors", match, lambdas=5, progress=lambda *of: told.append(of)
    )
    names = ["00_0.00", "01_0.25", "02_0.50", "03_0.75", "04_1.00"]
    assert [path.stem for path in paths] == names and len(told) == 5
    for path, model in zip(paths, lmc.interpolate(*pair, [0.0, 0.25, 0.5, 0.75, 1.0], match), strict=True):
        written = load_checkpoint(path)
        assert all(torch.equal(written[name], tensor) for name, tensor in model.state_dict().items())
    with safe_open(paths[1], "pt") as file:
        assert file.metadata()["lmc_fast.lambda"] == "0.25"


def test_points_and_state_dicts(tmp_path: Path, pair: tuple[nn.Module, nn.Module]) -> None:
    a, b = (model.state_dict() for model in pair)
    paths = lmc.save_interpolated(a, b, str(tmp_path / "m{lam}.safetensors"), lambdas=[-0.5, 0.5])
    assert [path.name for path in paths] == ["m-0.5.safetensors", "m0.5.safetensors"]
    name = "classifier.3.bias"
    torch.testing.assert_close(load_checkpoint(paths[0])[name], 1.5 * a[name] - 0.5 * b[name])


def test_statistics_are_measured_where_data_are_given(tmp_path: Path, pair: tuple[nn.Module, nn.Module]) -> None:
    data = [torch.randn(16, 1, 8, 8)]
    (path,) = lmc.save_interpolated(*pair, tmp_path / "{lam}.safetensors", lambdas=[0.5], batchnorm_batches=data)
    expected = lmc.reestimate_batchnorm(lmc.interpolate(*pair, 0.5), data).state_dict()
    assert all(torch.equal(load_checkpoint(path)[name], tensor) for name, tensor in expected.items())


def test_what_exists_stops_it_before_anything_is_written(tmp_path: Path, pair: tuple[nn.Module, nn.Module]) -> None:
    (tmp_path / "1.safetensors").write_text("mine")
    with pytest.raises(FileExistsError, match=r"1\.safetensors"):
        lmc.save_interpolated(*pair, tmp_path / "{index}.safetensors", lambdas=2)
    assert [path.name for path in tmp_path.iterdir()] == ["1.safetensors"]
    assert len(lmc.save_interpolated(*pair, tmp_path / "{index}.safetensors", lambdas=2, overwrite=True)) == 2


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "one-path": ({"pattern": "m.safetensors"}, ValueError, "pattern must give a path of its own for each of 2 points"),
    "rounded": ({"pattern": "{lam:.0f}.safetensors", "lambdas": [0.1, 0.2]}, ValueError, "a path of its own"),
    "field": ({"pattern": "{t}.safetensors"}, ValueError, "no fields but {lam} and {index}"),
    "position": ({"pattern": "{}.safetensors"}, ValueError, "no fields but {lam} and {index}"),
    "ending": ({"pattern": "{lam}.pt"}, ValueError, "safetensors"),
    "points": ({"lambdas": 1}, ValueError, "lambdas must be"),
    "kind": ({"pattern": 3}, TypeError, "pattern must be text or a path"),
    "statistics-of-a-dict": (
        {"model_a": {}, "batchnorm_batches": []},
        TypeError,
        "to measure BatchNorm statistics with",
    ),
}


@pytest.mark.parametrize(("options", "kind", "message"), BAD.values(), ids=BAD.keys())
def test_what_does_not_fit_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pair: tuple[nn.Module, nn.Module],
    options: dict[str, Any],
    kind: type[Exception],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    given: dict[str, Any] = {"model_a": pair[0], "model_b": pair[1], "pattern": "{lam}.safetensors", "lambdas": 2}
    with pytest.raises(kind, match=message):
        lmc.save_interpolated(**{**given, **options})
    assert not list(tmp_path.iterdir())

"""Trained models are kept under everything that decides them, and nothing else is taken for one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lmc_fast.checkpoints import load_checkpoint, save_checkpoint
from lmc_fast.experiments import cache as module
from lmc_fast.experiments.cache import ModelCache
from lmc_fast.experiments.datasets import Dataset, digits
from lmc_fast.experiments.recipes import Recipe

RECIPE = Recipe("mlp", 6, (2,), steps=20, least_epochs=1, learning_rate=1e-2, weight_decay=0.1)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return digits()


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds of all models that were trained."""
    seeds: list[int] = []
    train = module.train

    def counted(*args: Any, **options: Any) -> torch.nn.Module:
        seeds.append(options["seed"])
        return train(*args, **options)

    monkeypatch.setattr(module, "train", counted)
    return seeds


def only(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_a_model_is_trained_once(tmp_path: Path, data: Dataset, trained: list[int]) -> None:
    first = ModelCache(tmp_path / "models").get(RECIPE, data, 3)
    again = ModelCache(tmp_path / "models").get(RECIPE, data, 3)
    assert trained == [3]
    assert not again.training
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def shifted(data: Dataset) -> Dataset:
    return replace(data, train_inputs=data.train_inputs + 1e-3)


CHANGES: dict[str, Callable[[Dataset], tuple[Recipe, Dataset, int]]] = {
    "seed": lambda data: (RECIPE, data, 1),
    "data": lambda data: (RECIPE, shifted(data), 0),
    **{
        name: lambda data, name=name, value=value: (replace(RECIPE, **{name: value}), data, 0)  # type: ignore[misc]
        for name, value in {
            "width": 7,
            "blocks": (1,),
            "steps": 50,
            "learning_rate": 2e-2,
            "weight_decay": 0.2,
            "batch_size": 32,
        }.items()
    },
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_decides_the_result_is_in_the_key(
    tmp_path: Path, data: Dataset, trained: list[int], change: Callable[[Dataset], tuple[Recipe, Dataset, int]]
) -> None:
    cache = ModelCache(tmp_path)
    cache.get(RECIPE, data, 0)
    cache.get(*change(data))
    assert len(trained) == 2


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def foreign(path: Path) -> None:
    save_checkpoint(path, load_checkpoint(path), metadata={"key": "{}"}, overwrite=True)


DAMAGE = {
    "truncated": (truncate, "is damaged"),
    "flipped": (flip, "has changed since it was written"),
    "foreign": (foreign, "is of another training"),
    "empty": (lambda path: path.write_bytes(b""), "is damaged"),
}


@pytest.mark.parametrize(("spoil", "note"), DAMAGE.values(), ids=DAMAGE.keys())
def test_what_is_damaged_is_trained_again_with_a_note(
    tmp_path: Path, data: Dataset, trained: list[int], spoil: Callable[[Path], object], note: str
) -> None:
    notes: list[str] = []
    cache = ModelCache(tmp_path, notes.append)
    first = cache.get(RECIPE, data, 0)
    spoil(only(tmp_path))
    again = cache.get(RECIPE, data, 0)
    assert trained == [0, 0] and len(notes) == 1 and note in notes[0]
    assert torch.equal(first[1].weight, again[1].weight)  # type: ignore[index]
    cache.get(RECIPE, data, 0)
    assert len(trained) == 2


def test_a_training_that_is_interrupted_leaves_nothing(
    tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "train", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ModelCache(tmp_path / "models").get(RECIPE, data, 0)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("kind", "blocks"), [("mlp", (2,)), ("vgg11", ()), ("resnet", (1, 1))], ids=["mlp", "vgg11", "resnet"]
)
def test_every_kind_has_a_model_and_a_spec(data: Dataset, kind: str, blocks: tuple[int, ...]) -> None:
    recipe = replace(RECIPE, kind=kind, width=2, blocks=blocks)
    model = recipe.build(data).eval()
    assert model(data.test_inputs[:3]).shape == (3, 10)
    assert recipe.spec(model).groups


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind must be one of 'mlp', 'vgg11', 'resnet', got 'gru'"):
        replace(RECIPE, kind="gru")


def test_epochs_are_whole_and_enough(data: Dataset) -> None:
    assert RECIPE.epochs(data) == 1
    assert replace(RECIPE, steps=220).epochs(data) == 10
    assert replace(RECIPE, least_epochs=4).epochs(data) == 4

"""The parts of a model directory that need neither library: how a model is made, and what is asked of it then."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast.checkpoints.building import _made, _without_pretrained, on_meta
from lmc_fast.checkpoints.conversions import Conversion, conversions_of
from lmc_fast.checkpoints.directories import ModelDirectory
from lmc_fast.checkpoints.headers import StoredTensor
from lmc_fast.checkpoints.shards import Shards


class Config:
    """As a configuration of transformers is: a cache is kept unless one says no, and experts are grouped."""

    def __init__(self) -> None:
        self.use_cache = True
        self._experts_implementation = "grouped_mm"


class Net(nn.Module):
    def __init__(self, config: Any = None) -> None:
        super().__init__()
        self.config = config
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)

    @classmethod
    def _from_config(cls, config: Any) -> Net:
        return cls(config)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).relu())


def test_a_model_is_made_without_a_cache_and_with_its_experts_side_by_side() -> None:
    module = _made(Net, Config())
    assert isinstance(module.config, Config)
    assert module.config.use_cache is False and module.config._experts_implementation == "batched_mm"
    plain = _made(Net, SimpleNamespace())
    assert vars(plain.config) == {}


def test_no_weights_are_wished_for_from_elsewhere() -> None:
    config = {"use_pretrained_backbone": True, "part": {"use_pretrained_backbone": True, "size": 3}, "list": [1]}
    expected = {"use_pretrained_backbone": False, "part": {"use_pretrained_backbone": False, "size": 3}, "list": [1]}
    assert _without_pretrained(config) == expected
    assert config["use_pretrained_backbone"] is True


def directory(tensors: dict[str, Tensor], why_none: str = "") -> ModelDirectory:
    held = {
        name: StoredTensor(Path("model.safetensors"), tensor.dtype, tuple(tensor.shape), 0, tensor.nbytes)
        for name, tensor in tensors.items()
    }
    shards = Shards(held, ("model.safetensors",), None, {}, why_none)
    return ModelDirectory(Path("m"), "none", "Net", {}, on_meta(Net), torch.randn(2, 4), shards, Net)


def test_a_directory_tells_its_tensors_and_builds_its_module() -> None:
    tensors = dict(Net().state_dict())
    found = directory(tensors)
    assert {tensor.device.type for tensor in found.module.state_dict().values()} == {"meta"}
    assert not found.module.training and found.tensors.keys() == tensors.keys()
    assert [each.targets for each in found.conversions()] == [(name,) for name in tensors]
    built = found.build()
    assert {tensor.device.type for tensor in built.state_dict().values()} == {"cpu"} and not built.training
    assert lmc.derive_spec(found.module, found.example_inputs) == lmc.derive_spec(built, found.example_inputs)
    with pytest.raises(ValueError, match="holds no weights"):
        directory({}, "directory 'm' holds no weights").conversions()


def test_tensors_that_become_one_go_there_and_back() -> None:
    """Stacked, as single experts are."""
    parts = {"expert.0": torch.randn(2, 3), "expert.1": torch.randn(2, 3)}
    stacked = Conversion(
        tuple(parts),
        ("experts",),
        False,
        lambda given: {"experts": torch.stack([given[name] for name in parts])},
        lambda given: dict(zip(parts, given["experts"].unbind(), strict=True)),
    )
    made = stacked.load(parts)
    assert made["experts"].shape == (2, 2, 3)
    assert all(torch.equal(tensor, parts[name]) for name, tensor in stacked.store(made).items())


def test_what_cannot_be_written_again_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Conversion(("up.weight",), ("up.weight",), False, lambda given: dict(given), lambda given: {})
    monkeypatch.setattr("lmc_fast.checkpoints.conversions._renamed", lambda module, tensors: [one])
    held = {"up.weight": StoredTensor(Path("m"), torch.float32, (6, 4), 0, 96)}
    with pytest.raises(ValueError, match=r"'m' holds 'up\.weight' in a form that cannot be written again"):
        conversions_of(on_meta(Net), held, "directory 'm'")

"""Adapters on disk, with norms that have biases: what these meet is written beside the factors."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import lmc_fast as lmc

from ..merging.test_folded_adapters import SPEC, adapter, outputs, two
from . import models


def test_biases_of_b_are_written_and_told(tmp_path: Path) -> None:
    base, new, _ = two()
    paths = [models.write_directory(tmp_path / name, state) for name, state in (("base", base), ("new", new))]
    (tmp_path / "lora").mkdir()
    factors = {f"base_model.model.{name}": tensor for name, tensor in adapter().items()}
    save_file(factors, tmp_path / "lora" / "adapter_model.safetensors")
    (tmp_path / "lora" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2}', encoding="utf-8")
    result = lmc.rebase_checkpoints(tmp_path / "lora", *paths, out=tmp_path / "out", spec=SPEC)
    assert result.matches[0].l2_after < 1e-3
    found = load_file(tmp_path / "out" / "adapter_model.safetensors")
    carried = {name.removeprefix("base_model.model."): tensor for name, tensor in found.items()}
    assert carried.keys() - adapter().keys() == {"up.lora_B.bias", "head.lora_B.bias"}
    assert torch.allclose(outputs(new, carried), outputs(base, adapter()), atol=1e-3)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["lora_bias"] is True and config["r"] == 2

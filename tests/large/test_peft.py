"""Adapters that PEFT wrote, carried over by the command, and read by PEFT on the new base.

Without PEFT, `test_rebase.py` holds the same of files by its names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

import lmc_fast as lmc
from lmc_fast.cli import cli

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

IDS = torch.arange(2, 26).reshape(2, 12)
KINDS = {
    "attention and units": {"target_modules": ["q_proj", "v_proj", "o_proj", "down_proj", "gate_proj"]},
    "embeddings": {"target_modules": ["embed_tokens", "k_proj"]},
    "with scaled ranks": {"target_modules": ["up_proj"], "use_rslora": True, "rank_pattern": {"up_proj": 3}},
    "with a whole module": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "with magnitudes": {"target_modules": ["q_proj", "down_proj"], "use_dora": True},
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small Llama and the same with its units in another order."""
    folder = tmp_path_factory.mktemp("bases")
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=40,
        max_position_embeddings=32,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config).eval()
    spec = lmc.derive_spec(model, {"input_ids": IDS})
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        # A new model's norms are all alike.
        parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    moved = lmc.Permutations.random(spec, 5)
    assert moved.moved > 100
    model.save_pretrained(folder / "base")
    moved.apply(model).save_pretrained(folder / "new")
    return folder / "base", folder / "new"


def load(path: Path) -> Any:
    return transformers.LlamaForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found: Tensor = model(input_ids=IDS).logits
    return found


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS.keys())
def test_outputs_are_those_of_the_adapter_on_its_own_base(
    bases: tuple[Path, Path], tmp_path: Path, options: dict[str, Any]
) -> None:
    base, new = bases
    tuned = peft.get_peft_model(load(base), peft.LoraConfig(r=4, lora_alpha=8, **options)).eval()
    generator = torch.Generator().manual_seed(2)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    tuned.save_pretrained(tmp_path / "lora")
    wanted = logits(tuned)
    words = ["rebase", "lora", str(base), str(new), "-o", "out", "--log", "off"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    found = logits(peft.PeftModel.from_pretrained(load(new), tmp_path / "out").eval())
    scale = float(wanted.abs().max())
    # The adapter says something, and says the same there.
    assert float((logits(load(base)) - wanted).abs().max()) > 1e-2 * scale
    assert float((found - wanted).abs().max()) <= 1e-5 * scale
    told = json.loads((tmp_path / "out" / "adapter_config.json").read_text(encoding="utf-8"))
    assert told["base_model_name_or_path"] == str(new)

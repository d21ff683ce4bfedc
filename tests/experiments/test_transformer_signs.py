"""Ways of laying transformers over each other take the signs of gated units along."""

from __future__ import annotations

import pytest
import torch

import lmc_fast as lmc
from lmc_fast.experiments.datasets import Dataset
from lmc_fast.experiments.transformer_ways import Setting, with_heads_permuted
from lmc_fast.experiments.transformers import Decoder, VisionTransformer

TEXT = torch.randint(0, 256, (4, 6), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["decoder", "vit"])
def test_units_of_decoders_have_signs(kind: str) -> None:
    if kind == "decoder":
        model, inputs = Decoder(6, 8, 1, 2, rotary=True), TEXT
    else:
        model, inputs = VisionTransformer((1, 4, 4), 2, 8, 1, 2, 5), torch.randn(4, 1, 4, 4)
    setting = Setting(Dataset("x", inputs, inputs, inputs, inputs), [])
    spec = setting.spec("learned", model)
    signed = [name for name, group in spec.groups.items() if group.kind == "signed"]
    assert signed == (["layers.0.mlp.gate:sign"] if kind == "decoder" else [])
    assert spec is setting.spec("heads turned too, activations", model)
    # Where heads are permuted, units keep their signs, and planes their angles.
    heads = with_heads_permuted(spec)
    lmc.verify_spec(model, heads, inputs)
    kinds = {name: group.kind for name, group in heads.groups.items() if group.owner is not None}
    assert set(kinds.values()) == ({"permutation", "signed", "phases"} if kind == "decoder" else {"permutation"})

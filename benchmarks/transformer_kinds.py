"""Models of transformers with small random configurations, hidden 256 and four layers, and their derived specs."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import lmc_fast as lmc

__all__ = ["KINDS", "is_installed", "spec_of"]

_TOKENS = {"input_ids": torch.arange(14).reshape(2, 7)}
_USUAL = {
    "vocab_size": 200,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "max_position_embeddings": 64,
}
_GROUPED = {**_USUAL, "num_key_value_heads": 2}


def _made(name: str, head: str, config: dict[str, Any]) -> nn.Module:
    import transformers

    model: nn.Module = getattr(transformers, f"{name}{head}")(getattr(transformers, f"{name}Config")(**config))
    return model.eval()


def _kind(name: str, head: str, **config: Any) -> Callable[[], nn.Module]:
    return functools.partial(_made, name, head, config)


KINDS: dict[str, Callable[[], nn.Module]] = {
    "bert": _kind("Bert", "ForSequenceClassification", intermediate_size=1024, **_USUAL),
    "gpt2": _kind(
        *("GPT2", "LMHeadModel"),
        vocab_size=200,
        n_embd=256,
        n_layer=4,
        n_head=8,
        n_positions=64,
        bos_token_id=0,
        eos_token_id=0,
    ),
    "vit": _kind(
        *("ViT", "ForImageClassification"),
        image_size=32,
        patch_size=8,
        num_labels=5,
        intermediate_size=1024,
        **{name: _USUAL[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")},
    ),
    "llama": _kind("Llama", "ForCausalLM", intermediate_size=688, **_GROUPED),
    "mixtral": _kind("Mixtral", "ForCausalLM", intermediate_size=512, num_local_experts=4, **_GROUPED),
}


def is_installed() -> bool:
    """Whether there are such models here."""
    return importlib.util.find_spec("transformers") is not None


@functools.cache
def spec_of(kind: str) -> lmc.PermutationSpec:
    """The spec of a kind, derived once."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        inputs = {"pixel_values": torch.randn(2, 3, 32, 32)} if kind == "vit" else _TOKENS
        return lmc.derive_spec(KINDS[kind](), inputs)

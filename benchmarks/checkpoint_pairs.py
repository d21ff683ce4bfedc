"""Pairs of checkpoints on disk, the second a planted permutation of the first with noise, made tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmc_fast import Group, Permutations, PermutationSpec, Segment
from lmc_fast._safetensors import write_safetensors

__all__ = ["SIZES", "LlamaSize", "llama_spec", "make_pair"]

HEAD = 64
DEVIATION = 0.02


@dataclass(frozen=True)
class LlamaSize:
    """A Llama's numbers."""

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    layers: int
    vocabulary: int = 32000

    @property
    def head(self) -> int:
        """Dimensions of a head."""
        return self.hidden // self.heads

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter, in the order of the model."""
        d, f, kv = self.hidden, self.intermediate, self.kv_heads * self.head
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, d)}
        for k in range(self.layers):
            layer = f"model.layers.{k}."
            shapes |= {
                layer + "self_attn.q_proj.weight": (d, d),
                layer + "self_attn.k_proj.weight": (kv, d),
                layer + "self_attn.v_proj.weight": (kv, d),
                layer + "self_attn.o_proj.weight": (d, d),
                layer + "mlp.gate_proj.weight": (f, d),
                layer + "mlp.up_proj.weight": (f, d),
                layer + "mlp.down_proj.weight": (d, f),
                layer + "input_layernorm.weight": (d,),
                layer + "post_attention_layernorm.weight": (d,),
            }
        return {**shapes, "model.norm.weight": (d,), "lm_head.weight": (self.vocabulary, d)}

    def config(self) -> dict[str, Any]:
        """What `transformers` makes the model of."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "num_hidden_layers": self.layers,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        }


SIZES = {
    "1m": LlamaSize(128, 352, 4, 2, 2, 500),
    "119m": LlamaSize(1024, 2816, 16, 16, 8, 8192),
    "119m-deep": LlamaSize(1024, 2816, 16, 16, 32, 8192),
    "119m-wide": LlamaSize(2048, 5632, 32, 32, 8, 8192),
    "0.3b": LlamaSize(1024, 2816, 16, 4, 22),
    "0.3b-deep": LlamaSize(1024, 2816, 16, 4, 88),
    "0.3b-wide": LlamaSize(2048, 5632, 32, 8, 22),
    "1.1b": LlamaSize(2048, 5632, 32, 4, 22),
    "1.1b-half": LlamaSize(2048, 5632, 32, 4, 11),
    "1.1b-deep": LlamaSize(2048, 5632, 32, 4, 88),
    "1.1b-wide": LlamaSize(4096, 11264, 64, 8, 22),
}


def llama_spec(size: LlamaSize) -> PermutationSpec:
    """What may be permuted in a Llama: the stream, key/value heads, their query heads and value dimensions, units."""
    stream = "stream"
    groups = [Group(stream, size.hidden)]
    axes: dict[str, Any] = {"model.embed_tokens.weight": (None, stream), "lm_head.weight": (None, stream)}
    axes["model.norm.weight"] = (stream,)
    for k in range(size.layers):
        layer, kv, q, v, f = f"model.layers.{k}.", f"kv{k}", f"q{k}", f"v{k}", f"f{k}"
        groups += [
            Group(kv, size.kv_heads),
            Group(q, size.heads // size.kv_heads, kv),
            Group(v, size.head, kv),
            Group(f, size.intermediate),
        ]
        axes |= {
            layer + "self_attn.q_proj.weight": (Segment(kv, inner=(Segment(q, inner=size.head),)), stream),
            layer + "self_attn.k_proj.weight": (Segment(kv, inner=size.head), stream),
            layer + "self_attn.v_proj.weight": (Segment(kv, inner=(Segment(v),)), stream),
            layer + "self_attn.o_proj.weight": (stream, Segment(kv, inner=(Segment(q, inner=(Segment(v),)),))),
            layer + "mlp.gate_proj.weight": (f, stream),
            layer + "mlp.up_proj.weight": (f, stream),
            layer + "mlp.down_proj.weight": (stream, f),
            layer + "input_layernorm.weight": (stream,),
            layer + "post_attention_layernorm.weight": (stream,),
        }
    return PermutationSpec.from_axes(axes, groups)


def make_pair(
    folder: Path,
    size: LlamaSize,
    *,
    noise: float = 0.1,
    seed: int = 0,
    shard_bytes: int = 1 << 30,
    told: Callable[[Path], object] = lambda path: None,
) -> None:
    """Write model folders A and B: B is A with its units in another order, plus noise of a share of the deviation.

    Beside them come spec.json, and back.safetensors: for each group what brings B back onto A. Files of weights are
    told of before they are written.
    """
    shapes = size.shapes()
    spec = llama_spec(size).bind({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    planted = Permutations.random(spec, seed)

    def of_a(name: str) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + list(shapes).index(name))
        drawn = torch.randn(shapes[name], generator=generator).mul_(DEVIATION)
        return (drawn.add_(1) if drawn.ndim == 1 else drawn).bfloat16()

    def of_b(name: str) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + len(shapes) + list(shapes).index(name))
        moved = planted.apply_to(name, of_a(name)).float()
        return moved.add_(torch.randn(shapes[name], generator=generator), alpha=DEVIATION * noise).bfloat16()

    for model, make in (("A", of_a), ("B", of_b)):
        where = folder / model
        where.mkdir(parents=True, exist_ok=True)
        config = json.dumps(size.config(), indent=1)
        (where / "config.json").write_text(config, encoding="utf-8")
        parts = list(_parts(shapes, shard_bytes))
        places = {}
        for number, names in enumerate(parts, 1):
            file = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
            told(where / file)
            write_safetensors(where / file, {name: make(name) for name in names}, {"format": "pt"})
            places |= dict.fromkeys(names, file)
        total = sum(2 * torch.Size(shape).numel() for shape in shapes.values())
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (where / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
    spec.to_json(folder / "spec.json")
    write_safetensors(folder / "back.safetensors", dict(planted.inverse().items()), {})


def _parts(shapes: dict[str, tuple[int, ...]], most: int) -> Iterator[list[str]]:
    part: list[str] = []
    held = 0
    for name, shape in shapes.items():
        count = 2 * torch.Size(shape).numel()
        if part and held + count > most:
            yield part
            part, held = [], 0
        part.append(name)
        held += count
    yield part

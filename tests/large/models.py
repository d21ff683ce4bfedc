"""Small model directories, made by hand: the names of a Llama, no library needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lmc_fast import Group, Permutations, PermutationSpec, Segment

HIDDEN, UNITS, KV, QUERIES, HEAD, LAYERS, WORDS = 12, 20, 2, 2, 3, 2, 11


def shapes() -> dict[str, tuple[int, ...]]:
    """Every parameter."""
    heads = KV * QUERIES * HEAD
    found: dict[str, tuple[int, ...]] = {"embed.weight": (WORDS, HIDDEN)}
    for k in range(LAYERS):
        found |= {
            f"{k}.q.weight": (heads, HIDDEN),
            f"{k}.k.weight": (KV * HEAD, HIDDEN),
            f"{k}.v.weight": (KV * HEAD, HIDDEN),
            f"{k}.o.weight": (HIDDEN, heads),
            f"{k}.up.weight": (UNITS, HIDDEN),
            f"{k}.up.bias": (UNITS,),
            f"{k}.down.weight": (HIDDEN, UNITS),
            f"{k}.norm.weight": (HIDDEN,),
        }
    return {**found, "norm.weight": (HIDDEN,), "head.weight": (WORDS, HIDDEN)}


def spec() -> PermutationSpec:
    """What may be permuted: the stream, key/value heads with query heads and value dimensions, units."""
    axes: dict[str, Any] = {"embed.weight": (None, "D"), "head.weight": (None, "D"), "norm.weight": ("D",)}
    groups = [Group("D", HIDDEN)]
    for k in range(LAYERS):
        groups += [Group(f"kv{k}", KV), Group(f"q{k}", QUERIES, f"kv{k}"), Group(f"v{k}", HEAD, f"kv{k}")]
        axes |= {
            f"{k}.q.weight": (Segment(f"kv{k}", inner=(Segment(f"q{k}", inner=HEAD),)), "D"),
            f"{k}.k.weight": (Segment(f"kv{k}", inner=HEAD), "D"),
            f"{k}.v.weight": (Segment(f"kv{k}", inner=(Segment(f"v{k}"),)), "D"),
            f"{k}.o.weight": ("D", Segment(f"kv{k}", inner=(Segment(f"q{k}", inner=(Segment(f"v{k}"),)),))),
            f"{k}.up.weight": (f"F{k}", "D"),
            f"{k}.up.bias": (f"F{k}",),
            f"{k}.down.weight": ("D", f"F{k}"),
            f"{k}.norm.weight": ("D",),
        }
    return PermutationSpec.from_axes(axes, groups)


def weights(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """A model at random."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes().items()}


def planted(state: Mapping[str, Tensor], seed: int, noise: float = 0.05) -> tuple[dict[str, Tensor], Permutations]:
    """A permuted copy with noise, and what brings it back."""
    bound = spec().bind(state)
    moved = Permutations.random(bound, seed)
    generator = torch.Generator().manual_seed(seed)
    copy = {
        name: (x.float() + noise * torch.randn(x.shape, generator=generator)).to(x.dtype)
        for name, x in moved.apply(dict(state)).items()
    }
    return copy, moved.inverse()


def write_directory(
    path: Path, state: Mapping[str, Tensor], *, shards: int = 1, config: Mapping[str, Any] | None = None
) -> Path:
    """A model directory of these weights, with files beside them."""
    path.mkdir(parents=True)
    told = {"architectures": ["Toy"], "model_type": "toy", "vocab_size": WORDS, "torch_dtype": "float32"}
    (path / "config.json").write_text(json.dumps({**told, **(config or {})}), encoding="utf-8")
    (path / "tokenizer.json").write_text('{"words": []}', encoding="utf-8")
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text("{}", encoding="utf-8")
    (path / "modeling_toy.py").write_text("raise SystemExit\n", encoding="utf-8")
    (path / "pytorch_model.bin").write_bytes(b"\x80\x02old")
    (path / "README.md").write_text("old", encoding="utf-8")
    if shards == 1:
        save_file(dict(state), path / "model.safetensors", {"format": "pt"})
        return path
    names = list(state)
    parts = [names[k::shards] for k in range(shards)]
    places = {}
    for k, part in enumerate(parts, 1):
        file = f"model-{k:05d}-of-{shards:05d}.safetensors"
        save_file({name: state[name] for name in part}, path / file, {"format": "pt"})
        places |= dict.fromkeys(part, file)
    total = sum(x.nbytes for x in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return path


def read_directory(path: Path) -> dict[str, Tensor]:
    """All weights of a directory, by safetensors' own reader."""
    from safetensors.torch import load_file

    found: dict[str, Tensor] = {}
    for file in sorted(path.glob("*.safetensors")):
        found |= load_file(file)
    return found


def contents(path: Path) -> dict[str, bytes]:
    """Every file of a folder by name, to the byte."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}

"""Pairs of state dicts for matchings on a device: one of random weights, and a permuted copy of it in noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

import lmc_fast as lmc

__all__ = ["SIZES", "DevicePair", "llama", "mlp", "pair_of", "resnet20", "transformer", "vgg16"]

# How alike units are that belong together: the correlation of their weights.
ALIKE = 0.3

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class DevicePair:
    """Two state dicts on one device, and what may be permuted."""

    name: str
    a: dict[str, Tensor]
    b: dict[str, Tensor]
    spec: lmc.PermutationSpec

    def to(self, device: torch.device | str) -> DevicePair:
        """The same pair elsewhere."""
        a, b = ({name: tensor.to(device) for name, tensor in state.items()} for state in (self.a, self.b))
        return DevicePair(self.name, a, b, self.spec)


def pair_of(
    name: str, shapes: Shapes, spec: lmc.PermutationSpec, dtype: torch.dtype, device: torch.device, seed: int = 0
) -> DevicePair:
    """Random weights of these shapes, made on the device; b's units are shuffled, and its weights mostly noise."""
    generator = torch.Generator(device).manual_seed(seed)

    def draw(shape: tuple[int, ...]) -> Tensor:
        scale = max(1, math.prod(shape[1:])) ** -0.5
        return (scale * torch.randn(shape, generator=generator, device=device)).to(dtype)

    a = {key: draw(shape) for key, shape in shapes.items()}
    spec = spec.bind(a)
    b = lmc.Permutations.random(spec, seed).apply(a)
    for key in b:
        b[key] = ALIKE * b[key] + math.sqrt(1 - ALIKE**2) * draw(shapes[key])
    return DevicePair(name, a, b, spec)


def mlp(width: int, inputs: int = 784) -> tuple[Shapes, lmc.PermutationSpec]:
    """Three hidden layers."""
    sizes = (inputs, width, width, width, 10)
    shapes: Shapes = {}
    axes: dict[str, tuple[str | None, ...]] = {}
    for k in range(4):
        ins, outs = (f"p{k - 1}" if k else None), (f"p{k}" if k < 3 else None)
        shapes |= {f"{k}.weight": (sizes[k + 1], sizes[k]), f"{k}.bias": (sizes[k + 1],)}
        axes |= {f"{k}.weight": (outs, ins), f"{k}.bias": (outs,)}
    return shapes, lmc.PermutationSpec.from_axes(axes)


def vgg16(width: int = 64) -> tuple[Shapes, lmc.PermutationSpec]:
    """Thirteen convolutions with their norms' weights and biases, and a classifier (for images of 32 x 32)."""
    widths = [width * k for k in (1, 1, 2, 2, 4, 4, 4, 8, 8, 8, 8, 8, 8)]
    shapes: Shapes = {}
    axes: dict[str, tuple[str | None, ...]] = {}
    before, unit = 3, None
    for k, outs in enumerate(widths):
        shapes |= {f"{k}.weight": (outs, before, 3, 3), f"{k}.scale": (outs,), f"{k}.bias": (outs,)}
        axes |= {f"{k}.weight": (f"p{k}", unit, None, None), f"{k}.scale": (f"p{k}",), f"{k}.bias": (f"p{k}",)}
        before, unit = outs, f"p{k}"
    shapes |= {"head.weight": (10, before), "head.bias": (10,)}
    axes |= {"head.weight": (None, unit), "head.bias": (None,)}
    return shapes, lmc.PermutationSpec.from_axes(axes)


def resnet20(width: int = 16) -> tuple[Shapes, lmc.PermutationSpec]:
    """Three stages of three blocks with two convolutions; a stage's stream is one group."""
    shapes: Shapes = {"stem.weight": (width, 3, 3, 3), "stem.scale": (width,), "stem.bias": (width,)}
    axes: dict[str, tuple[str | None, ...]] = {
        "stem.weight": ("s0", None, None, None),
        "stem.scale": ("s0",),
        "stem.bias": ("s0",),
    }
    for stage in range(3):
        outs, stream = width << stage, f"s{stage}"
        for block in range(3):
            entering = (outs // 2, f"s{stage - 1}") if stage and not block else (outs, stream)
            inner = f"h{stage}{block}"
            layers = [("first", outs, inner, entering, 3), ("second", outs, stream, (outs, inner), 3)]
            if stage and not block:
                layers.append(("shortcut", outs, stream, entering, 1))
            for name, size, unit, (ins, from_unit), side in layers:
                key = f"{stage}.{block}.{name}"
                shapes |= {f"{key}.weight": (size, ins, side, side), f"{key}.scale": (size,), f"{key}.bias": (size,)}
                axes |= {
                    f"{key}.weight": (unit, from_unit, None, None),
                    f"{key}.scale": (unit,),
                    f"{key}.bias": (unit,),
                }
    shapes |= {"head.weight": (10, width << 2), "head.bias": (10,)}
    axes |= {"head.weight": (None, "s2"), "head.bias": (None,)}
    return shapes, lmc.PermutationSpec.from_axes(axes)


def transformer(layers: int, width: int, heads: int, hidden: int, tokens: int) -> tuple[Shapes, lmc.PermutationSpec]:
    """A decoder as Llama's: rotary attention, gated feed-forward, norms' weights; the residual stream is one group."""
    dim = width // heads
    shapes: Shapes = {"embed.weight": (tokens, width), "norm.weight": (width,), "head.weight": (tokens, width)}
    axes: dict[str, tuple[object, ...]] = {
        "embed.weight": (None, "stream"),
        "norm.weight": ("stream",),
        "head.weight": (None, "stream"),
    }
    groups = [lmc.Group("stream", width)]
    for k in range(layers):
        head, value, ffn = f"head{k}", f"value{k}", f"ffn{k}"
        groups += [lmc.Group(head, heads), lmc.Group(value, dim, owner=head), lmc.Group(ffn, hidden)]
        turned = lmc.Segment(head, inner=dim)
        named: list[tuple[str, tuple[int, ...], tuple[object, ...]]] = [
            ("q.weight", (width, width), (turned, "stream")),
            ("k.weight", (width, width), (turned, "stream")),
            ("v.weight", (width, width), (value, "stream")),
            ("o.weight", (width, width), ("stream", value)),
            ("gate.weight", (hidden, width), (ffn, "stream")),
            ("up.weight", (hidden, width), (ffn, "stream")),
            ("down.weight", (width, hidden), ("stream", ffn)),
            ("norm1.weight", (width,), ("stream",)),
            ("norm2.weight", (width,), ("stream",)),
        ]
        for name, shape, of in named:
            shapes[f"{k}.{name}"], axes[f"{k}.{name}"] = shape, of
    return shapes, lmc.PermutationSpec.from_axes(axes, groups)


def llama(layers: int) -> tuple[Shapes, lmc.PermutationSpec]:
    """Layers of Llama-7B's sizes (Touvron et al. 2023), of which it has 32."""
    return transformer(layers, 4096, 32, 11008, 32000)


# What is matched, by name: how to make it, its dtype; and the same in small for a dry run.
SIZES = {
    "mlp-2048": (lambda: mlp(2048), torch.float32),
    "vgg16": (vgg16, torch.float32),
    "resnet20-4": (lambda: resnet20(64), torch.float32),
    "transformer, 2 layers of 1024": (lambda: transformer(2, 1024, 16, 2816, 8000), torch.float32),
    "llama-7b, 4 of 32 layers": (lambda: llama(4), torch.bfloat16),
    "llama-7b": (lambda: llama(32), torch.bfloat16),
}

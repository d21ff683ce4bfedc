"""A small decoder of which nearly everything turns, and what turns in it by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lmc_fast import Group, PermutationSpec, Segment
from lmc_fast.symmetry import Centre, Fold, Reader

__all__ = ["Decoder", "spec_of", "tokens"]

VOCABULARY, WIDTH, HEADS, SHARED, DIMS, HIDDEN = 17, 12, 4, 2, 6, 10


class Norm(nn.Module):
    """RMSNorm as language models write it."""

    def __init__(self, size: int, offset: float = 0.0) -> None:
        super().__init__()
        self.weight, self.offset = nn.Parameter(torch.ones(size)), offset

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return (self.weight + self.offset) * x if self.offset else self.weight * x


def rotated(x: Tensor, interleaved: bool) -> Tensor:
    """[..., places, dims] with each plane turned by its place."""
    places, dims = x.shape[-2:]
    inverse = 100.0 ** (-torch.arange(0, dims, 2, dtype=x.dtype) / dims)
    angles = torch.outer(torch.arange(places, dtype=x.dtype), inverse)
    if interleaved:
        turned = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
        return x * angles.cos().repeat_interleave(2, dim=-1) + turned * angles.sin().repeat_interleave(2, dim=-1)
    both = torch.cat((angles, angles), dim=-1)
    half = dims // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * both.cos() + turned * both.sin()


class Block(nn.Module):
    def __init__(self, norm: str, rotary: str) -> None:
        super().__init__()
        self.rotary, bias = rotary, norm == "layer"
        self.norm1, self.norm2 = made(norm), made(norm)
        self.q = nn.Linear(WIDTH, HEADS * DIMS, bias)
        self.k, self.v = (nn.Linear(WIDTH, SHARED * DIMS, bias) for _ in range(2))
        self.o = nn.Linear(HEADS * DIMS, WIDTH, bias)
        self.up, self.down = nn.Linear(WIDTH, HIDDEN, bias), nn.Linear(HIDDEN, WIDTH, bias)

    def forward(self, x: Tensor) -> Tensor:
        batch, places, _ = x.shape
        h = self.norm1(x)
        q = self.q(h).view(batch, places, HEADS, DIMS).transpose(1, 2)
        k, v = (part(h).view(batch, places, SHARED, DIMS).transpose(1, 2) for part in (self.k, self.v))
        if self.rotary:
            q, k = (rotated(each, self.rotary == "interleaved") for each in (q, k))
        k, v = (each.repeat_interleave(HEADS // SHARED, dim=1) for each in (k, v))
        seen = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(seen.transpose(1, 2).reshape(batch, places, -1))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


def made(norm: str) -> nn.Module:
    if norm == "layer":
        return nn.LayerNorm(WIDTH)
    return Norm(WIDTH, offset=1.0) if norm == "gemma" else Norm(WIDTH)


class Decoder(nn.Module):
    """Two blocks before a norm and a head.

    Args:
        norm: "layer", "rms", or "gemma", whose gain is 1 + weight.
        rotary: "", "halves" or "interleaved".
        tied: whether the head reads the embeddings.
    """

    def __init__(self, norm: str = "layer", rotary: str = "", tied: bool = False) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Parameter(torch.randn(9, WIDTH))
        self.blocks = nn.ModuleList(Block(norm, rotary) for _ in range(2))
        self.norm = made(norm)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        if tied:
            self.head.weight = self.embed.weight
        with torch.no_grad():
            for name, each in self.named_parameters():
                if "norm" in name:
                    each.add_(0.3 * torch.randn_like(each))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.places[: tokens.shape[-1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def tokens() -> Tensor:
    return torch.randint(0, VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(0))


def spec_of(model: Decoder, norm: str = "layer", rotary: str = "", tied: bool = False) -> PermutationSpec:
    """By hand: the stream turns; in each key/value head the values do, and the queries with the keys."""
    layer = norm == "layer"
    of_keys = "phases" if rotary else "orthogonal"
    names = dict(model.named_parameters(remove_duplicate=False))
    view = {"halves": {"outer": 2}, "interleaved": {"inner": 2}}.get(rotary, {})
    axes: dict[str, tuple[object, ...]] = {"embed.weight": (None, "stream"), "places": (None, "stream")}
    groups = [Group("stream", kind="orthogonal_keeping_ones" if layer else "orthogonal")]
    folds: list[Fold | Centre] = []
    for i in range(2):
        at, kv = f"blocks.{i}.", f"kv{i}"
        keys, values = Segment(f"key{i}", **view), Segment(f"value{i}")
        per_query = lambda inside, i=i, kv=kv: Segment(kv, inner=(Segment(f"query{i}", inner=(inside,)),))  # noqa: E731
        groups += [
            Group(kv, SHARED),
            Group(f"query{i}", HEADS // SHARED, owner=kv),
            Group(f"key{i}", DIMS // 2 if rotary else DIMS, owner=kv, kind=of_keys),
            Group(f"value{i}", DIMS, owner=kv, kind="orthogonal"),
            Group(f"unit{i}", HIDDEN),
        ]
        rows = {"q": per_query(keys), "k": Segment(kv, inner=(keys,)), "v": Segment(kv, inner=(values,))}
        for part, entry in (*rows.items(), ("up", f"unit{i}")):
            axes[f"{at}{part}.weight"] = (entry, "stream")
            axes[f"{at}{part}.bias"] = (entry,)
        for part, entry in (("o", per_query(values)), ("down", f"unit{i}")):
            axes[f"{at}{part}.weight"], axes[f"{at}{part}.bias"] = ("stream", entry), ("stream",)
            if layer:
                folds += [Centre(f"{at}{part}.weight", 0), Centre(f"{at}{part}.bias", 0)]
        for place, readers in (("1", "qkv"), ("2", ["up"])):
            several = [Reader(f"{at}{part}.weight", 1, f"{at}{part}.bias" if layer else None) for part in readers]
            folds.append(_fold(f"{at}norm{place}", several, norm))
    if layer:
        folds += [Centre("embed.weight", 1), Centre("places", 1)]
    axes["head.weight"] = (None, "stream")
    head = Reader("head.weight", 1, tied="embed.weight" if tied else None)
    folds.append(_fold("norm", [head], norm, keeps=layer))
    if layer:
        axes["norm.bias"] = ("stream",)
    return PermutationSpec.from_axes(
        {name: entry for name, entry in axes.items() if name in names},  # type: ignore[misc]
        groups,
        model=model,
        rest="fixed",
        folds=folds,
    )


def _fold(name: str, readers: list[Reader], norm: str, keeps: bool = False) -> Fold:
    bias = f"{name}.bias" if norm == "layer" else None
    return Fold(f"{name}.weight", tuple(readers), bias, keeps, neutral=0.0 if norm == "gemma" else 1.0)

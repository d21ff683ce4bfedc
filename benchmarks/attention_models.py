"""Small models with attention and with experts, for `models`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import lmc_fast as lmc

__all__ = ["Attention", "Experts", "GroupedQueryAttention", "GroupedQueryBlock", "TransformerBlock"]


class Attention(nn.Module):
    """One attention block: heads exchanged whole, query/key and value dimensions inside each head."""

    def __init__(self, width: int = 6, heads: int = 3, dim: int = 4) -> None:
        super().__init__()
        self.heads, self.dim = heads, dim
        self.qkv = nn.Linear(width, 3 * heads * dim)
        self.out = nn.Linear(heads * dim, width)

    def forward(self, x: Tensor) -> Tensor:  # [batch, tokens, width]
        batch, tokens, _ = x.shape
        q, k, v = (
            part.view(batch, tokens, self.heads, self.dim).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1)
        )
        mixed = torch.softmax(q @ k.transpose(-1, -2), dim=-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, -1))

    @staticmethod
    def spec(heads: int = 3, dim: int = 4) -> lmc.PermutationSpec:
        fused = (lmc.Segment("query_key"), lmc.Segment("query_key"), lmc.Segment("value"))
        return lmc.PermutationSpec.from_axes(
            {
                "qkv.weight": (fused, None),
                "qkv.bias": (fused,),
                "out.weight": (None, "value"),
                "out.bias": (None,),
            },
            [
                lmc.Group("head", heads),
                lmc.Group("query_key", dim, owner="head"),
                lmc.Group("value", dim, owner="head"),
            ],
        )


class GroupedQueryAttention(nn.Module):
    """Grouped-query attention: key/value heads exchanged whole, query heads and value dimensions inside each.

    Args:
        width: of the residual stream.
        heads: of keys and values.
        queries: query heads that each of them serves.
        query_key, value: dimensions of one head.
        rotary: whether queries and keys are turned by their positions, which leaves their dimensions in no order but
            the one that they have.
    """

    def __init__(
        self,
        width: int = 7,
        heads: int = 3,
        queries: int = 2,
        query_key: int = 6,
        value: int = 4,
        *,
        rotary: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.queries, self.rotary = heads, queries, rotary
        self.q = nn.Linear(width, heads * queries * query_key)
        self.k = nn.Linear(width, heads * query_key)
        self.v = nn.Linear(width, heads * value)
        self.out = nn.Linear(heads * queries * value, width)

    def forward(self, x: Tensor) -> Tensor:  # [batch, tokens, width]
        batch, tokens, _ = x.shape
        q = self.q(x).view(batch, tokens, self.heads, self.queries, -1)
        k, v = (layer(x).view(batch, tokens, self.heads, -1) for layer in (self.k, self.v))
        if self.rotary:
            q, k = _turned(q), _turned(k)
        share = torch.softmax(torch.einsum("bthqd,bshd->bhqts", q, k), dim=-1)
        return self.out(torch.einsum("bhqts,bshd->bthqd", share, v).reshape(batch, tokens, -1))

    @staticmethod
    def spec(
        heads: int = 3, queries: int = 2, query_key: int = 6, value: int = 4, *, rotary: bool = False
    ) -> lmc.PermutationSpec:
        dims, key = lmc.Segment("query_key"), "query_key"
        read = lmc.Segment("query", inner=query_key if rotary else (dims,))
        kept = lmc.Segment("head", inner=query_key) if rotary else key
        groups = [
            lmc.Group("head", heads),
            lmc.Group("query", queries, owner="head"),
            lmc.Group("value", value, owner="head"),
        ]
        return lmc.PermutationSpec.from_axes(
            {
                "q.weight": (read, None),
                "q.bias": (read,),
                "k.weight": (kept, None),
                "k.bias": (kept,),
                "v.weight": ("value", None),
                "v.bias": ("value",),
                "out.weight": (None, lmc.Segment("query", inner=(lmc.Segment("value"),))),
                "out.bias": (None,),
            },
            groups if rotary else [*groups, lmc.Group(key, query_key, owner="head")],
        )


class GroupedQueryBlock(nn.Module):
    """Grouped-query attention on a residual stream, with a gated MLP beside it.

    Args:
        width: of the stream; the others as of `GroupedQueryAttention`.
    """

    def __init__(
        self,
        width: int = 14,
        heads: int = 3,
        queries: int = 2,
        value: int = 4,
        hidden: int = 9,
        *,
        rotary: bool = False,
    ) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(5, width), nn.LayerNorm(width)
        self.attention = GroupedQueryAttention(width, heads, queries, 6, value, rotary=rotary)
        self.gate, self.up, self.down = nn.Linear(width, hidden), nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:  # [batch, tokens, 5]
        stream = self.embed(x)
        stream = stream + self.attention(self.norm(stream))
        stream = stream + self.down(torch.sigmoid(self.gate(stream)) * self.up(stream))
        return self.head(stream)

    @staticmethod
    def spec(heads: int = 3, queries: int = 2, value: int = 4, *, rotary: bool = False) -> lmc.PermutationSpec:
        inside = GroupedQueryAttention.spec(heads, queries, 6, value, rotary=rotary)
        stream = lmc.Axis((lmc.Segment("stream"),))
        attention = {
            f"attention.{name}": tuple(stream if axis == lmc.Axis() else axis for axis in axes)
            for name, axes in inside.axes.items()
        }
        return lmc.PermutationSpec.from_axes(
            {
                "embed.weight": ("stream", None),
                "embed.bias": ("stream",),
                "norm.weight": ("stream",),
                "norm.bias": ("stream",),
                **attention,
                "gate.weight": ("hidden", "stream"),
                "gate.bias": ("hidden",),
                "up.weight": ("hidden", "stream"),
                "up.bias": ("hidden",),
                "down.weight": ("stream", "hidden"),
                "down.bias": ("stream",),
                "head.weight": (None, "stream"),
                "head.bias": (None,),
            },
            [lmc.Group("stream"), lmc.Group("hidden"), *inside.groups.values()],
        )


def _turned(x: Tensor) -> Tensor:
    """Rotary position embedding: [batch, tokens, ..., dims], by halves."""
    half = x.shape[-1] // 2
    turns = torch.arange(x.shape[1], dtype=x.dtype)[:, None] / 10 ** (torch.arange(half, dtype=x.dtype) / half)
    turns = turns.reshape(x.shape[1], *(1 for _ in x.shape[2:-1]), half)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * turns.cos() - second * turns.sin(), second * turns.cos() + first * turns.sin()], dim=-1)


class TransformerBlock(nn.Module):
    """A pre-norm block on a residual stream: attention whose heads own their dimensions, then an MLP."""

    def __init__(self, width: int = 16, heads: int = 4, dim: int = 4, hidden: int = 24) -> None:
        super().__init__()
        self.embed = nn.Linear(5, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, dim)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:  # [batch, tokens, 5]
        stream = self.embed(x)
        stream = stream + self.attention(self.norm1(stream))
        stream = stream + self.down(torch.relu(self.up(self.norm2(stream))))
        return self.head(stream)

    @staticmethod
    def spec(heads: int = 4, dim: int = 4) -> lmc.PermutationSpec:
        fused = (lmc.Segment("query_key"), lmc.Segment("query_key"), lmc.Segment("value"))
        norms = {f"{norm}.{name}": ("stream",) for norm in ("norm1", "norm2") for name in ("weight", "bias")}
        return lmc.PermutationSpec.from_axes(
            {
                "embed.weight": ("stream", None),
                "embed.bias": ("stream",),
                **norms,
                "attention.qkv.weight": (fused, "stream"),
                "attention.qkv.bias": (fused,),
                "attention.out.weight": ("stream", "value"),
                "attention.out.bias": ("stream",),
                "up.weight": ("hidden", "stream"),
                "up.bias": ("hidden",),
                "down.weight": ("stream", "hidden"),
                "down.bias": ("stream",),
                "head.weight": (None, "stream"),
                "head.bias": (None,),
            },
            [
                lmc.Group("stream"),
                lmc.Group("hidden"),
                lmc.Group("head", heads),
                lmc.Group("query_key", dim, owner="head"),
                lmc.Group("value", dim, owner="head"),
            ],
        )


class Experts(nn.Module):
    """A dense mixture of experts with stacked, fused gate/up weights."""

    def __init__(self, width: int = 5, experts: int = 3, hidden: int = 4) -> None:
        super().__init__()
        self.router = nn.Linear(width, experts)
        self.gate_up = nn.Parameter(torch.zeros(experts, 2 * hidden, width))
        self.down = nn.Parameter(torch.zeros(experts, hidden, width))

    def forward(self, x: Tensor) -> Tensor:  # [batch, width]
        share = torch.softmax(self.router(x), dim=-1)
        gate, up = torch.einsum("bw,ehw->ebh", x, self.gate_up).chunk(2, dim=-1)
        return torch.einsum("ebh,ehw,be->bw", torch.sigmoid(gate) * up, self.down, share)

    @staticmethod
    def spec(experts: int = 3, hidden: int = 4) -> lmc.PermutationSpec:
        both = (lmc.Segment("unit"), lmc.Segment("unit"))
        return lmc.PermutationSpec.from_axes(
            {
                "router.weight": ("expert", None),
                "router.bias": ("expert",),
                "gate_up": (lmc.Axis((lmc.Segment("expert", inner=both),), dims=2), None),
                "down": (lmc.Axis((lmc.Segment("unit"),), dims=2), None),
            },
            [lmc.Group("expert", experts), lmc.Group("unit", hidden, owner="expert")],
        )

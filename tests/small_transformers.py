"""Small transformers by hand, of the kinds that the package transformers has."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["GPT", "TOKENS", "WIDTH", "Bert", "Llama", "ViT"]

TOKENS, WIDTH = 7, 20


class Conv1D(nn.Module):
    """A product with a weight of [inputs, outputs], as GPT-2 has it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], -1)


class GPT(nn.Module):
    """Fused queries, keys and values in blocks; a residual stream that is added up outside of all modules."""

    def __init__(self, heads: int = 4, dim: int = 5, hidden: int = 33) -> None:
        super().__init__()
        self.heads = heads
        self.tokens, self.places = nn.Embedding(30, WIDTH), nn.Embedding(TOKENS + 2, WIDTH)
        self.ln_1, self.ln_2, self.ln_f = (nn.LayerNorm(WIDTH) for _ in range(3))
        self.attn, self.proj = Conv1D(WIDTH, 3 * heads * dim), Conv1D(heads * dim, WIDTH)
        self.fc, self.out = Conv1D(WIDTH, hidden), Conv1D(hidden, WIDTH)

    def forward(self, ids: Tensor) -> Tensor:  # [batch, tokens]
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.attn(self.ln_1(x)).split(20, dim=-1)
        )
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        x = x + self.out(F.gelu(self.fc(self.ln_2(x))))
        return F.linear(self.ln_f(x), self.tokens.weight)


class Bert(nn.Module):
    """Token and place embeddings, post-norm residuals, a pooler."""

    def __init__(self, heads: int = 3, dim: int = 6, hidden: int = 35) -> None:
        super().__init__()
        self.heads = heads
        self.tokens, self.places, self.norm = nn.Embedding(30, WIDTH), nn.Embedding(9, WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v = (nn.Linear(WIDTH, heads * dim) for _ in range(3))
        self.o, self.norm_1 = nn.Linear(heads * dim, WIDTH), nn.LayerNorm(WIDTH)
        self.up, self.down, self.norm_2 = nn.Linear(WIDTH, hidden), nn.Linear(hidden, WIDTH), nn.LayerNorm(WIDTH)
        self.pooler, self.head = nn.Linear(WIDTH, 11), nn.Linear(11, 2)

    def forward(self, ids: Tensor) -> Tensor:  # [batch, tokens]
        x = self.norm(self.tokens(ids) + self.places(torch.arange(ids.shape[1])))
        q, k, v = (part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        mixed = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1) @ v
        x = self.norm_1(x + self.o(mixed.transpose(1, 2).flatten(2)))
        x = self.norm_2(x + self.down(F.gelu(self.up(x))))
        return self.head(torch.tanh(self.pooler(x[:, 0])))


class ViT(nn.Module):
    """Patches, a class token and places that are bare parameters, torch's own attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        self.cls, self.places = nn.Parameter(torch.zeros(1, 1, WIDTH)), nn.Parameter(torch.zeros(1, 5, WIDTH))
        self.layer = nn.TransformerEncoderLayer(WIDTH, 4, 34, batch_first=True, norm_first=True, activation="gelu")
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:  # [batch, 3, 8, 8]
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], dim=1) + self.places
        return self.head(self.norm(self.layer(x))[:, 0])


class Llama(nn.Module):
    """Grouped queries under rotary embedding, RMS norms by hand, a gated MLP."""

    def __init__(self, heads: int = 2, queries: int = 3, dim: int = 4, hidden: int = 31) -> None:
        super().__init__()
        self.heads, self.queries, self.dim = heads, queries, dim
        self.tokens = nn.Embedding(30, WIDTH)
        self.ones = nn.ParameterList(torch.zeros(WIDTH) for _ in range(3))
        self.q = nn.Linear(WIDTH, heads * queries * dim, bias=False)
        self.k, self.v = (nn.Linear(WIDTH, heads * dim, bias=False) for _ in range(2))
        self.o = nn.Linear(heads * queries * dim, WIDTH, bias=False)
        self.gate, self.up = (nn.Linear(WIDTH, hidden, bias=False) for _ in range(2))
        self.down, self.head = nn.Linear(hidden, WIDTH, bias=False), nn.Linear(WIDTH, 30, bias=False)

    def norm(self, x: Tensor, which: int) -> Tensor:
        return self.ones[which] * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))

    def turned(self, x: Tensor) -> Tensor:  # [batch, heads, tokens, dim]
        angles = torch.arange(x.shape[-2])[:, None] / 10 ** torch.arange(self.dim // 2).repeat(2)
        beside = torch.cat([-x[..., self.dim // 2 :], x[..., : self.dim // 2]], dim=-1)
        return x * angles.cos().to(x.dtype) + beside * angles.sin().to(x.dtype)

    def forward(self, ids: Tensor) -> Tensor:  # [batch, tokens]
        x = self.tokens(ids)
        y = self.norm(x, 0)
        q, k, v = (layer(y).unflatten(-1, (-1, self.dim)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        q, k = self.turned(q), self.turned(k)
        k, v = (each[:, :, None].expand(-1, -1, self.queries, -1, -1).reshape(q.shape) for each in (k, v))
        mixed = torch.softmax(q @ k.transpose(-1, -2) / self.dim**0.5, dim=-1) @ v
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        y = self.norm(x, 1)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return self.head(self.norm(x, 2))

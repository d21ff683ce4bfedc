"""Small transformers: vision models on images, byte-level decoders on source code.

All are pre-norm, with queries, keys, values and outputs in linear maps of their own.
"""

from __future__ import annotations

import sysconfig
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .datasets import Dataset

__all__ = [
    "KINDS",
    "Decoder",
    "TransformerRecipe",
    "VisionTransformer",
    "mean_loss",
    "sources",
]

KINDS = ("vit-ln", "vit-rms", "lm-rope", "lm-pos")
EPS = 1e-6
BYTES = 256
# Of rotary embedding: angles of the planes fall from 1 to about 1 / BASE a position.
BASE = 10_000.0
# Every so many-th file of the sources is one of the test part.
HELD_OUT = 8


def mean_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of logits [..., classes] with classes [...], the mean over all that is told."""
    return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def _turned(x: Tensor) -> Tensor:
    """Rotary embedding (Su et al., "RoFormer", 2021) of x [batch, heads, tokens, dim]: entry f lies in one plane with
    entry f + dim / 2."""
    tokens, half = x.shape[-2], x.shape[-1] // 2
    falling = BASE ** -(torch.arange(half, dtype=x.dtype, device=x.device) / half)
    angles = torch.arange(tokens, dtype=x.dtype, device=x.device)[:, None] * falling
    angles = torch.cat([angles, angles], dim=-1)  # [tokens, dim]
    beside = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return x * angles.cos() + beside * angles.sin()


class _Attention(nn.Module):
    """Attention of all tokens to each other, or of each to itself and those before it."""

    def __init__(self, width: int, heads: int, *, bias: bool, causal: bool, rotary: bool) -> None:
        super().__init__()
        self.heads, self.causal, self.rotary = heads, causal, rotary
        self.q = nn.Linear(width, width, bias=bias)
        self.k = nn.Linear(width, width, bias=bias)
        self.v = nn.Linear(width, width, bias=bias)
        self.o = nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:  # [batch, tokens, width]
        q, k, v = (part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        if self.rotary:
            q, k = _turned(q), _turned(k)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        out: Tensor = self.o(mixed.transpose(1, 2).flatten(2))
        return out


class _MLP(nn.Module):
    """One hidden layer of GELU or ReLU."""

    def __init__(self, width: int, hidden: int, *, gelu: bool) -> None:
        super().__init__()
        self.gelu = gelu
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(x)
        out: Tensor = self.down(functional.gelu(hidden) if self.gelu else functional.relu(hidden))
        return out


class _SwiGLU(nn.Module):
    """One hidden layer with a gate (Shazeer, "GLU variants improve transformer", 2020)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(functional.silu(self.gate(x)) * self.up(x))
        return out


def _norm(width: int, *, layernorm: bool) -> nn.Module:
    return nn.LayerNorm(width, eps=EPS) if layernorm else nn.RMSNorm(width, eps=EPS)


class _Block(nn.Module):
    """Attention and a hidden layer, each behind its norm and beside the stream."""

    def __init__(self, width: int, attention: _Attention, mlp: nn.Module, *, layernorm: bool) -> None:
        super().__init__()
        self.norm1, self.attention = _norm(width, layernorm=layernorm), attention
        self.norm2, self.mlp = _norm(width, layernorm=layernorm), mlp

    def forward(self, x: Tensor) -> Tensor:  # [batch, tokens, width]
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class VisionTransformer(nn.Module):
    """Square patches as tokens, learned positions, the mean of the last tokens to a Linear.

    Args:
        image_shape: (channels, height, width); the sides are whole multiples of `patch`.
        patch: side of a patch.
        width: of the residual stream.
        layers, heads: how many; `heads` divides `width`.
        classes: outputs.
        layernorm: LayerNorm and GELU (Dosovitskiy et al., 2021), or else RMSNorm and ReLU.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        patch: int,
        width: int,
        layers: int,
        heads: int,
        classes: int,
        *,
        layernorm: bool = True,
    ) -> None:
        super().__init__()
        channels, height, side = image_shape
        self.patch = patch
        self.patches = nn.Linear(channels * patch * patch, width)
        self.positions = nn.Parameter(0.02 * torch.randn((height // patch) * (side // patch), width))
        self.layers = nn.ModuleList(
            _Block(
                width,
                _Attention(width, heads, bias=True, causal=False, rotary=False),
                _MLP(width, 4 * width, gelu=layernorm),
                layernorm=layernorm,
            )
            for _ in range(layers)
        )
        self.norm = _norm(width, layernorm=layernorm)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:  # [batch, channels, height, width]
        batch, channels, height, width = images.shape
        p = self.patch
        tiles = images.reshape(batch, channels, height // p, p, width // p, p)
        x = self.patches(tiles.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)) + self.positions
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.head(self.norm(x).mean(dim=1))
        return out


class Decoder(nn.Module):
    """A language model of bytes as Llama is made: RMSNorm, SwiGLU, no biases; rotary embedding, or learned positions.

    Args:
        context: bytes at most; with rotary embedding not used.
        width: of the residual stream.
        layers, heads: how many; `heads` divides `width`.
        rotary: rotary embedding in place of learned positions.
    """

    def __init__(self, context: int, width: int, layers: int, heads: int, *, rotary: bool) -> None:
        super().__init__()
        self.tokens = nn.Embedding(BYTES, width)
        nn.init.normal_(self.tokens.weight, std=0.1)
        self.positions = None if rotary else nn.Parameter(0.02 * torch.randn(context, width))
        hidden = 8 * width // 3
        self.layers = nn.ModuleList(
            _Block(
                width,
                _Attention(width, heads, bias=False, causal=True, rotary=rotary),
                _SwiGLU(width, hidden),
                layernorm=False,
            )
            for _ in range(layers)
        )
        self.norm = _norm(width, layernorm=False)
        self.head = nn.Linear(width, BYTES, bias=False)

    def forward(self, text: Tensor) -> Tensor:  # [batch, tokens] -> [batch, tokens, 256]
        x = self.tokens(text)
        if self.positions is not None:
            x = x + self.positions[: text.shape[1]]
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.head(self.norm(x))
        return out


@dataclass(frozen=True)
class TransformerRecipe:
    """A small transformer and its training, for any data set of its sort.

    Attributes:
        kind: "vit-ln" (LayerNorm, GELU), "vit-rms" (RMSNorm, ReLU), "lm-rope" (a decoder with rotary embedding) or
            "lm-pos" (one with learned positions).
        width, layers, heads: of the model.
        passes: over the data.
        learning_rate, weight_decay, batch_size: as for `train`.
        patch: side of a patch of an image.
    """

    kind: str
    width: int
    layers: int
    heads: int = 4
    passes: int = 10
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    batch_size: int = 64
    patch: int = 7

    loss_fn = staticmethod(mean_loss)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(map(repr, KINDS))}, got {self.kind!r}")

    def build(self, data: Dataset) -> nn.Module:
        """The untrained model; weights come from torch's global generator, as `train` seeds it."""
        if self.kind.startswith("lm"):
            context = data.train_inputs.shape[1]
            return Decoder(context, self.width, self.layers, self.heads, rotary=self.kind == "lm-rope")
        return VisionTransformer(
            data.image_shape,
            self.patch,
            self.width,
            self.layers,
            self.heads,
            data.classes,
            layernorm=self.kind == "vit-ln",
        )

    def epochs(self, data: Dataset) -> int:
        """Passes over this data."""
        return self.passes

    def described(self) -> dict[str, Any]:
        """Every attribute, as JSON takes it."""
        return asdict(self)


def sources(examples: int = 24_576, test_examples: int = 512, context: int = 64) -> Dataset:
    """The standard library's own sources as bytes: of each, the next one is to be told.

    Files come in the order of their names, every eighth one for the test part. They are those of the Python that runs:
    another version has others, and another `Dataset.fingerprint`.

    Args:
        examples, test_examples: how many of each part at most.
        context: bytes of each.

    Returns:
        A `Dataset` with int64 [examples, context] inputs and targets.
    """
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    parts = {}
    for name, wanted, of_part in (
        ("train", examples, [file for i, file in enumerate(files) if i % HELD_OUT]),
        ("test", test_examples, files[::HELD_OUT]),
    ):
        text = b"".join(file.read_bytes() for file in of_part)
        count = min(wanted, (len(text) - 1) // context)
        numbers = torch.frombuffer(bytearray(text[: count * context + 1]), dtype=torch.uint8).long()
        parts[name] = numbers[:-1].reshape(count, context), numbers[1:].reshape(count, context)
    return Dataset("sources", *parts["train"], *parts["test"])

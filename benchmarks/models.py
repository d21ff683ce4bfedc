"""Small models of many kinds, with random statistics, and what tests ask of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast.experiments.models import MLP, ResNet


def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Every parameter and statistic random: zero biases and unit norms would hide wrong permutations."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            if name.endswith("running_var"):
                values = 0.5 + torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            elif tensor.ndim > 1:
                values /= max(1, tensor[0].numel()) ** 0.5
            tensor.copy_(values)
    return model.eval()


class ConvNet(nn.Module):
    """Convolutions with BatchNorm, a flatten of maps, then Linear layers."""

    def __init__(self, channels: int = 6, hidden: int = 12) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(channels, channels + 1, 3, padding=1),
            nn.BatchNorm2d(channels + 1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear((channels + 1) * 4, hidden), nn.ReLU(), nn.Linear(hidden, 5)
        )

    def forward(self, x: Tensor) -> Tensor:  # [batch, 1, 8, 8]
        return self.classifier(self.features(x))


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


class Concat(nn.Module):
    """Two branches side by side, and the same hidden units read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 5), nn.Linear(4, 7)
        self.out = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(torch.cat([self.left(x), self.right(x)], dim=-1)))

    @staticmethod
    def spec() -> lmc.PermutationSpec:
        return lmc.PermutationSpec.from_axes(
            {
                "left.weight": ("left", None),
                "left.bias": ("left",),
                "right.weight": ("right", None),
                "right.bias": ("right",),
                "out.weight": (None, [lmc.Segment("left"), lmc.Segment("right")]),
                "out.bias": (None,),
            }
        )


class DepthwiseNet(nn.Module):
    """A depthwise convolution between pointwise ones."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        self.expand = nn.Conv2d(2, channels, 1)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.project = nn.Conv2d(channels, 3, 1)

    def forward(self, x: Tensor) -> Tensor:  # [batch, 2, height, width]
        return self.project(torch.relu(self.depthwise(torch.relu(self.expand(x)))))

    @staticmethod
    def spec() -> lmc.PermutationSpec:
        return lmc.PermutationSpec.from_axes(
            {
                "expand.weight": ("channels", None, None, None),
                "expand.bias": ("channels",),
                "depthwise.weight": ("channels", None, None, None),
                "depthwise.bias": ("channels",),
                "project.weight": (None, "channels", None, None),
                "project.bias": (None,),
            }
        )


class GroupedNet(nn.Module):
    """A grouped convolution: groups exchanged whole, output channels inside each group among themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(2, 6, 1)
        self.grouped = nn.Conv2d(6, 9, 3, padding=1, groups=3)
        self.project = nn.Conv2d(9, 4, 1)

    def forward(self, x: Tensor) -> Tensor:  # [batch, 2, height, width]
        return self.project(torch.relu(self.grouped(torch.relu(self.expand(x)))))

    @staticmethod
    def spec() -> lmc.PermutationSpec:
        inputs = lmc.Segment("group", inner=2)
        return lmc.PermutationSpec.from_axes(
            {
                "expand.weight": (inputs, None, None, None),
                "expand.bias": (inputs,),
                "grouped.weight": ("output", None, None, None),
                "grouped.bias": ("output",),
                "project.weight": (None, "output", None, None),
                "project.bias": (None,),
            },
            [lmc.Group("group", 3), lmc.Group("output", 3, owner="group")],
        )


class FreeGroupedNet(nn.Module):
    """A grouped convolution whose groups are exchanged whole, with inputs and outputs in any order inside each."""

    def __init__(self, groups: int = 3, inputs: int = 4, outputs: int = 5) -> None:
        super().__init__()
        self.expand = nn.Conv2d(2, groups * inputs, 1)
        self.grouped = nn.Conv2d(groups * inputs, groups * outputs, 3, padding=1, groups=groups)
        self.project = nn.Conv2d(groups * outputs, 4, 1)

    def forward(self, x: Tensor) -> Tensor:  # [batch, 2, height, width]
        return self.project(torch.relu(self.grouped(torch.relu(self.expand(x)))))

    @staticmethod
    def spec(groups: int = 3, inputs: int = 4, outputs: int = 5) -> lmc.PermutationSpec:
        kernel = lmc.Axis((lmc.Segment("output", inner=(lmc.Segment("input"),)),), dims=2)
        return lmc.PermutationSpec.from_axes(
            {
                "expand.weight": ("input", None, None, None),
                "expand.bias": ("input",),
                "grouped.weight": (kernel, None, None),
                "grouped.bias": ("output",),
                "project.weight": (None, "output", None, None),
                "project.bias": (None,),
            },
            [
                lmc.Group("group", groups),
                lmc.Group("input", inputs, owner="group"),
                lmc.Group("output", outputs, owner="group"),
            ],
        )


class SharedInputs(nn.Module):
    """Blocks that read the same units: a root group inside another one on the axis of what each block reads with."""

    def __init__(self, blocks: int = 3, hidden: int = 5) -> None:
        super().__init__()
        self.blocks = blocks
        self.read = nn.Linear(4, hidden)
        self.mix = nn.Linear(blocks * hidden, 2)
        self.gates = nn.Linear(4, blocks)

    def forward(self, x: Tensor) -> Tensor:  # [batch, 4]
        units, gates = torch.tanh(self.read(x)), torch.sigmoid(self.gates(x))
        return self.mix((gates[:, :, None] * units[:, None, :]).flatten(1))

    @staticmethod
    def spec() -> lmc.PermutationSpec:
        return lmc.PermutationSpec.from_axes(
            {
                "read.weight": ("hidden", None),
                "read.bias": ("hidden",),
                "mix.weight": (None, lmc.Segment("block", inner=(lmc.Segment("hidden"),))),
                "mix.bias": (None,),
                "gates.weight": ("block", None),
                "gates.bias": ("block",),
            }
        )


class GroupNormNet(nn.Module):
    """GroupNorm: its groups can be exchanged whole, and channels within each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.norm = nn.GroupNorm(3, 6)
        self.project = nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:  # [batch, 2, height, width]
        return self.project(torch.relu(self.norm(self.conv(x))))

    @staticmethod
    def spec() -> lmc.PermutationSpec:
        return lmc.PermutationSpec.from_axes(
            {
                "conv.weight": ("channel", None, None, None),
                "conv.bias": ("channel",),
                "norm.weight": ("channel",),
                "norm.bias": ("channel",),
                "project.weight": (None, "channel", None, None),
                "project.bias": (None,),
            },
            [lmc.Group("group", 3), lmc.Group("channel", 2, owner="group")],
        )


def small_mlp(widths: Sequence[int] = (9, 7)) -> MLP:
    return MLP(4, widths, 3)


def small_resnet() -> ResNet:
    return ResNet(1, 4, (1, 2), 3)

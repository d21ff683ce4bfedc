"""Small models of many kinds, with random statistics, and what tests ask of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast.experiments.models import MLP, ResNet

from .attention_models import Attention, Experts, GroupedQueryAttention, GroupedQueryBlock, TransformerBlock

__all__ = [
    "Attention",
    "Concat",
    "ConvNet",
    "DepthwiseNet",
    "Experts",
    "FreeGroupedNet",
    "GroupNormNet",
    "GroupedNet",
    "GroupedQueryAttention",
    "GroupedQueryBlock",
    "SharedInputs",
    "TransformerBlock",
    "randomise",
    "small_mlp",
    "small_resnet",
]


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

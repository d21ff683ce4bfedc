"""The models of the experiments."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["MLP", "VGG11", "ResNet"]


class MLP(nn.Sequential):
    """Linear layers with ReLU between them, on flattened inputs.

    Args:
        inputs: entries of one example.
        widths: units of each hidden layer.
        classes: outputs.
    """

    def __init__(self, inputs: int, widths: Sequence[int], classes: int) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        fan_in = inputs
        for width in widths:
            layers += [nn.Linear(fan_in, width), nn.ReLU()]
            fan_in = width
        super().__init__(*layers, nn.Linear(fan_in, classes))


# Factors of the width, and whether a pooling follows (Simonyan and Zisserman, 2015, table 1, column A).
_VGG11 = ((1, True), (2, True), (4, False), (4, True), (8, False), (8, True), (8, False), (8, True))


class VGG11(nn.Sequential):
    """VGG11 (Simonyan and Zisserman, 2015), for images of any size: maps are halved while larger than 3 x 3.

    Args:
        channels_in: of the images.
        width: channels of the first layer; 64 in the paper. The last maps and the hidden Linear layers have 8 times
            as many.
        side: height and width of the images.
        classes: outputs.
        batchnorm: whether a BatchNorm follows every convolution.
    """

    def __init__(self, channels_in: int, width: int, side: int, classes: int, *, batchnorm: bool = True) -> None:
        layers: list[nn.Module] = []
        channels = channels_in
        for factor, halve in _VGG11:
            layers.append(nn.Conv2d(channels, factor * width, 3, padding=1))
            channels = factor * width
            layers += [nn.BatchNorm2d(channels), nn.ReLU()] if batchnorm else [nn.ReLU()]
            if halve and side > 3:
                layers.append(nn.MaxPool2d(2))
                side //= 2
        super().__init__(
            *layers,
            nn.Flatten(),
            nn.Linear(channels * side * side, 8 * width),
            nn.ReLU(),
            nn.Linear(8 * width, 8 * width),
            nn.ReLU(),
            nn.Linear(8 * width, classes),
        )


class _BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with BatchNorm, and a projection where the stream changes its shape."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:  # [batch, channels_in, height, width]
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return functional.relu(out + self.downsample(x))


class ResNet(nn.Module):
    """The ResNet of He et al. (2016) for small images: a stem, stages of basic blocks, a mean, a Linear.

    Args:
        channels_in: of the images.
        width: channels of the first stage; each further stage has twice as many on maps of half the size.
        blocks: blocks in each stage; (3, 3, 3) is ResNet20.
        classes: outputs.
    """

    def __init__(self, channels_in: int, width: int, blocks: Sequence[int], classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stages: list[str] = []
        channels = width
        for stage, count in enumerate(blocks, start=1):
            layer = nn.Sequential()
            for block in range(count):
                stride = 2 if block == 0 and stage > 1 else 1
                out = width * 2 ** (stage - 1)
                layer.append(_BasicBlock(channels, out, stride))
                channels = out
            self.stages.append(f"layer{stage}")
            self.add_module(self.stages[-1], layer)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:  # [batch, channels_in, height, width]
        x = functional.relu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        pooled: Tensor = self.fc(x.mean(dim=(2, 3)))
        return pooled

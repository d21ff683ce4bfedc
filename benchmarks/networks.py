"""Small networks of kinds that people build, with random weights: for what `derive_spec` finds in them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["GroupNormUNet", "Mixer", "PaddedResNet", "PreActivationResNet", "Recurrent", "WideResNet"]


class _PreActivationBlock(nn.Module):
    """Norms and rectifiers before the convolutions; the shortcut is taken after the first of them."""

    def __init__(self, entering: int, leaving: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(entering), nn.BatchNorm2d(leaving)
        self.conv1 = nn.Conv2d(entering, leaving, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(leaving, leaving, 3, 1, 1, bias=False)
        is_same = stride == 1 and entering == leaving
        self.shortcut = None if is_same else nn.Conv2d(entering, leaving, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        ready = F.relu(self.norm1(x))
        short = x if self.shortcut is None else self.shortcut(ready)
        return short + self.conv2(F.relu(self.norm2(self.conv1(ready))))


class PreActivationResNet(nn.Module):
    """He et al. 2016: [batch, 3, height, width] -> [batch, classes]."""

    def __init__(self, widths: tuple[int, ...] = (6, 10), blocks: int = 2, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        layers, entering = [], widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                layers.append(_PreActivationBlock(entering, width, 2 if stage and not block else 1))
                entering = width
        self.layers = nn.Sequential(*layers)
        self.norm, self.head = nn.BatchNorm2d(entering), nn.Linear(entering, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.layers(self.stem(x)))).mean((2, 3)))


class WideResNet(PreActivationResNet):
    """Zagoruyko and Komodakis 2016: the same, wider."""

    def __init__(self) -> None:
        super().__init__((8, 16, 32), 1)


class _PaddedBlock(nn.Module):
    """A basic block whose shortcut takes every other place, and adds channels of zeros on both sides."""

    def __init__(self, entering: int, leaving: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(entering, leaving, 3, stride, 1, bias=False), nn.BatchNorm2d(leaving)
        self.conv2, self.norm2 = nn.Conv2d(leaving, leaving, 3, 1, 1, bias=False), nn.BatchNorm2d(leaving)
        self.stride, self.added = stride, leaving - entering

    def forward(self, x: Tensor) -> Tensor:
        short = x[:, :, :: self.stride, :: self.stride] if self.stride > 1 else x
        if self.added:
            short = F.pad(short, (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))
        return F.relu(short + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class PaddedResNet(nn.Module):
    """He et al. 2015 on CIFAR: shortcuts without parameters; [batch, 3, height, width] -> [batch, classes]."""

    def __init__(self, widths: tuple[int, ...] = (4, 8, 16), classes: int = 5) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0])
        pairs = zip((widths[0], *widths[:-1]), widths, strict=True)
        self.layers = nn.Sequential(*(_PaddedBlock(a, b, 2 if k else 1) for k, (a, b) in enumerate(pairs)))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(F.relu(self.norm(self.stem(x)))).mean((2, 3)))


class _NormedConvolutions(nn.Module):
    def __init__(self, entering: int, leaving: int, groups: int, timed: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(entering, leaving, 3, 1, 1), nn.Conv2d(leaving, leaving, 3, 1, 1)
        self.norm1, self.norm2 = nn.GroupNorm(groups, leaving), nn.GroupNorm(groups, leaving)
        self.time = nn.Linear(timed, leaving)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        x = F.silu(self.norm1(self.conv1(x)))
        return F.silu(self.norm2(self.conv2(x + self.time(time)[:, :, None, None])))


class GroupNormUNet(nn.Module):
    """A U-Net with group norms, skips and an embedded time: [batch, 3, height, width], [batch, 1] -> as the first."""

    def __init__(self, width: int = 6, groups: int = 3, timed: int = 10) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(1, timed), nn.SiLU())
        self.down1 = _NormedConvolutions(3, width, groups, timed)
        self.down2 = _NormedConvolutions(width, 2 * width, groups, timed)
        self.middle = _NormedConvolutions(2 * width, 2 * width, groups, timed)
        self.lift1 = nn.ConvTranspose2d(2 * width, 2 * width, 2, 2)
        self.lift2 = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.up2 = _NormedConvolutions(4 * width, 2 * width, groups, timed)
        self.up1 = _NormedConvolutions(2 * width, width, groups, timed)
        self.out = nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        time = self.time(time)
        first = self.down1(x, time)
        second = self.down2(F.max_pool2d(first, 2), time)
        x = self.lift1(self.middle(F.max_pool2d(second, 2), time))
        x = self.lift2(self.up2(torch.cat([x, second], 1), time))
        return self.out(self.up1(torch.cat([x, first], 1), time))


class _MixerBlock(nn.Module):
    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(tokens, 7), nn.GELU(), nn.Linear(7, tokens))
        self.channels = nn.Sequential(nn.Linear(width, 18), nn.GELU(), nn.Linear(18, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """MLP-Mixer: [batch, 3, 8, 12] -> [batch, classes]. Patches stay in the image's order."""

    def __init__(self, width: int = 10, blocks: int = 2, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 4, 4)
        self.layers = nn.Sequential(*(_MixerBlock(6, width) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.layers(self.stem(x).flatten(2).transpose(1, 2))).mean(1))


class Recurrent(nn.Module):
    """Words, a recurrent layer or several, and a classifier of what the last step gave: [batch, time] -> classes."""

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM, classes: int = 5, **options: object) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.layer = kind(6, 8, batch_first=True, **options)
        directions = 2 if options.get("bidirectional") else 1
        self.head = nn.Linear((options.get("proj_size") or 8) * directions, classes)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(ids))[0][:, -1])

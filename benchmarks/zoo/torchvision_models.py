"""Models of torchvision: as they are where that is quick, and else of the same kinds and smaller."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from .hand import Hand, free, owning, total
from .known import Known, Made, image

__all__ = ["TORCHVISION", "shuffled", "with_operators"]

# Kept: what it defines is gone with it.
_OPERATORS: list[torch.library.Library] = []


def with_operators() -> None:
    """Let torchvision be imported beside a torch that its own operators were not built for.

    Its modules ask on import for operators that its native library brings. Where that does not load, these are named
    here without anything behind them: no model of the zoo uses one.

    Raises:
        ImportError: torchvision is not installed.
    """
    for signature in (
        "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "",
    ):
        try:
            import torchvision  # noqa: F401
        except RuntimeError as error:
            if "does not exist" not in str(error) or not signature:
                raise
            if not _OPERATORS:
                _OPERATORS.append(torch.library.Library("torchvision", "DEF"))
            _OPERATORS[0].define(signature)
            for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                del sys.modules[name]
        else:
            return


def _ready(name: str, size: int = 64, **options: Any) -> Callable[[], Made]:
    """A model as it is, with random weights."""

    def make() -> Made:
        import torchvision

        return getattr(torchvision.models, name)(weights=None, **options), image(size)

    return make


def _stages(widths: Sequence[int], blocks: Sequence[int], block: Callable[[int], Hand], expansion: int = 1) -> Hand:
    """Of each stage its stream, into which all blocks write, and what is inside of each block."""
    return total(free(expansion * w) + n * block(w) for w, n in zip(widths, blocks, strict=True))


def _resnet(blocks: Sequence[int], width_per_group: int = 64, groups: int = 1) -> Callable[[], Made]:
    def make() -> Made:
        from torchvision.models.resnet import Bottleneck, ResNet

        model = ResNet(Bottleneck, list(blocks), groups=groups, width_per_group=width_per_group, num_classes=7)
        return model, image(64)

    return make


_WIDTHS = (64, 128, 256, 512)


def _vgg() -> Made:
    from torchvision.models.vgg import make_layers

    features = make_layers([8, "M", 12, "M", 16, 20, "M", 24, 28, "M"], batch_norm=True)
    # Its own classifier takes 25,088 units.
    classifier = [nn.Linear(28 * 4, 40), nn.ReLU(), nn.Dropout(), nn.Linear(40, 36), nn.ReLU(), nn.Dropout()]
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(2), nn.Flatten(), *classifier, nn.Linear(36, 7)), image(32)


def _densenet() -> Made:
    from torchvision.models import DenseNet

    return DenseNet(growth_rate=6, block_config=(2, 3, 2), num_init_features=10, bn_size=2, num_classes=7), image(64)


def _mobilenet_v2() -> Made:
    from torchvision.models import MobileNetV2

    settings = [[1, 8, 1, 1], [6, 16, 2, 2], [6, 24, 3, 2]]
    return MobileNetV2(num_classes=7, inverted_residual_setting=settings), image(32)


def _convnext() -> Made:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    settings = [CNBlockConfig(12, 20, 2), CNBlockConfig(20, 28, 3), CNBlockConfig(28, None, 1)]
    return ConvNeXt(settings, num_classes=7), image(32)


def _shufflenet() -> Made:
    from torchvision.models import ShuffleNetV2

    return ShuffleNetV2([2, 4, 2], [8, 24, 32, 48, 40], num_classes=7), image(64)


def _swin() -> Made:
    from torchvision.models import SwinTransformer

    return SwinTransformer([4, 4], 24, [2, 2], [3, 4], [3, 3], num_classes=7), image(48)


def _vit() -> Made:
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, 2, 4, 24, 40, num_classes=7), image(32)


def shuffled(entering: int, stages: Sequence[tuple[int, int]], last: int) -> Hand:
    """ShuffleNet V2: channels of one convolution that are used by the same ones change places.

    A unit cuts the channels in halves, the second goes through its branch, and both are laid alternately: what a
    channel goes into is told by where it has come to lie.

    Args:
        entering: channels of the stem.
        stages: for each the channels that leave it, and its units; the first of these takes all channels in both of
            its branches.
        last: channels of the last convolution.
    """
    found = free(entering)
    for leaving, units in stages:
        half = leaving // 2
        lanes = [[(branch, k) for k in range(half)] for branch in range(2)]
        used: dict[tuple[int, int], int] = {}
        # Inside of the second branch, from the convolution in front to the one behind the depthwise one.
        found = found + units * free(half)
        for unit in range(1, units):
            laid = [channel for pair in zip(*lanes, strict=True) for channel in pair]
            used |= dict.fromkeys(laid[half:], unit)
            lanes = [laid[:half], [(unit + 1, k) for k in range(half)]]
        for channel in (*lanes[0], *lanes[1]):
            used[channel] = units
        kinds = [(channel[0], unit) for channel, unit in used.items()]
        found = found + total(free(kinds.count(kind)) for kind in dict.fromkeys(kinds))
    return found + free(last)


# Szegedy et al. 2015, table 1: by block 1x1; reduced and 3x3; reduced and "5x5"; what goes behind the pooling.
_GOOGLENET = (
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)
# Szegedy et al. 2016, figures 5 to 7 and 10: every convolution is normed by itself, and a concatenation of theirs is
# read by all of the next block.
_INCEPTION_V3 = (
    free(32, 32, 64, 80, 192)
    + total(free(64, 48, 64, 64, 96, 96, pooled) for pooled in (32, 64, 64))
    + free(384, 64, 96, 96)
    + total(free(192, c, c, 192, c, c, c, c, 192, 192) for c in (128, 160, 160, 192))
    + free(192, 320, 192, 192, 192, 192)
    + 2 * free(320, 384, 384, 384, 448, 384, 384, 384, 192)
)
# Howard et al. 2019, table 2: expanded, leaving, squeezed; a block that leaves as many as enter adds to their stream.
_MOBILENET_V3 = (
    *((72, 0), (88, 0), (96, 24), (240, 64), (240, 64), (120, 32), (144, 40)),
    *((288, 72), (576, 144), (576, 144)),
)
# Tan and Le 2019, table 1: expanded, and a quarter of what enters; the first block does not expand.
_EFFICIENTNET = (
    *((96, 4), (144, 6), (144, 6), (240, 10), (240, 10), (480, 20), (480, 20), (480, 20), (672, 28), (672, 28)),
    *((672, 28), (1152, 48), (1152, 48), (1152, 48), (1152, 48)),
)
# Radosavovic et al. 2020, RegNetY-400MF: widths, blocks, groups of 8 channels; a quarter of what enters is squeezed.
_REGNET = tuple(
    (w, [entering, *[w] * (n - 1)])
    for entering, w, n in zip((32, 48, 104, 208), (48, 104, 208, 440), (1, 3, 6, 6), strict=True)
)
_FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))

TORCHVISION: dict[str, Known] = {
    # The stem writes into the stream of the first stage; two inner convolutions by block.
    "resnet18": Known(_ready("resnet18"), _stages(_WIDTHS, (2, 2, 2, 2), free)),
    "resnet50": Known(_ready("resnet50"), free(64) + _stages(_WIDTHS, (3, 4, 6, 3), lambda w: free(w, w), expansion=4)),
    "WideResNet (wide_resnet50_2, a block a stage)": Known(
        _resnet((1, 1, 1, 1), 128), free(64) + _stages(_WIDTHS, (1, 1, 1, 1), lambda w: free(2 * w, 2 * w), expansion=4)
    ),
    # The grouped convolution has 32 groups, each with inputs and outputs of its own.
    "ResNeXt (resnext50_32x4d, a block a stage)": Known(
        _resnet((1, 1, 1, 1), 4, 32),
        free(64) + _stages(_WIDTHS, (1, 1, 1, 1), lambda w: owning(32, w // 16, w // 16), expansion=4),
    ),
    "VGG with BatchNorm": Known(_vgg, free(8, 12, 16, 20, 24, 28) + free(40, 36)),
    # The stem; by layer twice the growth and the growth; between blocks half of what has come together: 22 of 10 + 2 *
    # 6 is 11, 29 of 11 + 3 * 6 is 14.
    "DenseNet": Known(_densenet, free(10) + 7 * free(12, 6) + free(11, 14)),
    # The first block does not expand what the stem gives. Of each stage the stream, of each block what it expands to.
    "MobileNet V2": Known(_mobilenet_v2, free(32, 8) + free(16, 48, 96) + free(24, 96, 144, 144) + free(1280)),
    "mobilenet_v3_small": Known(
        _ready("mobilenet_v3_small"),
        free(16, 8) + free(16, 24, 40, 48, 96) + total(free(*each) for each in _MOBILENET_V3) + free(576, 1024),
    ),
    "efficientnet_b0": Known(
        _ready("efficientnet_b0"),
        free(32, 8) + free(16, 24, 40, 80, 112, 192, 320) + total(free(*each) for each in _EFFICIENTNET) + free(1280),
    ),
    # Of each stage the stream, of each block four times as many hidden units; depthwise is the stream.
    "ConvNeXt": Known(_convnext, _stages((12, 20, 28), (2, 3, 1), lambda w: free(4 * w))),
    "regnet_y_400mf": Known(
        _ready("regnet_y_400mf"),
        free(32)
        + sum(
            (free(w) + total(owning(w // 8, 8, 8) + free(round(s / 4)) for s in entering) for w, entering in _REGNET),
            Hand(),
        ),
    ),
    "ShuffleNet V2": Known(
        _shufflenet,
        shuffled(8, ((24, 2), (32, 4), (48, 2)), 40),
    ),
    "swin": Known(
        _swin,
        free(24) + 2 * (owning(3, 8, 8) + free(96)) + free(48) + 2 * (owning(4, 12, 12) + free(192)),
    ),
    "vit": Known(_vit, free(24) + 2 * (owning(4, 6, 6) + free(40))),
    "inception_v3": Known(_ready("inception_v3", 96, init_weights=False), _INCEPTION_V3),
    "googlenet": Known(
        _ready("googlenet", 32, init_weights=False),
        free(64, 64, 192) + total(free(*each) for each in _GOOGLENET),
    ),
    "squeezenet1_1": Known(_ready("squeezenet1_1"), free(64) + total(free(s, e, e) for s, e in _FIRES)),
}

"""Models of timm, of fewer layers than theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .hand import Hand, free, owning, total
from .known import Known, Made, image

__all__ = ["TIMM"]


def _timm(name: str, size: int, **options: Any) -> Callable[[], Made]:
    def make() -> Made:
        import timm

        return timm.create_model(name, pretrained=False, num_classes=7, **options), image(size)

    return make


def _levit(stream: int, heads: int, blocks: int) -> Hand:
    """Heads with 16 dimensions of queries and 32 of values, and hidden units twice as many as the stream's."""
    return free(stream) + blocks * (owning(heads, 16, 32) + free(2 * stream))


def _mixer() -> Made:
    from timm.models.mlp_mixer import MlpMixer

    return MlpMixer(num_classes=7, img_size=96, patch_size=32, num_blocks=2, embed_dim=48), image(96)


def _pre_activation() -> Made:
    from timm.layers import BatchNormAct2d
    from timm.models.resnetv2 import ResNetV2

    return ResNetV2([2, 1], (48, 80), num_classes=7, stem_chs=16, norm_layer=BatchNormAct2d), image(32)


TIMM: dict[str, Known] = {
    "DeiT (deit_tiny, two blocks)": Known(
        _timm("deit_tiny_patch16_224", 64, depth=2, img_size=64), free(192) + 2 * (owning(3, 64, 64) + free(768))
    ),
    # The stream, and hidden units of tokens and of channels; tokens stay.
    "MLP-Mixer": Known(_mixer, free(48) + 2 * free(24, 192)),
    "Swin (swin_tiny, two stages)": Known(
        _timm("swin_tiny_patch4_window7_224", 56, img_size=56, embed_dim=24, depths=(2, 2), num_heads=(3, 4)),
        free(24) + 2 * (owning(3, 8, 8) + free(96)) + free(48) + 2 * (owning(4, 12, 12) + free(192)),
    ),
    # Channels of a block are a quarter of the stream's, in both inner convolutions.
    "pre-activation ResNet (ResNetV2)": Known(
        _pre_activation, free(16) + free(48) + 2 * free(16, 16) + free(80) + free(24, 24)
    ),
    # The response norm puts hidden units in relation to the mean over all of them.
    "ConvNeXt V2 (convnextv2_atto, a block a stage)": Known(
        _timm("convnextv2_atto", 64, depths=(1, 1, 1, 1)), total(free(w, 4 * w) for w in (40, 80, 160, 320))
    ),
    # Three convolutions before the first stream; what halves the places is an attention with 64 dimensions of values,
    # and has hidden units behind it.
    "LeViT (levit_128s)": Known(
        _timm("levit_128s", 224),
        free(16, 32, 64)
        + _levit(128, 4, 2)
        + (owning(8, 16, 64) + free(512))
        + _levit(256, 6, 3)
        + (owning(16, 16, 64) + free(768))
        + _levit(384, 8, 4),
    ),
}

"""Models of diffusers: a U-Net, an autoencoder, a transformer."""

from __future__ import annotations

import torch

from .hand import Hand, free, owning
from .known import Known, Made, image

__all__ = ["DIFFUSERS"]


def _unet() -> Made:
    import diffusers

    model = diffusers.UNet2DConditionModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=10,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    inputs = {"sample": image(), "timestep": torch.tensor([3, 5]), "encoder_hidden_states": torch.randn(2, 5, 10)}
    return model, inputs


def _autoencoder() -> Made:
    import diffusers

    model = diffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 12),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=2,
        norm_num_groups=4,
        sample_size=16,
    )
    return model, {"sample": image()}


def _sd3() -> Made:
    import diffusers

    model = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=3,
        num_layers=2,
        attention_head_dim=6,
        num_attention_heads=4,
        joint_attention_dim=10,
        caption_projection_dim=24,
        pooled_projection_dim=14,
        out_channels=3,
        pos_embed_max_size=8,
    )
    inputs = {
        "hidden_states": image(8),
        "encoder_hidden_states": torch.randn(2, 5, 10),
        "pooled_projections": torch.randn(2, 14),
        "timestep": torch.tensor([3.0, 5.0]),
    }
    return model, inputs


def _crossing(width: int, heads: int = 4) -> Hand:
    """A transformer between convolutions: its own stream, heads among places and to the text, gated hidden units."""
    each = width // heads
    return free(width) + 2 * owning(heads, each, each) + free(4 * width)


def _unet_by_hand() -> Hand:
    """Norms have four groups; a value keeps what all norms that it goes through keep, alone or beside another one.

    Skips are 8 channels of the stem with the first block's (a), of the halving convolution (b), and 16 of the second
    block's with the middle's (c); on the way back 16 leave each of two blocks (d, e) and the convolution that doubles
    (f), then 8 leave each of two (g, h). Laid end to end are c with c: groups of 8; d with b and f with a: groups of 6,
    one of which takes 4 of d or f and 2 of b or a; g with a: groups of 4.
    """
    time = free(32, 32)
    # Pairs of the first norm; of 6 the first pair alone; of 4 the first two pairs.
    a = free(2, 2) + owning(2, 2)
    b = free(2) + owning(3, 2)
    c = owning(2, owning(2, 4))
    # Fours of the first norm, cut at 6 and 12: 4, 2 and 2, 4, and 4; the first 6 and the second may change places, each
    # in the order that the other has backwards.
    d = free(4, 2, 2, 4, 4) + free(2)
    e = owning(4, 4)
    f = owning(2, 6) + free(4)
    g, h = owning(2, 4), owning(4, 2)
    # By block what its second norm takes: 8 channels or 16, in four groups.
    blocks = 3 * owning(4, 2) + 5 * owning(4, 4)
    return time + a + b + c + d + e + f + g + h + blocks + 4 * _crossing(16)


def _autoencoder_by_hand() -> Hand:
    """Norms have four groups of two channels or of three; the middle's attention has one head."""
    two, three, attention = owning(4, 2), owning(4, 3), free(12, 12)
    # Streams: the stem's, the halving convolution's, the second block's. Inside: both blocks, both of the middle.
    encoder = (two + two + three) + (two + three + 2 * three) + attention + free(4)
    # Means; deviations, which a forward pass without sampling does not use; what the decoder takes.
    between = free(2) + free(2) + free(2)
    # Streams: the stem's, the doubling convolution's, the last block's. Inside: the middle, and two blocks of each.
    decoder = (three + three + two) + (2 * three + 2 * three + 2 * two) + attention
    return encoder + between + decoder


def _sd3_by_hand() -> Hand:
    """Text and image have a stream each, and heads together; the last block does nothing more with the text.

    Of the table of 8 by 8 places the middle of 4 by 4 is used. The others a larger image would tell apart: they stay.
    """
    embedded = free(24, 24) + free(24, 24, 24)
    return embedded + 2 * (owning(4, 6, 6) + free(96)) + free(96)


DIFFUSERS: dict[str, Known] = {
    "UNet2DConditionModel": Known(
        _unet,
        _unet_by_hand(),
        "where two values are laid end to end and a norm's group takes some of both, the groups stay in their places, "
        "though some of what they hold could change places; and no axis can say that units change places backwards",
    ),
    "AutoencoderKL": Known(_autoencoder, _autoencoder_by_hand()),
    "SD3Transformer2DModel": Known(_sd3, _sd3_by_hand()),
}

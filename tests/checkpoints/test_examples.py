"""What a model is called with, read off its configuration: of configurations as the libraries write them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lmc_fast.checkpoints.examples import diffusers_inputs, transformers_inputs

TEXT = {"vocab_size": 50, "max_position_embeddings": 32, "pad_token_id": 0, "eos_token_id": 2}


def model(main: str, forward: Any, name: str = "Model", **config: Any) -> Any:
    """A module with a configuration and a forward of these arguments."""
    kind = type(name, (nn.Module,), {"forward": forward, "main_input_name": main})
    made = kind()
    made.config = SimpleNamespace(**config)
    return made


def reads(self: Any, input_ids: Any = None, attention_mask: Any = None) -> None: ...
def writes(self: Any, input_ids: Any = None, decoder_input_ids: Any = None) -> None: ...
def sees(self: Any, pixel_values: Any) -> None: ...
def both(self: Any, input_ids: Any = None, pixel_values: Any = None) -> None: ...
def hears(self: Any, input_values: Any) -> None: ...
def listens(self: Any, input_features: Any, decoder_input_ids: Any = None) -> None: ...
def wants(self: Any, input_ids: Any, boxes: Any, *rest: Any, size: Any) -> None: ...
def wants_nothing(self: Any, **rest: Any) -> None: ...


VISION = SimpleNamespace(num_channels=3, image_size=16)
SHAPES: dict[str, tuple[Any, dict[str, tuple[int, ...]]]] = {
    "text": (model("input_ids", reads, **TEXT), {"input_ids": (3, 13)}),
    "few positions": (model("input_ids", reads, vocab_size=50, n_positions=9), {"input_ids": (3, 7)}),
    "choices": (model("input_ids", reads, "BertForMultipleChoice", **TEXT), {"input_ids": (3, 2, 13)}),
    "text to text": (
        model("input_ids", writes, is_encoder_decoder=True, **TEXT),
        {"input_ids": (3, 13), "decoder_input_ids": (3, 11)},
    ),
    "a pair of encoders": (
        model("input_ids", writes, is_encoder_decoder=True, decoder=SimpleNamespace(**TEXT)),
        {"input_ids": (3, 13), "decoder_input_ids": (3, 11)},
    ),
    "pixels": (model("pixel_values", sees, num_channels=1, image_size=16), {"pixel_values": (3, 1, 16, 16)}),
    "pixels of two sizes": (model("pixel_values", sees, image_size=[8, 12]), {"pixel_values": (3, 3, 8, 12)}),
    "pixels by name": (
        model("pixel_values", sees, image_size={"height": 8, "width": 12}),
        {"pixel_values": (3, 3, 8, 12)},
    ),
    "pixels of any size": (model("pixel_values", sees), {"pixel_values": (3, 3, 64, 64)}),
    "text and pixels": (
        model("input_ids", both, text_config=SimpleNamespace(**TEXT), vision_config=VISION),
        {"input_ids": (3, 13), "pixel_values": (3, 3, 16, 16)},
    ),
    "text that may hold an image": (
        model("input_ids", both, text_config=SimpleNamespace(**TEXT), vision_config=VISION, image_token_id=49),
        {"input_ids": (3, 13)},
    ),
    "a video": (
        model("pixel_values", sees, num_frames=4, image_size=16, tubelet_size=2),
        {"pixel_values": (3, 4, 3, 16, 16)},
    ),
    "a video without its frames": (
        model("pixel_values", sees, image_size=16, tubelet_size=[2, 16, 16]),
        {"pixel_values": (3, 4, 3, 16, 16)},
    ),
    "waves": (model("input_values", hears, conv_stride=[5, 2, 2]), {"input_values": (3, 280)}),
    "waves of any length": (model("input_values", hears), {"input_values": (3, 16_000)}),
    "spectra by frame": (
        model("input_values", hears, num_mel_bins=16, max_length=64),
        {"input_values": (3, 64, 16)},
    ),
    "spectra": (
        model("input_features", listens, num_mel_bins=10, max_source_positions=8, is_encoder_decoder=True, **TEXT),
        {"input_features": (3, 10, 16), "decoder_input_ids": (3, 11)},
    ),
    "features": (
        model("input_features", listens, input_feat_per_channel=20),
        {"input_features": (3, 104, 20)},
    ),
}


@pytest.mark.parametrize(("made", "shapes"), SHAPES.values(), ids=SHAPES.keys())
def test_inputs_of_transformers(made: Any, shapes: dict[str, tuple[int, ...]]) -> None:
    found = transformers_inputs(made)
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == shapes
    for name, tensor in found.items():
        assert tensor.device.type == "cpu" and tensor.is_floating_point() == (not name.endswith("ids"))
        if not tensor.is_floating_point():
            assert int(tensor.min()) >= 0 and int(tensor.max()) < 50 and len(tensor.unique()) > 5
            assert not {0, 2} & set(tensor.flatten().tolist()) or "n_positions" in vars(made.config)


@pytest.mark.parametrize(
    ("forward", "message"),
    [(wants, "give example_inputs (--input) with 'boxes', 'size'"), (wants_nothing, "give example_inputs (--input)")],
    ids=["two more arguments", "no argument that is known"],
)
def test_what_is_not_known_has_to_be_given(forward: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        transformers_inputs(model("input_ids" if forward is wants else "others", forward, **TEXT))
    assert message in str(caught.value) and "what Model is called with cannot be told" in str(caught.value)


class Config(dict[str, Any]):
    """A configuration of diffusers, as a mapping."""


def unet(
    self: Any, sample: Any, timestep: Any, encoder_hidden_states: Any, class_labels: Any = None,
    added_cond_kwargs: Any = None,
) -> None: ...  # fmt: skip
def controlled(self: Any, sample: Any, timestep: Any, controlnet_cond: Any) -> None: ...
def encoder(self: Any, sample: Any) -> None: ...
def patches(
    self: Any, hidden_states: Any, timestep: Any = None, encoder_hidden_states: Any = None,
    pooled_projections: Any = None, class_labels: Any = None, added_cond_kwargs: Any = None,
) -> None: ...  # fmt: skip
def tokens(
    self: Any, hidden_states: Any, timestep: Any = None, encoder_hidden_states: Any = None,
    pooled_projections: Any = None, img_ids: Any = None, txt_ids: Any = None, guidance: Any = None,
) -> None: ...  # fmt: skip


def diffusion(forward: Any, **config: Any) -> Any:
    made = type("Model", (nn.Module,), {"forward": forward})()
    made.config = Config(config)
    return made


DIFFUSION: dict[str, tuple[Any, dict[str, Any]]] = {
    "a UNet": (
        diffusion(unet, in_channels=4, down_block_types=["a", "b"], cross_attention_dim=[10, 10]),
        {"sample": (3, 4, 4, 6), "timestep": (3,), "encoder_hidden_states": (3, 13, 10)},
    ),
    "one that is told classes and sizes": (
        diffusion(
            unet,
            in_channels=4,
            down_block_types=["a", "b"],
            encoder_hid_dim=8,
            cross_attention_dim=10,
            num_class_embeds=5,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=36,
        ),
        {
            "sample": (3, 4, 4, 6),
            "timestep": (3,),
            "encoder_hidden_states": (3, 13, 8),
            "class_labels": (3,),
            "added_cond_kwargs": {"text_embeds": (3, 12), "time_ids": (3, 6)},
        },
    ),
    "one that is controlled": (
        diffusion(controlled, down_block_types=["a"], conditioning_embedding_out_channels=[4, 8]),
        {"sample": (3, 3, 8, 12), "timestep": (3,), "controlnet_cond": (3, 3, 16, 24)},
    ),
    "an encoder": (
        diffusion(encoder, in_channels=1, block_out_channels=[4, 8, 8]),
        {"sample": (3, 1, 8, 12)},
    ),
    "one of a size of its own": (diffusion(encoder, sample_size=20), {"sample": (3, 3, 20, 20)}),
    "one of any size": (diffusion(encoder), {"sample": (3, 3, 64, 64)}),
    "patches with positions": (
        diffusion(patches, in_channels=4, patch_size=2, sample_size=8, num_embeds_ada_norm=10),
        {"hidden_states": (3, 4, 8, 8), "timestep": (3,), "class_labels": (3,)},
    ),
    "patches of a larger map": (
        diffusion(
            patches,
            in_channels=4,
            patch_size=2,
            sample_size=8,
            pos_embed_max_size=16,
            joint_attention_dim=10,
            pooled_projection_dim=14,
        ),
        {
            "hidden_states": (3, 4, 4, 6),
            "timestep": (3,),
            "encoder_hidden_states": (3, 13, 10),
            "pooled_projections": (3, 14),
        },
    ),
    "patches with a caption": (
        diffusion(patches, in_channels=4, patch_size=2, sample_size=8, caption_channels=10),
        {
            "hidden_states": (3, 4, 8, 8),
            "timestep": (3,),
            "encoder_hidden_states": (3, 13, 10),
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        },
    ),
    "patches of a video": (
        diffusion(patches, in_channels=4, patch_size=[1, 2, 2], text_dim=10),
        {"hidden_states": (3, 4, 2, 8, 12), "timestep": (3,), "encoder_hidden_states": (3, 13, 10)},
    ),
    "tokens": (
        diffusion(tokens, in_channels=4, joint_attention_dim=10, pooled_projection_dim=14, guidance_embeds=True),
        {
            "hidden_states": (3, 17, 4),
            "img_ids": (17, 3),
            "txt_ids": (13, 3),
            "timestep": (3,),
            "encoder_hidden_states": (3, 13, 10),
            "pooled_projections": (3, 14),
            "guidance": (3,),
        },
    ),
}


@pytest.mark.parametrize(("made", "shapes"), DIFFUSION.values(), ids=DIFFUSION.keys())
def test_inputs_of_diffusers(made: Any, shapes: dict[str, Any]) -> None:
    def told(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: told(entry) for name, entry in value.items()}
        return tuple(value.shape) if isinstance(value, torch.Tensor) else value

    assert told(diffusers_inputs(made)) == shapes


def test_a_model_of_diffusers_that_is_not_known_has_to_be_told() -> None:
    with pytest.raises(ValueError, match="with 'boxes', 'size'"):
        diffusers_inputs(diffusion(lambda self, sample, boxes, *, size: None))

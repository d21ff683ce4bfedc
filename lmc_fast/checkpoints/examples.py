"""What to call a model of `transformers` or `diffusers` with, read off its configuration and its forward's arguments.

Sizes that can be chosen are primes that differ, so that none of them is taken for another.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["diffusers_inputs", "transformers_inputs"]

BATCH, TOKENS, TARGETS = 3, 13, 11
# Of a map of pixels whose size the configuration leaves open.
PIXELS = 64
# Names of a configuration's numbers that bound the length of a sequence.
LENGTHS = ("max_position_embeddings", "n_positions", "max_target_positions", "max_seq_len")


def transformers_inputs(module: Any) -> dict[str, Tensor]:
    """Keyword arguments for a model of transformers: tokens, pixels, spectra or waves, as it takes them.

    Raises:
        ValueError: it requires something else.
    """
    config = module.config
    takes = inspect.signature(module.forward).parameters
    main = module.main_input_name
    found: dict[str, Tensor] = {}
    sees = _part(config, "vision_config")
    # With tokens that stand for an image, a text alone is a whole input; without, as in CLIP, both are.
    is_pair = hasattr(config, "text_config") and sees is not None and not _holds_images(config)
    if main == "pixel_values" or (is_pair and "pixel_values" in takes):
        found["pixel_values"] = _pixels(config if sees is None else sees)
    if main == "pixel_values_videos" or (main == "pixel_values" and hasattr(config, "tubelet_size")):
        found = {main: _video(config)}
    if main in ("input_features", "input_values"):
        found[main] = _sound(config, main)
    if main in ("input_ids", "inputs_embeds") or (is_pair and "input_ids" in takes):
        found["input_ids"] = _tokens(_text(config), TOKENS, choices=type(module).__name__.endswith("MultipleChoice"))
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in takes:
        found["decoder_input_ids"] = _tokens(_text(config), TARGETS)
    _check_complete(module, found)
    return found


def _part(config: Any, name: str) -> Any:
    return getattr(config, name, None)


def _text(config: Any) -> Any:
    """The configuration of what reads and writes tokens."""
    if hasattr(config, "vocab_size"):
        return config
    for name in ("text_config", "decoder", "llm_config", "language_config"):
        if hasattr(getattr(config, name, None), "vocab_size"):
            return getattr(config, name)
    return config


def _holds_images(config: Any) -> bool:
    return any(getattr(config, name, None) is not None for name in ("image_token_id", "image_token_index"))


def _tokens(config: Any, length: int, choices: bool = False) -> Tensor:
    """Numbers of tokens, none of which the configuration gives a meaning of its own."""
    most = [int(getattr(config, name)) for name in LENGTHS if isinstance(getattr(config, name, None), int)]
    # OPT and its like count positions from 2 on.
    length = max(1, min([length, *(most_of - 2 for most_of in most if most_of > 2)]))
    vocabulary = int(getattr(config, "vocab_size", 2))
    special = {entry for name, entry in vars(config).items() if name.endswith("token_id") and isinstance(entry, int)}
    usual = [number for number in range(min(vocabulary, 200)) if number not in special] or [0]
    shape = (BATCH, 2, length) if choices else (BATCH, length)
    numbers = torch.arange(math.prod(shape), device="cpu") * 7 % len(usual)
    return torch.tensor(usual, device="cpu")[numbers].reshape(shape)


def _pixels(config: Any) -> Tensor:
    return _noise(BATCH, int(getattr(config, "num_channels", 3) or 3), *_image_size(config))


def _image_size(config: Any) -> tuple[int, int]:
    size = getattr(config, "image_size", None) or PIXELS
    if isinstance(size, dict):
        size = (size.get("height", PIXELS), size.get("width", PIXELS))
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _video(config: Any) -> Tensor:
    frames = int(getattr(config, "num_frames", None) or 2 * int(config.tubelet_size[0]))
    return _noise(BATCH, frames, int(getattr(config, "num_channels", 3)), *_image_size(config))


def _sound(config: Any, main: str) -> Tensor:
    """Waves [batch, samples], or spectra [batch, bands, frames] or [batch, frames, bands]."""
    if main == "input_values" and hasattr(config, "conv_stride"):
        # A first window, and a few steps.
        return _noise(BATCH, math.prod(config.conv_stride) * TOKENS + math.prod(config.conv_stride))
    if hasattr(config, "num_mel_bins") and hasattr(config, "max_source_positions"):
        return _noise(BATCH, int(config.num_mel_bins), 2 * int(config.max_source_positions))
    if hasattr(config, "num_mel_bins"):
        return _noise(BATCH, int(getattr(config, "max_length", 16 * TOKENS)), int(config.num_mel_bins))
    bands = getattr(config, "input_feat_per_channel", None) or getattr(config, "feature_projection_input_dim", None)
    return _noise(BATCH, 8 * TOKENS, int(bands)) if bands else _noise(BATCH, 16_000)


def _noise(*shape: int) -> Tensor:
    generator = torch.Generator(device="cpu").manual_seed(0)
    return torch.randn(shape, generator=generator, device="cpu")


def diffusers_inputs(module: Any) -> dict[str, Any]:
    """Keyword arguments for a model of diffusers.

    Raises:
        ValueError: it requires something that nothing is known of.
    """
    config = module.config
    takes = inspect.signature(module.forward).parameters
    found: dict[str, Any] = {}
    main = "sample" if "sample" in takes else "hidden_states"
    channels = int(_first(config, "in_channels", "input_channels", "num_latent_channels") or 3)
    is_tokens = "img_ids" in takes
    if is_tokens:
        found |= {main: _noise(BATCH, TOKENS + 4, channels), "img_ids": _places(TOKENS + 4), "txt_ids": _places(TOKENS)}
    else:
        found[main] = _noise(BATCH, channels, *_map_size(module, config))
    if "timestep" in takes:
        found["timestep"] = torch.arange(10, 10 + BATCH, device="cpu")
        if is_tokens:
            found["timestep"] = found["timestep"] / 1000
    width = _text_width(config)
    if width is not None and "encoder_hidden_states" in takes:
        found["encoder_hidden_states"] = _noise(BATCH, TOKENS, width)
    pooled = _first(config, "pooled_projection_dim")
    if pooled and "pooled_projections" in takes:
        found["pooled_projections"] = _noise(BATCH, int(pooled))
    if _first(config, "guidance_embeds") and "guidance" in takes:
        found["guidance"] = torch.ones(BATCH, device="cpu")
    if "class_labels" in takes and (_first(config, "num_class_embeds", "class_embed_type", "num_embeds_ada_norm")):
        found["class_labels"] = torch.arange(BATCH, device="cpu")
    if "controlnet_cond" in takes:
        # Every step but the first halves the map.
        times = 2 ** (len(_first(config, "conditioning_embedding_out_channels") or (16, 32, 96, 256)) - 1)
        found["controlnet_cond"] = _noise(BATCH, 3, *(times * size for size in found[main].shape[-2:]))
    if "added_cond_kwargs" in takes:
        found |= _added(config, main, takes)
    _check_complete(module, found)
    return found


def _added(config: Any, main: str, takes: Any) -> dict[str, Any]:
    """What a model takes beside text and time: the sizes that an image had, and a text as one vector."""
    if _first(config, "addition_embed_type") == "text_time":
        times = int(config["addition_time_embed_dim"])
        text = int(config["projection_class_embeddings_input_dim"]) - 6 * times
        return {"added_cond_kwargs": {"text_embeds": _noise(BATCH, text), "time_ids": _noise(BATCH, 6)}}
    if main == "hidden_states" and "timestep" in takes and _first(config, "caption_channels"):
        return {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}
    return {}


def _first(config: Any, *names: str) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), None)


def _text_width(config: Any) -> int | None:
    width = _first(
        config, "encoder_hid_dim", "caption_channels", "joint_attention_dim", "text_dim", "text_embed_dim",
        "cross_attention_dim",
    )  # fmt: skip
    if isinstance(width, (list, tuple)):
        width = width[0]
    return None if width is None else int(width)


def _map_size(module: nn.Module, config: Any) -> tuple[int, ...]:
    """Height and width of a map, before them its frames where it has such: as small as the model takes it."""
    blocks = _first(config, "down_block_types", "encoder_block_out_channels", "block_out_channels")
    patch = _first(config, "patch_size")
    if blocks:
        unit = 2 ** (len(blocks) - 1) * int(patch if isinstance(patch, int) else 1)
        return (2 * unit, 3 * unit) if unit > 1 else (8, 12)
    if isinstance(patch, (list, tuple)):
        return tuple(int(size) * times for size, times in zip(patch, (2, 4, 6)[-len(patch) :], strict=False))
    size = _first(config, "sample_size")
    if size is not None and _first(config, "num_embeds_ada_norm", "pos_embed_max_size") is not None:
        # Positions are learned or laid out for this size.
        return (int(size), int(size)) if _first(config, "pos_embed_max_size") is None else _patches(patch, size)
    return (int(size), int(size)) if isinstance(size, int) else (PIXELS, PIXELS)


def _patches(patch: Any, size: Any) -> tuple[int, int]:
    unit = int(patch or 1)
    return (min(2 * unit, int(size)), min(3 * unit, int(size)))


def _places(count: int) -> Tensor:
    return torch.stack([torch.arange(count, device="cpu") % base for base in (1, 5, 7)], dim=1).float()


def _check_complete(module: Any, found: dict[str, Any]) -> None:
    """ValueError where the forward requires what nothing is known of, or nothing was found at all."""
    lacks = [
        name
        for name, parameter in inspect.signature(module.forward).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name not in found
    ]
    if lacks or not found:
        raise ValueError(
            f"what {type(module).__name__} is called with cannot be told from its configuration: "
            f"give example_inputs (--input){f' with {_named(lacks)}' if lacks else ''}"
        )


def _named(names: list[str]) -> str:
    return ", ".join(_quoted(names))


def _quoted(names: list[str]) -> Iterator[str]:
    return map(repr, names)

"""Models of transformers: language, pictures, sound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .hand import Hand, free, owning
from .known import Known, Made, image

__all__ = ["TRANSFORMERS"]

_VOCABULARY, _TOKENS = 50, (2, 7)
_USUAL = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
}
_GROUPED = {**_USUAL, "num_key_value_heads": 2}


def _tokens(count: int = _TOKENS[1]) -> torch.Tensor:
    return torch.randint(0, _VOCABULARY, (_TOKENS[0], count))


def _language(name: str, head: str = "ForCausalLM", **config: Any) -> Callable[[], Made]:
    """A model of transformers by the prefix of its classes."""

    def make() -> Made:
        import transformers

        model = getattr(transformers, f"{name}{head}")(getattr(transformers, f"{name}Config")(**config))
        return model, {"input_ids": _tokens()}

    return make


def _seeing(name: str, **config: Any) -> Callable[[], Made]:
    def make() -> Made:
        import transformers

        return getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**config)), image()

    return make


def _whisper() -> Made:
    import transformers

    config = transformers.WhisperConfig(
        vocab_size=_VOCABULARY,
        d_model=24,
        encoder_layers=2,
        decoder_layers=2,
        num_mel_bins=10,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=40,
        decoder_ffn_dim=36,
        max_source_positions=8,
        max_target_positions=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    return transformers.WhisperModel(config), {
        "input_features": torch.randn(2, 10, 16),
        "decoder_input_ids": _tokens(5),
    }


def _bart() -> Made:
    import transformers

    config = transformers.BartConfig(
        vocab_size=_VOCABULARY,
        d_model=24,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=40,
        decoder_ffn_dim=36,
        max_position_embeddings=32,
    )
    return transformers.BartModel(config), {"input_ids": _tokens(), "decoder_input_ids": _tokens(5)}


def _t5() -> Made:
    import transformers

    config = transformers.T5Config(vocab_size=_VOCABULARY, d_model=24, d_kv=6, d_ff=40, num_layers=2, num_heads=4)
    return transformers.T5Model(config), {"input_ids": _tokens(), "decoder_input_ids": _tokens(5)}


def _clip() -> Made:
    import transformers

    text = {**_USUAL, "eos_token_id": 3, "bos_token_id": 1, "pad_token_id": 0}
    vision = {"hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 36}
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**vision, "image_size": 16, "patch_size": 8}, projection_dim=14
    )
    return transformers.CLIPModel(config), {"input_ids": _tokens(), "pixel_values": image()}


_VISION = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "image_size": 16,
    "patch_size": 8,
}


def _deepseek() -> Callable[[], Made]:
    usual = {k: v for k, v in _USUAL.items() if k != "max_position_embeddings"}
    return _language(
        "DeepseekV3",
        **usual,
        num_key_value_heads=4,
        n_shared_experts=1,
        n_routed_experts=6,
        n_group=2,
        topk_group=1,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        first_k_dense_replace=1,
        kv_lora_rank=10,
        q_lora_rank=12,
        qk_rope_head_dim=4,
        qk_nope_head_dim=6,
        v_head_dim=5,
    )


# Heads of an attention with their queries' dimensions and their values'; a rotary embedding tells the first apart.
_HEADS, _ROTARY = owning(4, 6, 6), owning(4, 6)
# Two heads of keys and values, each with two query heads and with one order of values.
_GROUPED_HEADS = owning(2, 2, 6)


def _decoder(attention: Hand, hidden: Hand, stream: int = 24) -> Hand:
    """A language model of two layers: the stream from the embedding to the logits, heads, hidden units."""
    return free(stream) + 2 * (attention + hidden)


# Of models that give their stream itself: that stays.
_ENCODER = 2 * (_HEADS + free(40))

TRANSFORMERS: dict[str, Known] = {
    "BERT": Known(_language("Bert", "Model", **_USUAL), _ENCODER),
    # The head's transform is in the order of the embedding, which it is multiplied with.
    "BERT, masked language": Known(_language("Bert", "ForMaskedLM", **_USUAL), free(24) + _ENCODER),
    "RoBERTa": Known(_language("Roberta", "Model", **{**_USUAL, "max_position_embeddings": 40}), _ENCODER),
    "DistilBERT": Known(
        _language(
            *("DistilBert", "Model"),
            vocab_size=_VOCABULARY,
            dim=24,
            n_layers=2,
            n_heads=4,
            hidden_dim=40,
        ),
        _ENCODER,
    ),
    # One layer, used twice, behind a narrow embedding.
    "ALBERT": Known(_language("Albert", "Model", embedding_size=10, **_USUAL), free(10) + _HEADS + free(40)),
    "GPT-2": Known(
        _language("GPT2", "LMHeadModel", vocab_size=_VOCABULARY, n_embd=24, n_layer=2, n_head=4),
        _decoder(_HEADS, free(96)),
    ),
    # A quarter of the six dimensions is turned, which is two of them.
    "GPT-NeoX": Known(_language("GPTNeoX", **_USUAL), _decoder(owning(4, 4, 6), free(40))),
    # Four of eight dimensions are turned.
    "GPT-J": Known(
        _language("GPTJ", vocab_size=_VOCABULARY, n_embd=32, n_layer=2, n_head=4, rotary_dim=4),
        _decoder(owning(4, 4, 8), free(128), 32),
    ),
    "OPT": Known(
        _language(
            "OPT",
            vocab_size=_VOCABULARY,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            ffn_dim=40,
            max_position_embeddings=32,
            word_embed_proj_dim=24,
        ),
        _decoder(_HEADS, free(40)),
    ),
    # Every head has a slope of its own: heads stay, and each has orders of its own.
    "BLOOM": Known(
        _language("Bloom", vocab_size=_VOCABULARY, hidden_size=24, n_layer=2, n_head=4),
        _decoder(4 * free(6, 6), free(96)),
    ),
    # All query heads share one head of keys and values: one order of values for all.
    "Falcon": Known(
        _language("Falcon", **{k: v for k, v in _USUAL.items() if k != "intermediate_size"}),
        _decoder(free(4, 6), free(96)),
    ),
    "Llama": Known(_language("Llama", **_USUAL), _decoder(_ROTARY, free(40))),
    "Llama, grouped queries": Known(_language("Llama", **_GROUPED), _decoder(_GROUPED_HEADS, free(40))),
    "Llama, tied": Known(_language("Llama", tie_word_embeddings=True, **_USUAL), _decoder(_ROTARY, free(40))),
    "Mistral": Known(_language("Mistral", **_GROUPED), _decoder(_GROUPED_HEADS, free(40))),
    "Qwen2": Known(_language("Qwen2", **_GROUPED), _decoder(_GROUPED_HEADS, free(40))),
    "Qwen3": Known(_language("Qwen3", head_dim=6, **_GROUPED), _decoder(_GROUPED_HEADS, free(40))),
    "Gemma 2": Known(_language("Gemma2", head_dim=6, **_GROUPED), _decoder(_GROUPED_HEADS, free(40))),
    "Phi-3": Known(
        _language("Phi3", pad_token_id=0, **{**_USUAL, "num_key_value_heads": 4}), _decoder(_ROTARY, free(40))
    ),
    "OLMo 2": Known(_language("Olmo2", **_USUAL), _decoder(_ROTARY, free(40))),
    "Mixtral": Known(_language("Mixtral", num_local_experts=3, **_GROUPED), _decoder(_GROUPED_HEADS, owning(3, 40))),
    "Qwen3-MoE": Known(
        _language("Qwen3Moe", head_dim=6, num_experts=5, num_experts_per_tok=2, moe_intermediate_size=16, **_GROUPED),
        _decoder(_GROUPED_HEADS, owning(5, 16)),
    ),
    # Queries, and keys with values, go through 12 and 10 units; four of ten dimensions are turned. The first layer is
    # dense; the second has a shared expert, and two groups of three experts.
    "DeepSeek-V3": Known(
        _deepseek(), _decoder(free(12, 10) + owning(4, 6, 5), Hand()) + free(40) + free(16) + owning(2, owning(3, 16))
    ),
    # A table of distances is added in all layers of the encoder, and of the decoder: their heads move together. Both
    # streams come out.
    "T5": Known(_t5, 2 * owning(4, 6, 6, 6, 6) + 2 * _HEADS + 4 * free(40)),
    "BART": Known(_bart, _ENCODER + 2 * (2 * _HEADS + free(36))),
    # Between both convolutions of the sound, too.
    "Whisper": Known(_whisper, free(24) + _ENCODER + 2 * (2 * _HEADS + free(36))),
    "CLIP": Known(_clip, _ENCODER + 2 * (owning(4, 5, 5) + free(36))),
    "ViT": Known(_seeing("ViT", **_VISION), _ENCODER),
    "DINOv2": Known(
        _seeing("Dinov2", **{k: v for k, v in _VISION.items() if k != "intermediate_size"}), 2 * (_HEADS + free(96))
    ),
}

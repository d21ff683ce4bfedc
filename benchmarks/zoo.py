"""Models that people use, small and with random weights, each with the groups that are in it by hand analysis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from . import models, networks

__all__ = ["MODELS", "Known", "Made"]

Made = tuple[nn.Module, Any]


@dataclass(frozen=True)
class Known:
    """A model and what is in it.

    Attributes:
        make: builds it, and inputs for it.
        groups: how many groups there are by hand analysis, owned ones counted; None: not counted.
        why: what is not found of them, and why.
    """

    make: Callable[[], Made]
    groups: int | None
    why: str = ""


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


def _image(size: int = 16) -> torch.Tensor:
    return torch.randn(2, 3, size, size)


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

        return getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**config)), _image()

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
    return transformers.CLIPModel(config), {"input_ids": _tokens(), "pixel_values": _image()}


_VISION = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "image_size": 16,
    "patch_size": 8,
}


def _torchvision(name: str, size: int = 64, **options: Any) -> Callable[[], Made]:
    def make() -> Made:
        import torchvision

        return getattr(torchvision.models, name)(weights=None, **options), _image(size)

    return make


def _timm(name: str) -> Callable[[], Made]:
    def make() -> Made:
        import timm

        return timm.create_model(name, pretrained=False), _image(224)

    return make


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
    inputs = {"sample": _image(), "timestep": torch.tensor([3, 5]), "encoder_hidden_states": torch.randn(2, 5, 10)}
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
    return model, {"sample": _image()}


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
        "hidden_states": _image(8),
        "encoder_hidden_states": torch.randn(2, 5, 10),
        "pooled_projections": torch.randn(2, 14),
        "timestep": torch.tensor([3.0, 5.0]),
    }
    return model, inputs


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


# By the package that they come from.
MODELS: dict[str, dict[str, Known]] = {
    "torch": {
        "mlp": Known(lambda: (models.small_mlp(), torch.randn(2, 4)), 2),
        "vgg with BatchNorm": Known(lambda: (models.ConvNet(), torch.randn(2, 1, 8, 8)), 3),
        "resnet": Known(lambda: (models.small_resnet(), torch.randn(2, 1, 8, 8)), 5),
        "depthwise": Known(lambda: (models.DepthwiseNet(), torch.randn(2, 2, 5, 5)), 1),
        "grouped convolution": Known(lambda: (models.GroupedNet(), torch.randn(2, 2, 5, 5)), 3),
        "GroupNorm": Known(lambda: (models.GroupNormNet(), torch.randn(2, 2, 5, 5)), 2),
        "experts": Known(lambda: (models.Experts(), torch.randn(2, 5)), 2),
        "nn.TransformerEncoder": Known(
            lambda: (
                nn.TransformerEncoder(
                    nn.TransformerEncoderLayer(12, 3, 20, batch_first=True), 2, enable_nested_tensor=False
                ),
                torch.randn(2, 5, 12),
            ),
            8,
        ),
        "pre-activation ResNet": Known(lambda: (networks.PreActivationResNet(), torch.randn(2, 3, 8, 12)), 6),
        "WideResNet": Known(lambda: (networks.WideResNet(), torch.randn(2, 3, 8, 12)), 6),
        "ResNet, padded shortcuts": Known(
            lambda: (networks.PaddedResNet(), torch.randn(2, 3, 8, 12)),
            8,
            "channels of zeros on both sides of a shortcut could change places too: no axis can say that",
        ),
        "GroupNorm U-Net": Known(lambda: (networks.GroupNormUNet(), (torch.randn(2, 3, 8, 12), torch.randn(2, 1))), 23),
        "MLP-Mixer": Known(lambda: (networks.Mixer(), torch.randn(2, 3, 8, 12)), 5),
        "LSTM": Known(lambda: (networks.Recurrent(), _tokens(4) % 11), 2),
        "LSTM, two layers, both directions": Known(
            lambda: (networks.Recurrent(num_layers=2, bidirectional=True), _tokens(4) % 11), 5
        ),
        "GRU, two layers": Known(lambda: (networks.Recurrent(nn.GRU, num_layers=2), _tokens(4) % 11), 3),
    },
    "torchvision": {
        "resnet18": Known(_torchvision("resnet18"), 12),
        "resnet50": Known(_torchvision("resnet50"), 37),
        "wide_resnet50_2": Known(_torchvision("wide_resnet50_2"), 37),
        "resnext50_32x4d": Known(_torchvision("resnext50_32x4d"), 53),
        "densenet121": Known(_torchvision("densenet121"), 120),
        "mobilenet_v2": Known(_torchvision("mobilenet_v2"), 25),
        "mobilenet_v3_small": Known(_torchvision("mobilenet_v3_small"), 27),
        "efficientnet_b0": Known(_torchvision("efficientnet_b0"), 40),
        "convnext_tiny": Known(_torchvision("convnext_tiny"), 22),
        "regnet_y_400mf": Known(_torchvision("regnet_y_400mf"), 69),
        "shufflenet_v2_x1_0": Known(_torchvision("shufflenet_v2_x1_0"), None),
        "vgg11_bn": Known(_torchvision("vgg11_bn"), 10),
        "swin_t": Known(_torchvision("swin_t"), 52),
        "vit_b_16": Known(_torchvision("vit_b_16", image_size=64), 49),
        "inception_v3": Known(_torchvision("inception_v3", 96, init_weights=False), 94),
        "squeezenet1_1": Known(_torchvision("squeezenet1_1"), 25),
        "mnasnet0_5": Known(_torchvision("mnasnet0_5"), 25),
        "googlenet": Known(_torchvision("googlenet", init_weights=False), 57),
    },
    "timm": {
        "deit_tiny_patch16_224": Known(_timm("deit_tiny_patch16_224"), 49),
        "mixer_s32_224": Known(_timm("mixer_s32_224"), 17),
        "swin_tiny_patch4_window7_224": Known(_timm("swin_tiny_patch4_window7_224"), 52),
        "resnetv2_50": Known(_timm("resnetv2_50"), 37),
        "convnextv2_atto": Known(_timm("convnextv2_atto"), 16),
        "levit_128s": Known(_timm("levit_128s"), None),
    },
    "transformers": {
        "BERT": Known(_language("Bert", "Model", **_USUAL), 8),
        "BERT, masked language": Known(_language("Bert", "ForMaskedLM", **_USUAL), 9),
        "RoBERTa": Known(_language("Roberta", "Model", **{**_USUAL, "max_position_embeddings": 40}), 8),
        "DistilBERT": Known(
            _language(
                *("DistilBert", "Model"),
                vocab_size=_VOCABULARY,
                dim=24,
                n_layers=2,
                n_heads=4,
                hidden_dim=40,
            ),
            8,
        ),
        "ALBERT": Known(_language("Albert", "Model", embedding_size=10, **_USUAL), 5),
        "GPT-2": Known(_language("GPT2", "LMHeadModel", vocab_size=_VOCABULARY, n_embd=24, n_layer=2, n_head=4), 9),
        "GPT-NeoX": Known(_language("GPTNeoX", **_USUAL), 9),
        "GPT-J": Known(_language("GPTJ", vocab_size=_VOCABULARY, n_embd=32, n_layer=2, n_head=4, rotary_dim=4), 9),
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
            9,
        ),
        "BLOOM": Known(_language("Bloom", vocab_size=_VOCABULARY, hidden_size=24, n_layer=2, n_head=4), 19),
        "Falcon": Known(
            _language("Falcon", **{k: v for k, v in _USUAL.items() if k != "intermediate_size"}),
            7,
            "query heads and value dimensions: heads are picked by a list of numbers, and stay",
        ),
        "Llama": Known(_language("Llama", **_USUAL), 7),
        "Llama, grouped queries": Known(_language("Llama", **_GROUPED), 9),
        "Llama, tied": Known(_language("Llama", tie_word_embeddings=True, **_USUAL), 7),
        "Mistral": Known(_language("Mistral", **_GROUPED), 9),
        "Qwen2": Known(_language("Qwen2", **_GROUPED), 9),
        "Qwen3": Known(_language("Qwen3", head_dim=6, **_GROUPED), 9),
        "Gemma 2": Known(_language("Gemma2", head_dim=6, **_GROUPED), 9),
        "Phi-3": Known(_language("Phi3", pad_token_id=0, **{**_USUAL, "num_key_value_heads": 4}), 7),
        "OLMo 2": Known(_language("Olmo2", **_USUAL), 7),
        "Mixtral": Known(_language("Mixtral", num_local_experts=3, **_GROUPED), 11),
        "Qwen3-MoE": Known(
            _language(
                "Qwen3Moe", head_dim=6, num_experts=5, num_experts_per_tok=2, moe_intermediate_size=16, **_GROUPED
            ),
            11,
        ),
        "DeepSeek-V3": Known(_deepseek(), 16),
        "T5": Known(
            _t5,
            20,
            "heads of both cross attentions move together: the zeros in place of a bias are one value",
        ),
        "BART": Known(_bart, 22),
        "Whisper": Known(_whisper, 23),
        "CLIP": Known(_clip, 16),
        "ViT": Known(_seeing("ViT", **_VISION), 8),
        "DINOv2": Known(_seeing("Dinov2", **{k: v for k, v in _VISION.items() if k != "intermediate_size"}), 8),
    },
    "diffusers": {
        "UNet2DConditionModel": Known(_unet, None),
        "AutoencoderKL": Known(_autoencoder, None),
        "SD3Transformer2DModel": Known(_sd3, None),
    },
}

"""`architectures`: what `derive_spec` finds in models of torch and transformers, small and with random weights.

Of every model the spec is tried by `verify_spec`, and the row says what that gave. Models of packages that are not
installed are left out.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import lmc_fast as lmc

from . import models
from .options import add_out
from .report import Report, table
from .solvers import version_of

__all__ = ["MODELS", "register"]

Made = tuple[nn.Module, Any]
_COLUMNS = ("model", "package", "groups", "owned", "units", "log10_permutations", "error", "seconds", "notes", "status")
COLUMNS = ("command", *_COLUMNS, "version", "commit", "python", "torch", "cpu", "cores", "threads", "numpy")
# Of the float64 of right specs.
MOST_ERROR = 1e-10

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
# By the package that they come from.
MODELS: dict[str, dict[str, Callable[[], Made]]] = {
    "torch": {
        "mlp": lambda: (models.small_mlp(), torch.randn(2, 4)),
        "vgg with BatchNorm": lambda: (models.ConvNet(), torch.randn(2, 1, 8, 8)),
        "resnet": lambda: (models.small_resnet(), torch.randn(2, 1, 8, 8)),
        "depthwise": lambda: (models.DepthwiseNet(), torch.randn(2, 2, 5, 5)),
        "grouped convolution": lambda: (models.GroupedNet(), torch.randn(2, 2, 5, 5)),
        "GroupNorm": lambda: (models.GroupNormNet(), torch.randn(2, 2, 5, 5)),
        "experts": lambda: (models.Experts(), torch.randn(2, 5)),
        "nn.TransformerEncoder": lambda: (
            nn.TransformerEncoder(
                nn.TransformerEncoderLayer(12, 3, 20, batch_first=True), 2, enable_nested_tensor=False
            ),
            torch.randn(2, 5, 12),
        ),
        "nn.LSTM": lambda: (nn.LSTM(5, 7, batch_first=True), torch.randn(2, 6, 5)),
    },
    "transformers": {
        "BERT": _language("Bert", "Model", **_USUAL),
        "BERT, masked language": _language("Bert", "ForMaskedLM", **_USUAL),
        "RoBERTa": _language("Roberta", "Model", **{**_USUAL, "max_position_embeddings": 40}),
        "DistilBERT": _language(
            *("DistilBert", "Model"),
            vocab_size=_VOCABULARY,
            dim=24,
            n_layers=2,
            n_heads=4,
            hidden_dim=40,
        ),
        "ALBERT": _language("Albert", "Model", embedding_size=10, **_USUAL),
        "GPT-2": _language("GPT2", "LMHeadModel", vocab_size=_VOCABULARY, n_embd=24, n_layer=2, n_head=4),
        "GPT-NeoX": _language("GPTNeoX", **_USUAL),
        "GPT-J": _language("GPTJ", vocab_size=_VOCABULARY, n_embd=32, n_layer=2, n_head=4, rotary_dim=4),
        "OPT": _language(
            "OPT",
            vocab_size=_VOCABULARY,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            ffn_dim=40,
            max_position_embeddings=32,
            word_embed_proj_dim=24,
        ),
        "BLOOM": _language("Bloom", vocab_size=_VOCABULARY, hidden_size=24, n_layer=2, n_head=4),
        "Falcon": _language("Falcon", **{k: v for k, v in _USUAL.items() if k != "intermediate_size"}),
        "Llama": _language("Llama", **_USUAL),
        "Llama, grouped queries": _language("Llama", **_GROUPED),
        "Llama, tied": _language("Llama", tie_word_embeddings=True, **_USUAL),
        "Mistral": _language("Mistral", **_GROUPED),
        "Qwen2": _language("Qwen2", **_GROUPED),
        "Qwen3": _language("Qwen3", head_dim=6, **_GROUPED),
        "Gemma 2": _language("Gemma2", head_dim=6, **_GROUPED),
        "Phi-3": _language("Phi3", pad_token_id=0, **{**_USUAL, "num_key_value_heads": 4}),
        "OLMo 2": _language("Olmo2", **_USUAL),
        "Mixtral": _language("Mixtral", num_local_experts=3, **_GROUPED),
        "T5": _t5,
        "BART": _bart,
        "Whisper": _whisper,
        "CLIP": _clip,
        "ViT": _seeing("ViT", **_VISION),
        "DINOv2": _seeing("Dinov2", **{k: v for k, v in _VISION.items() if k != "intermediate_size"}),
    },
}


def register(commands: argparse._SubParsersAction) -> None:
    """Add `architectures`."""
    parser = commands.add_parser("architectures", help="what derive_spec finds in models that people use")
    parser.add_argument("--only", default="", help="models whose name holds this")
    add_out(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `architectures`; 1 if a spec is wrong, or cannot be had."""
    wrong = 0
    with Report(arguments.out, "architectures", COLUMNS) as report:
        for package, known in MODELS.items():
            if package != "torch" and not version_of(package):
                print(f"{package} is not installed: its models are left out")
                continue
            for name, make in known.items():
                if arguments.only in name:
                    row = row_of(make)
                    report.add(model=name, package=package, version=version_of(package), **row)
                    wrong += row["status"] != "ok"
        print(table(report.rows, _COLUMNS))
        print(f"rows: {report.path}")
    return int(wrong > 0)


def row_of(make: Callable[[], Made]) -> dict[str, Any]:
    """Derive the spec of one model and try it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model, inputs = make()
        model.eval()
        began = time.perf_counter()
        try:
            spec = lmc.derive_spec(model, inputs, verify=False)
        except ValueError as error:
            return {"status": f"not traced: {' '.join(str(error).split())[:160]}"}
        seconds = time.perf_counter() - began
        told = spec.explain()
        row: dict[str, Any] = {
            "groups": len(told.groups),
            "owned": sum(group.owner is not None for group in told.groups),
            "units": sum(group.units for group in told.groups),
            "log10_permutations": told.log10_permutations,
            "seconds": seconds,
            "notes": "; ".join(told.notes),
        }
        try:
            error = lmc.verify_spec(model, spec, inputs) if spec.groups else 0.0
        except ValueError as problem:
            return {**row, "status": f"wrong or not tried: {' '.join(str(problem).split())[:160]}"}
    return {**row, "error": error, "status": "ok" if error <= MOST_ERROR else "wrong"}

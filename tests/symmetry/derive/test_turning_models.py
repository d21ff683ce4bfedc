"""What turns in models that people use, small and with random weights; and what is done about a fault of ours."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast.symmetry import Centre, Fold, Reader
from lmc_fast.symmetry.derive import build, source

from ...slow import slow_but
from ..turning import Decoder, tokens

WIDTH = 24
TOKENS = {"input_ids": torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(0))}
USUAL = {
    "vocab_size": 50,
    "hidden_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
}
GROUPED = {**USUAL, "num_key_value_heads": 2}
IMAGE = {"image_size": 16, "patch_size": 8, "num_labels": 5}
VISION = {name: USUAL[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
GPT2 = {"vocab_size": 50, "n_embd": WIDTH, "n_layer": 1, "n_head": 4, "n_positions": 32}
T5 = {"vocab_size": 50, "d_model": WIDTH, "d_kv": 6, "d_ff": 40, "num_layers": 1, "num_heads": 4}
ONES, TURNS, STAYS, PLANES = "orthogonal_keeping_ones", "orthogonal", "permutation", "phases"
HEADS = {(4, STAYS): 1, (6, TURNS): 2}
KV = {(2, STAYS): 2, (3, PLANES): 1, (6, TURNS): 1, (40, STAYS): 1}

# The class, its configuration, and how many groups there are of each size and kind.
MODELS: dict[str, tuple[str, dict[str, Any], dict[tuple[int, str], int]]] = {
    "ViT": (
        "ViTForImageClassification",
        {**VISION, **IMAGE, "intermediate_size": 40},
        {**HEADS, (40, STAYS): 1, (WIDTH, ONES): 1},
    ),
    "DINOv2": ("Dinov2ForImageClassification", {**VISION, **IMAGE}, {**HEADS, (96, STAYS): 1, (WIDTH, ONES): 1}),
    "GPT-2": (
        "GPT2LMHeadModel",
        {**GPT2, "bos_token_id": 0, "eos_token_id": 0},
        {**HEADS, (96, STAYS): 1, (WIDTH, ONES): 1},
    ),
    "Llama": ("LlamaForCausalLM", GROUPED, {**KV, (WIDTH, TURNS): 1}),
    "Llama, tied": ("LlamaForCausalLM", {**GROUPED, "tie_word_embeddings": True}, {**KV, (WIDTH, TURNS): 1}),
    "Qwen3": (
        "Qwen3ForCausalLM",
        {**GROUPED, "head_dim": 6},
        {(2, STAYS): 2, (6, TURNS): 1, (40, STAYS): 1, (WIDTH, TURNS): 1},
    ),
    "Gemma": ("GemmaForCausalLM", {**GROUPED, "head_dim": 6}, {**KV, (WIDTH, TURNS): 1}),
    "Mixtral": (
        "MixtralForCausalLM",
        {**GROUPED, "num_local_experts": 3},
        {**KV, (3, STAYS): 1, (WIDTH, TURNS): 1},
    ),
    # The norms' outputs are the stream.
    "BERT": ("BertForSequenceClassification", USUAL, {**HEADS, (40, STAYS): 1, (WIDTH, STAYS): 2}),
    # The model gives the encoder's stream, which shares its embeddings with the decoder's.
    "T5": ("T5ForConditionalGeneration", T5, {(4, STAYS): 3, (6, TURNS): 6, (40, STAYS): 2}),
}


def made(name: str) -> tuple[nn.Module, Any, dict[tuple[int, str], int]]:
    transformers = pytest.importorskip("transformers")
    architecture, config, kinds = MODELS[name]
    torch.manual_seed(0)
    kind = getattr(transformers, architecture)
    model = kind(kind.config_class(**config)).eval()
    with torch.no_grad():
        for key, each in model.named_parameters():
            if each.ndim == 1 or "norm" in key:
                each.add_(0.2 * torch.randn_like(each))
    given: Any = TOKENS if "vocab_size" in config else torch.randn(2, 3, 16, 16)
    if name == "T5":
        given = {**TOKENS, "decoder_input_ids": TOKENS["input_ids"][:, :5]}
    return model, given, kinds


def outputs(model: nn.Module, given: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = (model(**given) if isinstance(given, dict) else model(given)).logits
    return found


@pytest.mark.parametrize("name", slow_but(MODELS, ("ViT", "GPT-2", "Llama, tied").__contains__))
def test_what_turns_in_models_of_transformers(name: str) -> None:
    model, given, kinds = made(name)
    spec = lmc.derive_spec(model, given, rotations=True)
    assert spec.explain().notes == ()
    assert spec.verified is not None
    assert Counter((group.size, group.kind) for group in spec.groups.values()) == kinds
    wanted = outputs(model, given)
    pure = lmc.fold_norms(model, spec, example_inputs=given)
    turned = lmc.Transforms.random(spec, seed=1).apply(pure)
    assert float((outputs(turned, given) - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())
    assert bool(spec.folds) == (name not in ("BERT", "T5"))


@pytest.mark.parametrize("name", ["Llama, tied", "GPT-2", "ViT"])
def test_pure_models_are_saved_and_loaded_by_their_own_class(name: str, tmp_path: Path) -> None:
    model, given, _ = made(name)
    spec = lmc.derive_spec(model, given, rotations=True, verify=False)
    pure: Any = lmc.fold_norms(model, spec)
    with contextlib.redirect_stderr(io.StringIO()):
        pure.save_pretrained(tmp_path)
        again = type(pure).from_pretrained(tmp_path).eval()
    wanted = outputs(model, given)
    assert float((outputs(again, given) - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())
    if name != "ViT":
        assert not again.config.tie_word_embeddings
        assert bool(model.config.tie_word_embeddings)  # type: ignore[union-attr]


def small() -> tuple[Decoder, Tensor]:
    torch.manual_seed(0)
    return Decoder("rms").eval(), tokens()


def test_a_fold_that_fails_is_left_out_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    of_gains = source._folds

    def wrong(gains: Any) -> list[Fold]:
        return [Fold(f.weight, f.readers[:1]) if len(f.readers) > 2 else f for f in of_gains(gains)]

    monkeypatch.setattr(source, "_folds", wrong)
    spec = lmc.derive_spec(*small(), rotations=True)
    assert spec.verified is not None
    assert spec.folds == ()
    assert any("'blocks.0.norm1.weight' was to be folded" in note for note in spec.explain().notes)
    assert (12, "permutation") in {(group.size, group.kind) for group in spec.groups.values()}


def test_a_mean_that_counts_is_left_in_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_centres", lambda gains, built: [Centre("embed.weight", 1)])
    spec = lmc.derive_spec(*small(), rotations=True)
    assert spec.verified is not None
    assert not any(isinstance(fold, Centre) for fold in spec.folds)
    assert len(spec.folds) == 5
    assert any("'embed.weight'" in note for note in spec.explain().notes)


def as_turning(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Have the units of groups of this size be taken for an axis that turns freely."""
    original = build._kind
    monkeypatch.setattr(build, "_kind", lambda walked, atom: TURNS if atom.size == size else original(walked, atom))


def test_a_stream_that_must_not_turn_is_pinned_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    as_turning(monkeypatch, 12)
    model = Decoder("layer").eval()
    spec = lmc.derive_spec(model, tokens(), rotations=True)
    assert spec.verified is not None
    assert any("was found, and changes the outputs" in note for note in spec.explain().notes)
    # No norm has to be folded for what stays.
    assert spec.folds == ()
    assert 12 not in {group.size for group in spec.groups.values()}


def test_units_that_must_not_turn_are_pinned_and_the_rest_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    as_turning(monkeypatch, 10)
    spec = lmc.derive_spec(*small(), rotations=True)
    assert spec.verified is not None
    assert len(spec.folds) == 5
    assert 10 not in {group.size for group in spec.groups.values()}
    assert (12, TURNS) in {(group.size, group.kind) for group in spec.groups.values()}


def test_folds_are_told_with_what_they_do_to_ties() -> None:
    torch.manual_seed(0)
    spec = lmc.derive_spec(Decoder("layer", tied=True).eval(), tokens(), rotations=True)
    told = spec.explain()
    assert "norm.weight into head.weight; norm.bias stays, divided by it; head.weight is untied from embed.weight" in (
        told.folds
    )
    assert "the mean of places is taken out" in told.folds
    assert {"kind", "stiff"} <= told.to_dict()["groups"][0].keys()
    assert spec.folds[0].readers[0] == Reader("blocks.0.q.weight", 1, "blocks.0.q.bias")  # type: ignore[union-attr]
    edited = spec.edit(rename={"blocks.0.up": "units"})
    assert next(group for group in edited.explain().groups if group.name == "units").stiff.startswith("aten.gelu")

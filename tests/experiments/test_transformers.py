"""Small transformers of the experiments: their data, their pure form, and what may be turned in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast.experiments.cache import ModelCache
from lmc_fast.experiments.datasets import Dataset
from lmc_fast.experiments.transformers import (
    KINDS,
    Decoder,
    TransformerRecipe,
    VisionTransformer,
    mean_loss,
    sources,
)

from .turned_by_hand import pure_form, rotation_spec


def built(kind: str, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """An untrained model whose numbers are all random, norms and biases too, and inputs for it."""
    generator = torch.Generator().manual_seed(seed)
    if kind.startswith("vit"):
        model: nn.Module = VisionTransformer((1, 6, 4), 2, 12, 2, 3, 5, layernorm=kind == "vit-ln")
        inputs = torch.randn(4, 1, 6, 4, generator=generator)
    else:
        model = Decoder(9, 12, 2, 3, rotary=kind == "lm-rope")
        inputs = torch.randint(0, 256, (4, 9), generator=generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model.double(), inputs if not inputs.is_floating_point() else inputs.double()


@pytest.mark.parametrize("kind", KINDS)
def test_the_pure_form_computes_the_same_with_norms_that_do_nothing(kind: str) -> None:
    model, inputs = built(kind)
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pure = pure_form(model)
    assert torch.allclose(pure(inputs), model(inputs), rtol=1e-10, atol=1e-10)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())
    norms = {name: tensor for name, tensor in pure.state_dict().items() if "norm" in name}
    assert len(norms) == (10 if kind == "vit-ln" else 5)
    for name, tensor in norms.items():
        assert bool((tensor == (1.0 if name.endswith("weight") else 0.0)).all()), name


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_turning_keeps_what_the_pure_form_computes(kind: str, seed: int) -> None:
    model, inputs = built(kind)
    pure = pure_form(model)
    spec = rotation_spec(model)
    turned = lmc.Transforms.random(spec, seed).apply(pure)
    assert torch.allclose(turned(inputs), model(inputs), rtol=1e-9, atol=1e-9)
    for name, tensor in turned.state_dict().items():
        still = "norm" in name or name == "head.bias"
        assert torch.equal(tensor, pure.state_dict()[name]) == still, name


@pytest.mark.parametrize("kind", KINDS)
def test_the_spec_by_hand_keeps_the_function_and_is_of_pure_models_alone(kind: str) -> None:
    model, inputs = built(kind)
    spec = rotation_spec(model)
    assert lmc.verify_spec(model, spec, inputs) < 1e-10
    with pytest.raises(ValueError, match="must be in pure form"):
        lmc.Transforms.random(spec, 0).apply(model)


def renamed(spec: lmc.PermutationSpec) -> lmc.PermutationSpec:
    """With its groups numbered as they turn up on the parameters' axes."""
    order = dict.fromkeys(name for _, axes in sorted(spec.axes.items()) for axis in axes for name in axis.groups)
    return spec.edit(rename={name: f"{k}" for k, name in enumerate(order)})


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_derived_is_what_is_in_it_by_hand(kind: str) -> None:
    model, inputs = built(kind)
    derived, by_hand = lmc.derive_spec(model, inputs, rotations=True), rotation_spec(model)
    assert renamed(derived).axes == renamed(by_hand).axes
    assert dict(renamed(derived).groups) == dict(renamed(by_hand).groups)
    assert set(derived.folds) == set(by_hand.folds)


def test_kinds_of_groups_are_those_that_norms_and_positions_permit() -> None:
    kinds = {kind: rotation_spec(built(kind)[0]).groups for kind in KINDS}
    assert kinds["vit-ln"]["stream"].kind == "orthogonal_keeping_ones"
    assert kinds["vit-rms"]["stream"].kind == kinds["lm-pos"]["query_key1"].kind == "orthogonal"
    assert kinds["lm-rope"]["query_key1"].kind == "phases" and kinds["lm-rope"]["query_key1"].size == 2
    assert {groups["unit0"].kind for groups in kinds.values()} == {"permutation"}


def test_a_decoder_sees_nothing_of_what_comes_next() -> None:
    model, text = built("lm-rope")
    changed = text.clone()
    changed[:, 5:] = 0
    assert torch.allclose(model(text)[:, :5], model(changed)[:, :5])
    assert not torch.allclose(model(text)[:, 5:], model(changed)[:, 5:])


def test_rotary_embedding_knows_distances_alone() -> None:
    model, _ = built("lm-rope")
    repeated = torch.full((1, 9), 7)
    # Of equal bytes, attention gives each the same, wherever it stands; with learned positions it does not.
    outputs = model(repeated)
    assert torch.allclose(outputs, outputs[:, :1].expand_as(outputs))
    assert not torch.allclose(
        model(torch.arange(9)[None])[:, 8], model(torch.tensor([[1, 0, 2, 3, 4, 5, 6, 7, 8]]))[:, 8]
    )


def test_sources_are_bytes_and_what_comes_next() -> None:
    data = sources(64, 8, 32)
    assert data.train_inputs.shape == (64, 32) and data.test_targets.shape == (8, 32)
    assert torch.equal(data.train_inputs[:, 1:], data.train_targets[:, :-1])
    text = bytes(data.train_inputs.flatten().tolist())
    assert b"import" in text or b'"""' in text
    assert sources(64, 8, 32).fingerprint == data.fingerprint
    assert sources(65, 8, 32).fingerprint != data.fingerprint


def test_the_loss_is_the_mean_over_all_that_is_told() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, classes = torch.randn(2, 3, 5, generator=generator), torch.randint(0, 5, (2, 3), generator=generator)
    plain = -logits.log_softmax(-1).gather(-1, classes[..., None]).mean()
    assert torch.allclose(mean_loss(logits, classes), plain)
    assert torch.allclose(
        mean_loss(logits[:, 0], classes[:, 0]), nn.functional.cross_entropy(logits[:, 0], classes[:, 0])
    )


@pytest.mark.parametrize("kind", ["vit-rms", "lm-pos"])
def test_recipes_train_once_and_are_kept(kind: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    if kind.startswith("vit"):
        classes = torch.arange(64) % 2
        images = torch.randn(64, 1, 4, 4, generator=generator) + 2.0 * classes[:, None, None, None]
        data = Dataset("toy", images, classes, images, classes)
    else:
        text = (torch.arange(65) % 3).repeat(64, 1)[:, :9]
        data = Dataset("toy", text[:, :-1], text[:, 1:], text[:, :-1], text[:, 1:])
    recipe = TransformerRecipe(kind, 8, 1, heads=2, passes=20, learning_rate=1e-2, batch_size=32, patch=2)
    cache = ModelCache(tmp_path)
    model = cache.get(recipe, data, 3)
    untrained = recipe.build(data)
    losses = [lmc.evaluate(m, data.test_batches(), loss_fn=mean_loss)[0] for m in (untrained, model)]
    assert losses[1] < 0.5 * losses[0]
    again = cache.get(recipe, data, 3)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert len(list(tmp_path.iterdir())) == 1


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"kind must be one of 'vit-ln'.* got 'vit'"):
        TransformerRecipe("vit", 8, 1)

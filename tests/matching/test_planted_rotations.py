"""Elements of every kind, planted in transformers, are found by weights; every model computes what it did."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from benchmarks import models, turning

from ..symmetry.turning import Decoder, spec_of, tokens


class Kind(NamedTuple):
    build: Callable[[], nn.Module]
    spec: Callable[[nn.Module], lmc.PermutationSpec]
    inputs: Callable[[torch.dtype], Tensor]


def decoder(norm: str, rotary: str, tied: bool) -> Kind:
    return Kind(
        lambda: Decoder(norm, rotary, tied),
        lambda model: spec_of(model, norm, rotary, tied),  # type: ignore[arg-type]
        lambda dtype: tokens(),
    )


KINDS = {
    "vit": Kind(
        lambda: turning.ViT(layers=3, width=18, heads=3, hidden=25, inputs=11),
        lambda model: turning.vit_spec(model),  # type: ignore[arg-type]
        lambda dtype: torch.randn(4, turning.PATCHES, 11, generator=torch.Generator().manual_seed(0)).to(dtype),
    ),
    "gpt-2": decoder("layer", "", tied=True),
    "grouped-query llama": decoder("rms", "halves", tied=False),
    "grouped-query, pairs": decoder("rms", "interleaved", tied=True),
    "gemma": decoder("gemma", "halves", tied=False),
}


def made(kind: str, dtype: torch.dtype, seed: int) -> tuple[nn.Module, lmc.PermutationSpec]:
    """A random model in pure form, and its spec."""
    torch.manual_seed(seed)
    model = KINDS[kind].build().to(dtype).eval()
    if kind == "vit":
        # Norms without gains are in pure form.
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                if "norm" not in name:
                    tensor.normal_(0, 0.3)
    else:
        models.randomise(model, seed)
    spec = KINDS[kind].spec(model)
    pure = lmc.fold_norms(model, spec)
    return pure, spec.bind(pure)


@pytest.mark.parametrize(("dtype", "kept"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=["32", "64"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_one_is_found(kind: str, dtype: torch.dtype, kept: float, draws: Callable[[int, int], range]) -> None:
    for seed in draws(1, 3):
        model, spec = made(kind, dtype, seed)
        truth = lmc.Transforms.random(spec, seed)
        other = truth.inverse().apply(model)
        match = lmc.weight_matching(model, other, spec)
        moved = match.apply(other)
        for (name, a), b in zip(model.named_parameters(), moved.parameters(), strict=True):
            a, b = a.detach(), b.detach()
            assert float((a - b).abs().max()) < 1e-4 * max(1.0, float(a.abs().max())), name
        inputs = KINDS[kind].inputs(dtype)
        with torch.no_grad():
            outputs = [each(inputs) for each in (other, moved, model)]
        for each in outputs[1:]:
            assert float((each - outputs[0]).abs().max()) < kept * float(outputs[0].abs().max())


@pytest.mark.parametrize("kind", KINDS)
def test_with_noise_it_is_as_near_as_the_planted_one(kind: str) -> None:
    model, spec = made(kind, torch.float64, 7)
    truth = lmc.Transforms.random(spec, 7)
    other = truth.inverse().apply(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in other.named_parameters():
            if "norm" not in name:
                tensor.add_(0.1 * tensor.std() * torch.randn(tensor.shape, generator=generator).double())
    match = lmc.weight_matching(model, other, spec)
    planted = lmc.weight_matching(model, other, spec, init=truth, max_sweeps=1)
    assert match.l2_after <= 1.01 * planted.l2_after < 0.3 * match.l2_before


def test_models_that_are_not_folded_are_refused() -> None:
    torch.manual_seed(0)
    model = Decoder("rms", "halves")
    spec = spec_of(model, "rms", "halves")
    pure = lmc.fold_norms(model, spec)
    with pytest.raises(ValueError, match=r"model_a must be in pure form .* lmc.fold_norms\(model_a, spec\)"):
        lmc.weight_matching(model, pure, spec)
    with pytest.raises(ValueError, match="model_b must be in pure form"):
        lmc.weight_matching(pure, model, spec)
    with pytest.raises(ValueError, match=r"models\[1\] must be in pure form"):
        lmc.match_many([pure, model, pure], spec)
    choice = lmc.Transforms.random(spec.bind(pure), 0)
    with pytest.raises(ValueError, match="model must be in pure form"):
        choice.apply(model)
    for a, b, name in ((model, pure, "model_a"), (pure, model, "model_b")):
        with pytest.raises(ValueError, match=f"{name} must be in pure form"):
            lmc.interpolate(a, b, 0.5, choice)
    with pytest.raises(ValueError, match=r"models\[0\] must be in pure form"):
        lmc.merge([model, pure], [None, choice])
    with pytest.raises(ValueError, match="tuned must be in pure form"):
        lmc.rebase(model, pure, pure, choice)

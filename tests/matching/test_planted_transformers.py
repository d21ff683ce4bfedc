"""Permutations planted in transformers are found with derived specs, by weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from benchmarks import models, transformer_kinds
from benchmarks.planted import count_found, with_noise

from ..small_transformers import GPT, TOKENS, Bert, Llama, ViT

KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "bert": (Bert, lambda: torch.randint(0, 30, (2, TOKENS))),
    "gpt": (GPT, lambda: torch.randint(0, 30, (2, TOKENS))),
    "vit": (ViT, lambda: torch.randn(2, 3, 8, 8)),
    "llama": (Llama, lambda: torch.randint(0, 30, (2, TOKENS))),
}


def initialised(model: nn.Module, seed: int) -> nn.Module:
    """As new models of transformers are: small weights, norms of one, biases of zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.02, generator=generator)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    return model.eval()


@cache
def derived(kind: str) -> lmc.PermutationSpec:
    build, draw = KINDS[kind]
    # Whoever is first to ask draws what all others do.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return lmc.derive_spec(build(), draw())


@pytest.mark.parametrize("seeds", [range(1), pytest.param(range(1, 5), marks=pytest.mark.slow)], ids=["one", "more"])
@pytest.mark.parametrize("noise", [0.0, 0.1], ids=["exact", "noisy"])
@pytest.mark.parametrize("weights", ["drawn", "untouched"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_one_is_found(kind: str, weights: str, noise: float, seeds: range) -> None:
    build, spec = KINDS[kind][0], derived(kind)
    for seed in seeds:
        model = (models.randomise if weights == "drawn" else initialised)(build(), seed)
        truth = lmc.Permutations.random(spec.bind(model), seed)
        other = with_noise(truth.inverse().apply(model).state_dict(), noise, seed)
        match = lmc.weight_matching(model, other, spec)
        assert match.permutations == truth
        assert noise > 0 or match.l2_after == 0


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["drawn", "untouched"])
@pytest.mark.parametrize("kind", transformer_kinds.KINDS)
def test_those_of_transformers(kind: str, weights: str) -> None:
    pytest.importorskip("transformers")
    for noise in (0.0, 0.1):
        assert count_found(kind, noise, 3, weights=weights).right == 3


def test_equal_units_may_change_places(monkeypatch: pytest.MonkeyPatch) -> None:
    # All weights are 1: no permutation is told from another, and each gives the model back.
    monkeypatch.setattr(models, "randomise", lambda model, seed: ones(model))
    assert count_found("mlp", 0.0, 2).right == 2
    assert count_found("mlp", 0.1, 2).right == 0


def ones(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    return model

"""Weights that are computed in more than one step: a norm of what is pruned, say."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import lmc_fast as lmc
from lmc_fast._copies import copied
from lmc_fast._derived import bake, derived_weights, effective_tensors

from .test_derived import with_derived

X = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
BATCHES = [(X, torch.arange(12) % 3)]


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2.0 * weight


def old(function: Callable[..., object], leaf: str) -> Callable[[nn.Module], None]:
    def prepare(layer: nn.Module) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            function(layer)
        prune.l1_unstructured(layer, leaf, 0.3)

    return prepare


def new(function: Callable[..., object], leaf: str) -> Callable[[nn.Module], None]:
    def prepare(layer: nn.Module) -> None:
        function(layer)
        prune.l1_unstructured(layer.parametrizations.weight, leaf, 0.3)

    return prepare


def doubled(layer: nn.Module) -> None:
    parametrize.register_parametrization(layer, "weight", Doubled())


def doubled_norm(layer: nn.Module) -> None:
    parametrizations.spectral_norm(layer)
    doubled(layer)


PREPARED: dict[str, Callable[[nn.Module], None]] = {
    "old weight_norm, pruned": old(nn.utils.weight_norm, "weight_v"),
    "old spectral_norm, pruned": old(nn.utils.spectral_norm, "weight_orig"),
    "weight_norm, pruned": new(parametrizations.weight_norm, "original1"),
    "lengths pruned": new(parametrizations.weight_norm, "original0"),
    "spectral_norm, pruned": new(parametrizations.spectral_norm, "original"),
    "parametrised, pruned": new(doubled, "original"),
    "parametrised after spectral_norm": doubled_norm,
}
# By the names alone of a state dict it is not known how these are computed.
UNTOLD = ("parametrised, pruned", "parametrised after spectral_norm")


def model_of(kind: str, seed: int) -> nn.Module:
    return with_derived(PREPARED[kind], seed)


@pytest.mark.parametrize("kind", PREPARED)
def test_effective_weights_are_what_the_layer_uses(kind: str) -> None:
    model = model_of(kind, 0)
    model(X)
    state = model.state_dict()
    for told in (model, state)[: 1 if kind in UNTOLD else 2]:
        derived = derived_weights(told, state)
        assert [one.name for one in derived] == ["0.weight"]
        found = effective_tensors(state, derived)
        assert set(found) == {"0.weight", "0.bias", "2.weight", "2.bias"}
        torch.testing.assert_close(found["0.weight"], model[0].weight.detach())
    plain = copied(model)
    bake(plain)
    assert isinstance(plain[0].weight, nn.Parameter)
    torch.testing.assert_close(plain(X), model(X))


@pytest.mark.parametrize("kind", PREPARED)
def test_models_of_them_are_matched_merged_and_seen_as_they_are(kind: str) -> None:
    a, b = model_of(kind, 0), model_of(kind, 1)
    spec = lmc.derive_spec(a, X)
    match = lmc.weight_matching(a, b, spec)
    torch.testing.assert_close(match.apply(b)(X), b(X))
    curve = lmc.loss_barrier(a, b, BATCHES, match, lambdas=3)
    losses = [
        float(nn.functional.cross_entropy(lmc.interpolate(a, b, lam, match)(X), BATCHES[0][1])) for lam in (0.5, 1)
    ]
    assert list(curve.loss[1:]) == pytest.approx(losses, rel=1e-5)
    assert lmc.taylor_barrier(a, b, BATCHES, match).b.loss == pytest.approx(losses[1], rel=1e-5)
    assert lmc.distance_decomposition(a, b, match).overall.cross > 0
    lmc.straight_through_matching(a, b, BATCHES, spec, epochs=1)


@pytest.mark.parametrize("kind", ["old weight_norm, pruned", "weight_norm, pruned"])
def test_the_mean_of_pruned_directions_is_that_of_the_weights(kind: str) -> None:
    a, b = model_of(kind, 0), model_of(kind, 1)
    merged = lmc.merge([a, b])
    merged(X)
    torch.testing.assert_close(merged[0].weight, (a[0].weight + b[0].weight) / 2)


@pytest.mark.parametrize("kind", ["spectral_norm, pruned", "parametrised after spectral_norm"])
def test_singular_vectors_of_merged_models_are_of_their_weights(kind: str) -> None:
    merged = lmc.merge([model_of(kind, 0), model_of(kind, 1)])
    value = torch.linalg.matrix_norm(merged[0].weight.detach(), 2)
    assert float(value) == pytest.approx(1.0 if "pruned" in kind else 2.0, rel=1e-5)


@pytest.mark.parametrize("norm", [nn.utils.spectral_norm, parametrizations.spectral_norm], ids=["old", "new"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_rows_of_square_transposed_convolutions_are_told_in_state_dicts(norm: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    model, maps = nn.Sequential(norm(nn.ConvTranspose2d(4, 4, 3))), torch.randn(2, 4, 5, 5)
    for _ in range(40):
        model.train()(maps)
    expected = model.eval()(maps)
    state = model.state_dict()
    found = effective_tensors(state, derived_weights(state, state))["0.weight"]
    torch.testing.assert_close(found, model[0].weight.detach())
    twin = copied(model)
    twin.load_state_dict(lmc.interpolate(state, {name: tensor.clone() for name, tensor in state.items()}, 0.5))
    torch.testing.assert_close(twin(maps), expected)

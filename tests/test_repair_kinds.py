"""RESHIFT and RESCALE, the halves of REPAIR, against the plain formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast import architectures


def network(seed: int, norm: bool) -> nn.Sequential:
    torch.manual_seed(seed)
    middle = [nn.BatchNorm1d(7)] if norm else []
    model = nn.Sequential(nn.Linear(5, 7), *middle, nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def outputs(model: nn.Module, places: list[int], data: Tensor) -> list[Tensor]:
    """What the layers at these places give, in front of the nonlinearity: float64 [examples, units]."""
    seen = []
    for place, layer in enumerate(model):  # type: ignore[arg-type]
        data = layer(data)
        if place in places:
            seen.append(data.detach().double())
    return seen


def by_hand(merged: nn.Sequential, pair: list[nn.Sequential], places: list[int], data: Tensor, kind: str) -> Tensor:
    """The corrected model's outputs: each layer corrected where it runs, with those before it corrected."""
    targets = []
    for a, b in zip(*(outputs(model, places, data) for model in pair), strict=True):
        targets.append((0.5 * (a.mean(0) + b.mean(0)), 0.5 * (a.std(0, correction=0) + b.std(0, correction=0))))
    x = data.double()
    for place, layer in enumerate(merged.double()):
        x = layer(x)
        if place in places:
            mean, deviation = targets[places.index(place)]
            mine, spread = x.mean(0), x.std(0, correction=0)
            if kind == "reshift":
                x = x - mine + mean
            elif kind == "rescale":
                x = (x - mine) * deviation / spread + mine
            else:
                x = (x - mine) * deviation / spread + mean
    return x


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batchnorm"])
@pytest.mark.parametrize("kind", ["repair", "reshift", "rescale"])
def test_halves_of_repair_are_the_plain_formula(kind: str, norm: bool) -> None:
    pair, data = [network(seed, norm) for seed in (1, 2)], torch.randn(64, 5)
    places = [1, 3] if norm else [0, 2]
    pair = [lmc.reestimate_batchnorm(model, [data]) for model in pair]
    merged = lmc.reestimate_batchnorm(lmc.interpolate(*pair, 0.5), [data])
    spec = lmc.derive_spec(merged, data[:3])
    corrected = lmc.repair(merged, pair, [data], kind=kind, spec=spec)
    torch.testing.assert_close(
        corrected(data).double(), by_hand(merged, pair, places, data, kind), atol=2e-4, rtol=1e-4
    )


def test_a_shift_leaves_weights_and_a_scale_leaves_means() -> None:
    pair, data = [network(seed, False) for seed in (1, 2)], torch.randn(64, 5)
    merged = lmc.interpolate(*pair, 0.5)
    spec = architectures.mlp(merged)
    shifted, scaled = (lmc.repair(merged, pair, [data], kind=kind, spec=spec) for kind in ("reshift", "rescale"))
    assert all(torch.equal(shifted[i].weight, merged[i].weight) for i in (0, 2, 4))
    assert not torch.equal(shifted[0].bias, merged[0].bias)
    torch.testing.assert_close(scaled[0](data).mean(0), merged[0](data).mean(0), atol=1e-5, rtol=1e-4)
    assert not torch.equal(scaled[0].weight, merged[0].weight)


def test_a_kind_that_is_none_is_named() -> None:
    pair = [network(seed, False) for seed in (1, 2)]
    with pytest.raises(ValueError, match="kind must be one of 'repair', 'reshift', 'rescale', got 'shift'"):
        lmc.repair(pair[0], pair, [torch.randn(4, 5)], kind="shift")

"""Models on two devices, and what is said of a model whose numbers are nowhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import architectures

X, Y = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 5
BATCHES = [(X, Y)]
CALLS: dict[str, Callable[[nn.Module, nn.Module, lmc.PermutationSpec], Any]] = {
    "weight_matching": lambda a, b, spec: lmc.weight_matching(a, b, spec),
    "entry_weights": lambda a, b, spec: lmc.weight_matching(
        a, b, spec, entry_weights=[lmc.fisher_weights(model, BATCHES) for model in (a, b)]
    ),
    "cosine": lambda a, b, spec: lmc.weight_matching(a, b, spec, similarity="cosine"),
    "activation_matching": lambda a, b, spec: lmc.activation_matching(a, b, BATCHES, spec),
    "sinkhorn_matching": lambda a, b, spec: lmc.sinkhorn_matching(a, b, spec, steps=5, keep_soft=True),
    "interpolate": lambda a, b, spec: lmc.interpolate(a, b, 0.3),
    "merge": lambda a, b, spec: lmc.merge([a, b], entry_weights=[lmc.fisher_weights(m, BATCHES) for m in (a, b)]),
    "repair": lambda a, b, spec: lmc.repair(a, [a, b], BATCHES, spec=spec),
    "loss_barrier": lambda a, b, spec: lmc.loss_barrier(a, b, BATCHES, lambdas=3),
    "zip_models": lambda a, b, spec: lmc.zip_models(a, b, BATCHES, spec, up_to="features"),
}


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module, lmc.PermutationSpec]:
    a, b = (models.randomise(models.ConvNet(), seed=seed) for seed in (0, 1))
    return a, b, architectures.vgg(a)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_model_without_numbers_is_named(call: Callable[..., Any], pair: tuple[Any, Any, lmc.PermutationSpec]) -> None:
    with pytest.raises((TypeError, ValueError), match=r"meta|has no numbers|must hold numbers|without numbers"):
        call(pair[0], pair[1].to("meta"), pair[2])


def state_of(result: Any) -> dict[str, torch.Tensor]:
    if isinstance(result, lmc.Matching):
        return dict(result.permutations)
    if isinstance(result, lmc.BarrierCurve):
        return {"loss": torch.from_numpy(result.loss)}
    model = result.model if isinstance(result, lmc.ZipResult) else result
    return dict(model.state_dict())


@pytest.mark.gpu
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_gpu_and_the_cpu_give_what_the_cpu_gives(
    call: Callable[..., Any], pair: tuple[Any, Any, lmc.PermutationSpec]
) -> None:
    here = state_of(call(*pair))
    for a, b in ((pair[0], pair[1].cuda()), (pair[0].cuda(), pair[1].cpu())):
        there = state_of(call(a, b, pair[2]))
        for name, tensor in here.items():
            torch.testing.assert_close(there[name].cpu(), tensor.cpu(), atol=2e-3, rtol=2e-3, msg=name)

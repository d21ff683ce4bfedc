"""Sharpness-aware training, against the plain steps."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import lmc_fast as lmc
from lmc_fast.experiments.cache import ModelCache
from lmc_fast.experiments.datasets import Dataset
from lmc_fast.experiments.recipes import Recipe
from lmc_fast.experiments.training import train


@pytest.fixture(scope="module")
def data() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(96, 1, 4, 4, generator=generator)
    y = (x.flatten(1)[:, :3]).argmax(1)
    return Dataset("mine", x[:64], y[:64], x[64:], y[64:])


def build() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def by_hand(data: Dataset, seed: int, rho: float, epochs: int, rate: float) -> nn.Module:
    """The steps as the paper has them; BatchNorm sees the weights themselves."""
    torch.manual_seed(seed)
    model = build().train()
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2 * epochs)
    for _ in range(epochs):
        rows = torch.randperm(64, generator=order).split(32)
        for some in rows:
            loss = functional.cross_entropy(model(data.train_inputs[some]), data.train_targets[some])
            statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            norm = torch.cat([g.reshape(-1) for g in gradients]).norm()
            weights = [p.detach().clone() for p in model.parameters()]
            with torch.no_grad():
                for p, g in zip(model.parameters(), gradients, strict=True):
                    p += rho * g / norm
            optimizer.zero_grad()
            functional.cross_entropy(model(data.train_inputs[some]), data.train_targets[some]).backward()
            with torch.no_grad():
                for p, w in zip(model.parameters(), weights, strict=True):
                    p.copy_(w)
                for name, buffer in model.named_buffers():
                    buffer.copy_(statistics[name])
            optimizer.step()
            schedule.step()
    return model.eval()


def test_steps_are_those_of_the_paper(data: Dataset) -> None:
    options = {"seed": 3, "epochs": 2, "learning_rate": 1e-2, "batch_size": 32}
    model = train(build, data, sam_rho=0.1, **options)  # type: ignore[arg-type]
    expected = by_hand(data, 3, 0.1, 2, 1e-2).state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=1e-4, msg=name)
    assert model[2].momentum == 0.1
    plain = train(build, data, **options)  # type: ignore[arg-type]
    assert not torch.allclose(plain[1].weight, model[1].weight)


def test_minima_are_flatter(data: Dataset) -> None:
    traces = []
    for rho in (0.0, 0.5):
        model = train(build, data, seed=0, epochs=20, learning_rate=2e-2, batch_size=32, sam_rho=rho)
        traces.append(lmc.hessian_trace(model, data.train_batches(), probes=6).trace)
    assert traces[1] < traces[0]


def test_recipes_have_it_and_old_names_stay(data: Dataset, tmp_path: object) -> None:
    given = {"steps": 4, "least_epochs": 1, "learning_rate": 1e-2, "weight_decay": 0.0}
    plain, sharp = (Recipe("mlp", 6, (1,), sam_rho=rho, **given) for rho in (0.0, 0.1))  # type: ignore[arg-type]
    assert "sam_rho" not in plain.described() and sharp.described()["sam_rho"] == 0.1
    cache = ModelCache(tmp_path)  # type: ignore[arg-type]
    models = [cache.get(recipe, data, seed=0) for recipe in (plain, sharp, sharp)]
    states = [model.state_dict() for model in models]
    name = next(iter(states[0]))
    assert torch.equal(states[1][name], states[2][name]) and not torch.equal(states[0][name], states[1][name])


def test_a_distance_below_zero_is_named(data: Dataset) -> None:
    with pytest.raises(ValueError, match=r"sam_rho must be 0 or more, got -0\.1"):
        train(build, data, seed=0, epochs=1, sam_rho=-0.1)

"""Data, models and training: fixed, seeded, and good enough to learn."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn

import lmc_fast as lmc
from lmc_fast.experiments import training
from lmc_fast.experiments.datasets import digits
from lmc_fast.experiments.models import MLP, VGG11, ResNet
from lmc_fast.experiments.training import train


def test_digits_are_split_the_same_way_every_time() -> None:
    data, again = digits(), digits()
    assert len(data.train_inputs) == 1438 and len(data.test_inputs) == 359
    assert torch.equal(data.test_inputs, again.test_inputs) and torch.equal(data.train_targets, again.train_targets)
    assert abs(float(data.train_inputs.mean())) < 1e-5 and abs(float(data.train_inputs.std()) - 1) < 1e-5
    batches = data.test_batches(100)
    assert len(batches) == 4 and [len(x) for x, _ in batches] == [100, 100, 100, 59]
    assert torch.equal(torch.cat([y for _, y in batches]), data.test_targets)


def test_training_learns_is_seeded_and_leaves_the_global_generator() -> None:
    data = digits()
    state = torch.get_rng_state()
    first, again, other = (
        train(lambda: MLP(64, (32,), 10), data, seed=s, epochs=3, learning_rate=1e-2) for s in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first[1].weight, again[1].weight) and not torch.equal(first[1].weight, other[1].weight)
    _, accuracy = lmc.evaluate(first, data.test_batches())
    assert accuracy is not None and accuracy > 0.8
    assert not first.training


def test_dropout_draws_from_the_seed_as_well() -> None:
    data = digits()
    state = torch.get_rng_state()
    first, again = (
        train(lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10)), data, seed=1, epochs=1)
        for _ in range(2)
    )
    assert torch.equal(first[2].weight, again[2].weight) and torch.equal(torch.get_rng_state(), state)


class Watched(MLP):
    """Notes on how many threads it runs."""

    threads: ClassVar[set[int]] = set()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.threads.add(torch.get_num_threads())
        return super().forward(inputs)


@pytest.mark.parametrize("small", [True, False], ids=["small", "large"])
def test_small_models_take_one_thread_and_leave_the_others(small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watched, "threads", set())
    if not small:
        monkeypatch.setattr(training, "SMALL", 100)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        train(lambda: Watched(64, (8,), 10), digits(), seed=0, epochs=1)
        assert Watched.threads == {1 if small else 2}
        with pytest.raises(RuntimeError, match="shapes"):
            train(lambda: Watched(65, (8,), 10), digits(), seed=0, epochs=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_resnet_shapes() -> None:
    model = ResNet(1, 4, (1, 2, 1), 10)
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 10)
    assert model.fc.in_features == 16


@pytest.mark.parametrize("side", [3, 8, 28, 32])
@pytest.mark.parametrize("batchnorm", [True, False], ids=["batchnorm", "plain"])
def test_vgg11_takes_images_of_any_size(side: int, batchnorm: bool) -> None:
    model = VGG11(3, 2, side, 10, batchnorm=batchnorm).eval()
    inputs = torch.randn(2, 3, side, side)
    assert model(inputs).shape == (2, 10)
    assert sum(isinstance(layer, nn.Conv2d) for layer in model) == 8
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in model) is batchnorm
    lmc.verify_spec(model, lmc.architectures.vgg(model), inputs)

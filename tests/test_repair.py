"""BatchNorm re-estimation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lmc_fast as lmc
from lmc_fast.repair import has_batchnorm

from . import models


def test_statistics_become_those_of_the_data() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.9), nn.Linear(3, 2)).train()
    model[2].weight.grad = torch.ones(2, 3)
    data = 5 + 2 * torch.randn(40, 3)
    fresh = lmc.reestimate_batchnorm(model, [(part, None) for part in data.split(20)])
    torch.testing.assert_close(fresh[0].running_mean, data.mean(dim=0))
    variances = torch.stack([part.var(dim=0) for part in data.split(20)])
    torch.testing.assert_close(fresh[0].running_var, variances.mean(dim=0))
    # The model's own statistics, mode, momentum and gradients are as they were.
    assert torch.equal(model[0].running_mean, torch.zeros(3)) and model.training
    assert fresh.training and fresh[0].momentum == model[0].momentum and fresh[2].weight.grad is None


def test_modes_are_put_back_one_by_one() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5))
    model.train()
    model[0].eval()
    fresh = lmc.reestimate_batchnorm(model, [torch.randn(8, 3)])
    assert [part.training for part in fresh.modules()] == [True, False, True]


def test_old_statistics_leave_no_trace_and_dropout_stays_off() -> None:
    norm = nn.BatchNorm1d(3)
    model = nn.Sequential(nn.Dropout(0.5), norm).train()
    for _ in range(3):
        model(100 + torch.randn(8, 3))
    data = torch.randn(40, 3)
    fresh = lmc.reestimate_batchnorm(model, [data])
    torch.testing.assert_close(fresh[1].running_mean, data.mean(dim=0))
    assert float(norm.running_mean.mean()) > 10


class FrozenNorm(nn.BatchNorm1d):
    """Stays in eval mode, as detection code has it."""

    def train(self, mode: bool = True) -> nn.BatchNorm1d:
        return super().train(False)


def test_frozen_norms_are_estimated_too() -> None:
    data = 5 + torch.randn(40, 3)
    fresh = lmc.reestimate_batchnorm(nn.Sequential(FrozenNorm(3)).train(), [data])
    torch.testing.assert_close(fresh[0].running_mean, data.mean(dim=0))
    assert not fresh[0].training


def test_without_batchnorm_it_is_a_copy() -> None:
    model = models.small_mlp()
    assert not has_batchnorm(model) and has_batchnorm(models.small_resnet())
    fresh = lmc.reestimate_batchnorm(model, [torch.randn(2, 4)])
    assert fresh is not model and torch.equal(fresh[1].weight, model[1].weight)


def test_bad_input_is_named() -> None:
    model = models.small_resnet()
    with pytest.raises(ValueError, match="batches must hold one batch at least"):
        lmc.reestimate_batchnorm(model, [])
    with pytest.raises(TypeError, match="batches must be batches that can be gone through again"):
        lmc.reestimate_batchnorm(model, torch.randn(2, 1, 8, 8))
    with pytest.raises(TypeError, match="batches must be inputs or"):
        lmc.reestimate_batchnorm(model, [{"x": torch.randn(2, 1, 8, 8)}])
    with pytest.raises(TypeError, match="model must be a torch"):
        lmc.reestimate_batchnorm(model.state_dict(), [])  # type: ignore[type-var]

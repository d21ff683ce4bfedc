"""Running statistics are those of all examples, however they are split into batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast._norms import take_batch_statistics
from lmc_fast.repairing import has_batchnorm

SPLITS = [[12], [7, 5], [11, 1], [1, 11], [1, 10, 1], [4, 4, 4]]


@pytest.mark.parametrize("sizes", SPLITS, ids=str)
def test_the_first_layer_has_the_mean_and_variance_of_the_data(sizes: list[int]) -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    data = 5 + torch.randn(12, 3) * torch.tensor([1.0, 10.0, 0.1])
    norm = lmc.reestimate_batchnorm(model, data.split(sizes))[0]
    torch.testing.assert_close(norm.running_mean, data.mean(dim=0))
    torch.testing.assert_close(norm.running_var, data.var(dim=0))
    assert int(norm.num_batches_tracked) == len(sizes) and norm.momentum == 0.1


def test_deeper_layers_see_what_training_shows_them() -> None:
    """Each batch is normalised by its own statistics; means and variances are those of all that came of it."""
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4), nn.ReLU(), nn.BatchNorm1d(4))
    batches = (5 + 2 * torch.randn(13, 3)).split([9, 4])
    fresh = lmc.reestimate_batchnorm(model, batches)
    with torch.no_grad():
        shown = torch.cat(
            [torch.relu(model[1](nn.functional.batch_norm(x, None, None, training=True))) for x in batches]
        )
    torch.testing.assert_close(fresh[3].running_mean, shown.mean(dim=0))
    torch.testing.assert_close(fresh[3].running_var, shown.var(dim=0))


def test_one_example_is_normalised_by_those_before_it() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4), nn.BatchNorm1d(4))
    first, last = torch.randn(8, 3), torch.randn(1, 3)
    with torch.no_grad():
        shown = [
            model[1](nn.functional.batch_norm(first, None, None, training=True)),
            model[1](nn.functional.batch_norm(last, first.mean(dim=0), first.var(dim=0))),
        ]
    for batches in ([first, last], [last, first]):
        fresh = lmc.reestimate_batchnorm(model, batches)
        torch.testing.assert_close(fresh[2].running_mean, torch.cat(shown).mean(dim=0))
        torch.testing.assert_close(fresh[2].running_var, torch.cat(shown).var(dim=0))


def test_one_example_of_a_map_has_statistics_of_its_own() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2))
    data = torch.randn(5, 2, 3, 3)
    fresh = lmc.reestimate_batchnorm(model, data.split(1))[0]
    torch.testing.assert_close(fresh.running_var, data.movedim(1, 0).flatten(1).var(dim=1))


def test_examples_that_come_one_by_one_are_refused() -> None:
    with pytest.raises(ValueError, match="batches must hold two examples at least in one batch: '0' gets one value"):
        lmc.reestimate_batchnorm(nn.Sequential(nn.BatchNorm1d(3)), torch.randn(4, 3).split(1))
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    pairs = [(torch.randn(4, 3), torch.zeros(4, dtype=torch.long))]
    with pytest.raises(ValueError, match="batchnorm_batches must hold two examples at least"):
        lmc.loss_barrier(model, model, pairs, lambdas=3, batchnorm_batches=torch.randn(2, 3).split(1))
    with pytest.raises(ValueError, match="batchnorm_batches must hold one batch at least"):
        lmc.loss_barrier(model, model, pairs, lambdas=3, batchnorm_batches=[])


class Twice(nn.Module):
    """One norm that runs twice, one that does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.idle = nn.BatchNorm1d(3), nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(input=self.norm(x) + 3)


def test_layers_that_run_twice_or_not_at_all() -> None:
    model, data = Twice(), torch.randn(10, 3)
    model.idle.running_mean.fill_(7.0)
    fresh = lmc.reestimate_batchnorm(model, [data])
    shown = torch.cat([data, nn.functional.batch_norm(data, None, None, training=True) + 3])
    torch.testing.assert_close(fresh.norm.running_mean, shown.mean(dim=0))
    torch.testing.assert_close(fresh.norm.running_var, shown.var(dim=0))
    assert int(fresh.norm.num_batches_tracked) == 2 and bool((fresh.idle.running_mean == 7.0).all())


KINDS: dict[str, Callable[[], nn.Module]] = {
    "momentum None": lambda: nn.BatchNorm1d(3, momentum=None),
    "not affine": lambda: nn.BatchNorm1d(3, affine=False),
    "synchronised": lambda: nn.SyncBatchNorm(3),
    "double": lambda: nn.BatchNorm1d(3).double(),
    "bfloat16": lambda: nn.BatchNorm1d(3).bfloat16(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_norms(kind: str) -> None:
    model = nn.Sequential(KINDS[kind](), nn.Identity())
    dtype = model[0].running_mean.dtype
    data = (2 + torch.randn(9, 3)).to(dtype)
    fresh = lmc.reestimate_batchnorm(model, data.split([5, 3, 1]))[0]
    torch.testing.assert_close(fresh.running_mean, data.double().mean(dim=0).to(dtype))
    torch.testing.assert_close(fresh.running_var, data.double().var(dim=0).to(dtype))
    assert type(fresh) is type(model[0]) and fresh.momentum == model[0].momentum
    assert fresh.training and not fresh._forward_pre_hooks


def test_norms_that_keep_none_are_left_alone() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False))
    assert not has_batchnorm(model)
    assert lmc.reestimate_batchnorm(model, [torch.randn(4, 3)])[0].running_mean is None


@pytest.mark.parametrize("sizes", [[8], [5, 3], [7, 1]], ids=str)
def test_instance_norms_have_the_mean_over_instances(sizes: list[int]) -> None:
    model = nn.Sequential(nn.InstanceNorm1d(3, track_running_stats=True), nn.Identity())
    data = 1 + torch.randn(8, 3, 6)
    fresh = lmc.reestimate_batchnorm(model, data.split(sizes))[0]
    torch.testing.assert_close(fresh.running_mean, data.mean(dim=2).mean(dim=0))
    torch.testing.assert_close(fresh.running_var, data.var(dim=2).mean(dim=0))
    # What torch itself makes of one batch.
    theirs = nn.InstanceNorm1d(3, track_running_stats=True, momentum=1.0)
    theirs(data)
    torch.testing.assert_close(fresh.running_var, theirs.running_var)
    unbatched = lmc.reestimate_batchnorm(model, list(data))[0]
    torch.testing.assert_close(unbatched.running_mean, fresh.running_mean)


def test_an_error_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).train()
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"batches\[1\] must fit the model"):
        lmc.reestimate_batchnorm(model, [torch.randn(4, 3), torch.randn(4, 5)])
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())
    assert model.training and not model[0]._forward_pre_hooks and model[0].momentum == 0.1


def pair() -> tuple[nn.Module, nn.Module, lmc.PermutationSpec]:
    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))

    return build(0), build(1), lmc.architectures.mlp(build(0))


CALLS: dict[str, Callable[..., Any]] = {
    "straight-through": lambda a, b, spec, batches: lmc.straight_through_matching(
        a, b, batches, spec, epochs=2, init="random"
    ),
    "sinkhorn": lambda a, b, spec, batches: lmc.sinkhorn_matching(
        a, b, spec, batches=batches, loss="midpoint", steps=4, init="random"
    ),
    "ste_mm": lambda a, b, spec, batches: lmc.match_many([a, b, a], spec, method="ste_mm", batches=batches, epochs=1),
    "barrier": lambda a, b, spec, batches: lmc.loss_barrier(a, b, batches, lambdas=3, batchnorm_batches=batches),
    "repair": lambda a, b, spec, batches: lmc.repair(lmc.interpolate(a, b, 0.5), [a, b], batches, spec=spec),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_last_batch_of_one_is_no_error(name: str) -> None:
    a, b, spec = pair()
    x, y = torch.randn(9, 4), torch.randint(0, 3, (9,))
    CALLS[name](a, b, spec, [(x[:8], y[:8]), (x[8:], y[8:])])


@pytest.mark.parametrize("name", ["straight-through", "sinkhorn"])
def test_searches_say_why_they_cannot_begin_with_one(name: str) -> None:
    a, b, spec = pair()
    x, y = torch.randn(9, 4), torch.randint(0, 3, (9,))
    with pytest.raises(ValueError, match=r"batches must begin with one of two examples at least.* '1' gets one value"):
        CALLS[name](a, b, spec, [(x[8:], y[8:]), (x[:8], y[:8])])


def test_a_batch_of_one_takes_the_statistics_of_the_batch_before() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.SyncBatchNorm(3)).eval()
    take_batch_statistics(model)
    x, one = 3 + 2 * torch.randn(7, 3), torch.randn(1, 3, requires_grad=True)
    model(torch.randn(5, 3))
    shown = model[0](x)
    torch.testing.assert_close(shown, nn.functional.batch_norm(x, None, None, training=True))
    model[1](input=shown)
    torch.testing.assert_close(model[0](one), nn.functional.batch_norm(one, x.mean(dim=0), x.var(dim=0)))
    assert not model[0].training and model(one).requires_grad

"""BatchNorm re-estimation and REPAIR."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import architectures
from lmc_fast.experiments.datasets import digits
from lmc_fast.experiments.models import MLP
from lmc_fast.experiments.training import train
from lmc_fast.repairing import has_batchnorm, repair


def test_statistics_become_those_of_the_data() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.9), nn.Linear(3, 2)).train()
    model[2].weight.grad = torch.ones(2, 3)
    data = 5 + 2 * torch.randn(40, 3)
    fresh = lmc.reestimate_batchnorm(model, [(part, None) for part in data.split(20)])
    torch.testing.assert_close(fresh[0].running_mean, data.mean(dim=0))
    torch.testing.assert_close(fresh[0].running_var, data.var(dim=0))
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
        lmc.reestimate_batchnorm(model, [{"image": torch.randn(2, 1, 8, 8), "text": None}])
    with pytest.raises(TypeError, match="model must be a torch"):
        lmc.reestimate_batchnorm(model.state_dict(), [])  # type: ignore[type-var]


def moments(model: nn.Module, layers: Sequence[nn.Module], data: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Mean and deviation of each channel of the layers' outputs, all activations in memory, float64."""
    seen: list[Tensor] = []
    handles = [layer.register_forward_hook(lambda _, __, out: seen.append(out.detach().double())) for layer in layers]
    with torch.no_grad():
        model.eval()(data)
    for handle in handles:
        handle.remove()
    flat = [out.movedim(1, 0).flatten(1) for out in seen]
    return [(x.mean(dim=1), x.std(dim=1, correction=0)) for x in flat]


def layers_of(model: nn.Module, kind: type | tuple[type, ...], names: Sequence[str] | None = None) -> list[nn.Module]:
    return [m for name, m in model.named_modules() if isinstance(m, kind) and (names is None or name in names)]


def plain_conv(bias: bool = True) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=bias),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3, bias=bias),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(80, 3),
    )


# Model, spec, shape of an example, kinds of layers that are put right (all of them but the last Linear).
REPAIRED: dict[
    str, tuple[Callable[[], nn.Module], Callable[[nn.Module], lmc.PermutationSpec], tuple[int, ...], Any]
] = {
    "mlp": (lambda: models.small_mlp((17, 12, 9)), architectures.mlp, (4,), nn.Linear),
    "conv": (plain_conv, architectures.vgg, (1, 8, 8), (nn.Conv2d, nn.Linear)),
    "conv without biases": (lambda: plain_conv(False), architectures.vgg, (1, 8, 8), (nn.Conv2d, nn.Linear)),
    "resnet": (models.small_resnet, architectures.resnet, (1, 8, 8), (nn.BatchNorm2d, nn.Linear)),
}


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.8, 0.2), (0.5, 0.2, 0.3)], ids=str)
@pytest.mark.parametrize("kind", REPAIRED)
def test_units_have_the_interpolated_mean_and_deviation(kind: str, weights: tuple[float, ...]) -> None:
    build, spec_of, shape, layers = REPAIRED[kind]
    parents = [models.randomise(build(), seed) for seed in range(len(weights))]
    spec = spec_of(parents[0]).bind(parents[0])
    matches = [None, *(lmc.Permutations.random(spec, seed) for seed in range(1, len(weights)))]
    data = torch.randn(60, *shape)
    merged = lmc.merge(parents, matches, weights=weights)
    before = {name: tensor.clone() for name, tensor in merged.state_dict().items()}
    fresh = repair(merged, parents, list(data.split(25)), matches, weights=weights)

    laid = [p if match is None else match.apply(p) for p, match in zip(parents, matches, strict=True)]
    ends = [moments(model, layers_of(model, layers)[:-1], data) for model in laid]
    got = moments(fresh, layers_of(fresh, layers)[:-1], data)
    assert len(got) >= 2
    for place, (mean, deviation) in enumerate(got):
        wanted = [sum(w * end[place][k] for w, end in zip(weights, ends, strict=True)) for k in (0, 1)]
        torch.testing.assert_close(mean, wanted[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(deviation, wanted[1], rtol=1e-4, atol=1e-4)
    # The outputs' layer, the merged model and its classes stay as they are.
    assert torch.equal(layers_of(fresh, nn.Linear)[-1].weight, layers_of(merged, nn.Linear)[-1].weight)
    assert all(torch.equal(tensor, before[name]) for name, tensor in merged.state_dict().items())
    assert [type(m) for m in fresh.modules()] == [type(m) for m in merged.modules()]
    assert not any(m._forward_hooks for model in (fresh, *parents) for m in model.modules())


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_the_ends_stay_what_they_are(lam: float) -> None:
    for build, spec_of, shape, _ in REPAIRED.values():
        a, b = (models.randomise(build(), seed) for seed in (0, 1))
        match = lmc.Permutations.random(spec_of(a).bind(a), 3)
        data = torch.randn(30, *shape)
        end = lmc.interpolate(a, b, lam, match)
        fresh = repair(end, [a, b], [data], [None, match], weights=[1 - lam, lam])
        torch.testing.assert_close(fresh.eval()(data), (b if lam else a)(data), rtol=1e-3, atol=1e-3)


def test_layers_in_front_of_a_batchnorm_are_left_to_it() -> None:
    a, b = (models.randomise(models.small_resnet(), seed) for seed in (0, 1))
    middle = lmc.interpolate(a, b, 0.5)
    fresh = repair(middle, [a, b], [torch.randn(20, 1, 8, 8)], spec=architectures.resnet(a))
    assert torch.equal(fresh.conv1.weight, middle.conv1.weight) and fresh.conv1.bias is None
    assert not torch.equal(fresh.bn1.running_mean, middle.bn1.running_mean)
    assert not torch.equal(fresh.bn1.weight, middle.bn1.weight)


def test_units_that_do_not_vary_are_shifted() -> None:
    a, b = (models.randomise(models.small_mlp(), seed) for seed in (0, 1))
    middle = lmc.interpolate(a, b, 0.5)
    with torch.no_grad():
        middle[1].weight[0] = 0
    data = torch.randn(50, 4)
    fresh = repair(middle, [a, b], [data], spec=architectures.mlp(a))
    assert all(bool(tensor.isfinite().all()) for tensor in fresh.state_dict().values())
    wanted = (a[1](data) + b[1](data)).mean(dim=0)[0] / 2
    torch.testing.assert_close(fresh[1](data)[:, 0], wanted.expand(50), rtol=1e-4, atol=1e-5)


def test_modes_gradients_and_dtypes_stay() -> None:
    a, b = (models.randomise(models.small_mlp(), seed).bfloat16() for seed in (0, 1))
    a.train()
    a[1].eval()
    a[1].weight.requires_grad_(False)
    middle = lmc.interpolate(a, b, 0.5)
    fresh = repair(middle, [a, b], [(torch.randn(20, 4).bfloat16(), None)], spec=architectures.mlp(a))
    assert [m.training for m in fresh.modules()] == [m.training for m in a.modules()]
    assert a.training and not a[1].training and not fresh[1].weight.requires_grad
    assert {tensor.dtype for tensor in fresh.state_dict().values()} == {torch.bfloat16}


def trained(widths: Sequence[int], seeds: Sequence[int]) -> list[nn.Module]:
    return [train(lambda: MLP(64, widths, 10), digits(), seed=seed, epochs=8) for seed in seeds]


@pytest.mark.parametrize(
    ("widths", "least"),
    [((64,) * 5, 0.01), pytest.param((256, 256), 0.0, marks=pytest.mark.slow)],
    ids=["narrow", "wide"],
)
def test_it_raises_the_accuracy_in_the_middle(widths: tuple[int, ...], least: float) -> None:
    data, gains = digits(), []
    for a, b in (trained(widths, (0, 1)), trained(widths, (2, 3))):
        match = lmc.weight_matching(a, b, architectures.mlp(a))
        middle = lmc.interpolate(a, b, 0.5, match)
        fresh = repair(middle, [a, b], data.statistics_batches(), [None, match])
        before, after = (lmc.evaluate(model, data.test_batches())[1] for model in (middle, fresh))
        assert before is not None and after is not None
        gains.append(after - before)
    assert sum(gains) / 2 >= least, gains


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"merged": {}}, TypeError, "merged must be a torch.nn.Module"),
        ({"models": []}, ValueError, "models must hold one model at least"),
        ({"models": models.small_mlp()}, TypeError, "models must be a sequence"),
        ({"models": [{}, {}]}, TypeError, r"models\[0\] must be a torch.nn.Module"),
        ({"models": [models.small_mlp(), models.small_mlp((9, 8))]}, ValueError, r"models\[1\] must have the shapes"),
        ({"matches": [None]}, ValueError, "matches must have one entry for each of the 2 models, got 1"),
        ({"matches": [None, 3]}, TypeError, r"matches\[1\] must be a Matching"),
        ({"weights": [1.0]}, ValueError, "weights must have one entry for each of the 2 models"),
        ({"weights": [1.0, 1.0]}, ValueError, "weights must sum to 1"),
        ({"spec": 3}, TypeError, "spec must be a PermutationSpec"),
        ({"batches": []}, ValueError, "batches must hold one batch at least"),
        ({"batches": torch.zeros(2, 4)}, TypeError, "batches must be batches that can be gone through again"),
        ({"batches": [torch.full((2, 4), torch.nan)]}, ValueError, "activations must be finite, but the output of '1'"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_what_repair_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    model = models.randomise(models.small_mlp(), 0)
    arguments: dict[str, Any] = {
        "merged": model,
        "models": [model, model],
        "batches": [torch.randn(3, 4)],
        "spec": architectures.mlp(model),
    }
    with pytest.raises(error, match=message):
        repair(**{**arguments, **change})


def test_shared_and_parametrised_weights_are_refused() -> None:
    tied = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    tied[2].weight = tied[0].weight
    axes = {"weight": ("P", None), "bias": ("P",)}
    spec = lmc.PermutationSpec.from_axes(
        {f"{k}.{name}": axes[name] if k < 4 else (None,) * len(axes[name]) for k in (0, 2, 4) for name in axes}
    )
    with pytest.raises(ValueError, match=r"merged must have layers with tensors of their own, but .* share one"):
        repair(tied, [tied], [torch.randn(3, 4)], spec=spec)
    normed = models.small_mlp()
    nn.utils.parametrizations.weight_norm(normed[1])
    named = {
        name: ("P", None)[: t.ndim] if name.startswith("1.") else (None,) * t.ndim
        for name, t in normed.state_dict().items()
    }
    with pytest.raises(ValueError, match="merged must have layers with weights of their own, but the weight of '1' is"):
        repair(normed, [normed], [torch.randn(3, 4)], spec=lmc.PermutationSpec.from_axes(named))

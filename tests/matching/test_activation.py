"""Activation matching."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import architectures
from lmc_fast.matching.activation import activation_matching
from lmc_fast.matching.activations.crossing import activation_gains

# Model, spec, shape of one example.
Kind = tuple[Callable[[], nn.Module], Callable[[nn.Module], lmc.PermutationSpec], tuple[int, ...]]
KINDS: dict[str, Kind] = {
    "mlp": (lambda: models.small_mlp((32, 24, 16)), architectures.mlp, (4,)),
    "vgg-batchnorm": (lambda: models.ConvNet(12, 24), architectures.vgg, (1, 8, 8)),
    "resnet": (models.small_resnet, architectures.resnet, (1, 8, 8)),
    "attention": (models.Attention, lambda m: models.Attention.spec(), (7, 6)),
    "transformer": (models.TransformerBlock, lambda m: models.TransformerBlock.spec(), (7, 5)),
    "concat": (models.Concat, lambda m: models.Concat.spec(), (4,)),
    "depthwise": (models.DepthwiseNet, lambda m: models.DepthwiseNet.spec(), (2, 5, 5)),
    "grouped": (models.GroupedNet, lambda m: models.GroupedNet.spec(), (2, 5, 5)),
    "groupnorm": (models.GroupNormNet, lambda m: models.GroupNormNet.spec(), (2, 5, 5)),
}
WAYS = [(statistic, watch) for statistic in ("correlation", "covariance") for watch in ("inputs", "outputs")]


def pair(kind: str, seed: int = 0) -> tuple[nn.Module, nn.Module, lmc.PermutationSpec, list[Tensor]]:
    """Two models of one kind with different weights, their spec, and batches of uneven sizes."""
    build, spec_of, shape = KINDS[kind]
    a, b = models.randomise(build(), 2 * seed), models.randomise(build(), 2 * seed + 1)
    generator = torch.Generator().manual_seed(seed)
    # With few examples some units wake for one and the same alone, and correlate perfectly.
    return a, b, spec_of(a).bind(a), [torch.randn(n, *shape, generator=generator) for n in (200, 99, 1)]


# What is watched is summed before either statistic is made of the sums: each of both once, the other two with --slow.
PLANTED_WAYS = [
    pytest.param(*way, marks=[] if way in (WAYS[0], WAYS[3]) else [pytest.mark.slow], id="-".join(way)) for way in WAYS
]


@pytest.mark.parametrize(("statistic", "watch"), PLANTED_WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_planted_permutations_are_found(
    kind: str, statistic: str, watch: str, draws: Callable[[int, int], range]
) -> None:
    for seed in draws(2, 5):
        a, _, spec, batches = pair(kind, seed)
        truth = lmc.Permutations.random(spec, seed)
        match = activation_matching(a, truth.inverse().apply(a), batches, spec, statistic=statistic, watch=watch)
        assert match.permutations == truth
        assert match.l2_after == 0 and len(match.history) == 1 and match.converged


def plain_gain(a: Tensor, b: Tensor, statistic: str) -> Tensor:
    """From all activations in memory: [samples, units] each."""
    a, b = a.double() - a.double().mean(dim=0), b.double() - b.double().mean(dim=0)
    cross = a.T @ b
    return cross if statistic == "covariance" else cross / (a.norm(dim=0)[:, None] * b.norm(dim=0)).clamp_min(1e-12)


@pytest.mark.parametrize(("statistic", "watch"), WAYS)
def test_it_is_the_plain_computation(statistic: str, watch: str) -> None:
    a, b, spec, batches = pair("mlp")
    gains = activation_gains(a, b, batches, spec, statistic, watch)
    match = activation_matching(a, b, batches, spec, statistic=statistic, watch=watch)
    hidden: list[Tensor] = [torch.cat(batches)] * 2
    for layer, (step_a, step_b) in enumerate(zip(a, b, strict=True)):
        hidden = [step(x).detach() for step, x in zip((step_a, step_b), hidden, strict=True)]
        linear = layer if isinstance(step_a, nn.Linear) else layer - 1
        group = f"{linear}"
        if group in spec.groups and isinstance(step_a, nn.Linear if watch == "outputs" else nn.ReLU):
            wanted = plain_gain(*hidden, statistic)
            # Units that no example wakes are placed by what they get, and are 0 here.
            awake = (wanted.abs() > 0).any(dim=1)[:, None] | (wanted.abs() > 0).any(dim=0)
            torch.testing.assert_close(
                torch.from_numpy(gains[group]) * awake, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max())
            )
            if bool(awake.all()):
                choice = lmc.linear_sum_assignment(wanted.numpy(), maximize=True)[1]
                assert match.permutations[group].tolist() == choice.tolist()


def test_map_positions_are_samples() -> None:
    a, b, spec, batches = pair("vgg-batchnorm")
    gain = activation_gains(a, b, batches, spec, "covariance", "outputs")["features.4"]
    maps = [m.features[:6](torch.cat(batches)).detach() for m in (a, b)]
    wanted = plain_gain(*(x.movedim(1, -1).flatten(0, -2) for x in maps), "covariance")
    torch.testing.assert_close(torch.from_numpy(gain), wanted, rtol=1e-5, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("kind", ["mlp", "resnet", "attention"])
def test_how_data_is_split_into_batches_does_not_matter(kind: str) -> None:
    a, b, spec, batches = pair(kind)
    first, second = (activation_gains(a, b, part, spec) for part in (batches, [torch.cat(batches)]))
    assert first.keys() == second.keys()
    for group, gain in first.items():
        torch.testing.assert_close(torch.from_numpy(gain), torch.from_numpy(second[group]), rtol=1e-4, atol=1e-5)


def test_means_far_from_zero_do_not_cancel() -> None:
    a, b, spec, _ = pair("mlp")
    batches = [torch.randn(20, 4) for _ in range(4)]
    for model in (a, b):
        with torch.no_grad():
            model[1].bias.add_(1e3)
    gains = activation_gains(a, b, batches, spec, "correlation", "outputs")
    wanted = plain_gain(*(m.double()[1](torch.cat(batches).double()).detach() for m in (a, b)), "correlation")
    torch.testing.assert_close(torch.from_numpy(gains["1"]), wanted, rtol=0, atol=1e-3)


class Counting(nn.ReLU):
    """Counts how many of its outputs are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: list[weakref.ref[Tensor]] = []
        self.most = 0

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        self.alive = [*(ref for ref in self.alive if ref() is not None), weakref.ref(out)]
        self.most = max(self.most, len(self.alive))
        return out


def test_activations_do_not_pile_up() -> None:
    a, b, spec, _ = pair("mlp")
    most = []
    for count in (2, 20):
        a[2] = Counting()
        activation_matching(a, b, [torch.randn(8, 4) for _ in range(count)], spec)
        most.append(a[2].most)
    assert most[0] == most[1] <= 2


def test_dead_units_are_no_nan() -> None:
    a, b, spec, batches = pair("mlp")
    for model in (a, b):
        with torch.no_grad():
            model[1].weight[:20] = 0
            model[1].bias[:20] = -1.0
    for statistic, watch in WAYS:
        gain = activation_gains(a, b, batches, spec, statistic, watch)["1"]
        assert (gain[:20] == 0).all() and (gain[:, :20] == 0).all() and (abs(gain[20:, 20:]) > 0).any()
        match = activation_matching(a, b, batches, spec, statistic=statistic, watch=watch)
        assert sorted(match.permutations["1"].tolist()) == list(range(32))


def test_in_place_activations() -> None:
    a, b, spec, batches = pair("mlp")
    wanted = activation_matching(a, b, batches, spec, watch="outputs").permutations
    for model in (a, b):
        for k in (2, 4, 6):
            model[k] = nn.ReLU(inplace=True)
    assert activation_matching(a, b, batches, spec, watch="outputs").permutations == wanted


def test_the_callers_modules_stay_as_they_were() -> None:
    a, b, spec, batches = pair("vgg-batchnorm")
    a.train()
    a.features[1].eval()
    b.classifier[1].weight.requires_grad_(False)
    before = [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in (a, b)]
    modes = [[part.training for part in model.modules()] for model in (a, b)]
    state = torch.get_rng_state()
    activation_matching(a, b, [(batch, None) for batch in batches], spec)
    assert torch.equal(torch.get_rng_state(), state)
    assert modes == [[part.training for part in model.modules()] for model in (a, b)]
    assert not b.classifier[1].weight.requires_grad and a.classifier[1].weight.requires_grad
    for model, tensors in zip((a, b), before, strict=True):
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
        assert not any(part._forward_hooks for part in model.modules())


def test_hooks_are_gone_after_an_error() -> None:
    a, b, spec, _ = pair("mlp")
    a.train()
    with pytest.raises(ValueError, match=r"batches\[1\] must fit the model"):
        activation_matching(a, b, [torch.randn(3, 4), torch.randn(3, 5)], spec)
    assert a.training and not any(part._forward_hooks for model in (a, b) for part in model.modules())


def test_parameters_without_a_layer() -> None:
    model = models.randomise(models.Experts(), 0)
    spec, batches = models.Experts.spec().bind(model), [torch.randn(64, 5)]
    truth = lmc.Permutations.random(spec, 1)
    for statistic, watch in WAYS:
        match = activation_matching(
            model, truth.inverse().apply(model), batches, spec, statistic=statistic, watch=watch
        )
        assert match.permutations == truth


def test_objective_and_distances_are_those_of_the_weights() -> None:
    a, b, spec, batches = pair("resnet")
    match = activation_matching(a, b, batches, spec)
    names = [name for name, _ in a.named_parameters()]
    moved, left = match.apply(b).state_dict(), a.state_dict()
    dot = sum(float((left[name].double() * moved[name].double()).sum()) for name in names)
    gap = sum(float((left[name].double() - moved[name].double()).square().sum()) for name in names) ** 0.5
    assert match.objective == pytest.approx(dot) and match.l2_after == pytest.approx(gap)
    assert match.l2_before == lmc.weight_matching(a, b, spec).l2_before


class Diverging(nn.Sequential):
    def forward(self, x: Tensor) -> Any:
        return super().forward(torch.cat([x, x]))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model_a": {}}, TypeError, "model_a must be a torch.nn.Module"),
        ({"model_b": {}}, TypeError, "model_b must be a torch.nn.Module"),
        ({"model_b": nn.Linear(4, 4)}, ValueError, "model_b must have the tensors of model_a"),
        ({"batches": torch.zeros(2, 4)}, TypeError, "batches must be batches that can be gone through again"),
        ({"batches": []}, ValueError, "batches must hold one batch at least"),
        ({"batches": [{"x": 1}]}, TypeError, "batches must be inputs or"),
        ({"batches": [torch.full((2, 4), torch.nan)]}, ValueError, "activations must be finite, but the input of '3'"),
        ({"spec": {}}, TypeError, "spec must be a PermutationSpec"),
        ({"statistic": "sum"}, ValueError, "statistic must be one of 'correlation', 'covariance', got 'sum'"),
        ({"watch": "both"}, ValueError, "watch must be one of 'inputs', 'outputs', got 'both'"),
        ({"unseen": "skip"}, ValueError, "unseen must be one of 'raise', 'keep', 'weights', got 'skip'"),
        ({"device": "nowhere"}, ValueError, "device must be a device of this machine"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_bad_input_is_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    a, b, spec, batches = pair("mlp")
    arguments = {"model_a": a, "model_b": b, "batches": batches, "spec": spec, **change}
    with pytest.raises(error, match=message):
        activation_matching(**arguments)


def test_models_that_run_differently_are_refused() -> None:
    a, b, spec, batches = pair("mlp")
    with pytest.raises(ValueError, match="model_b must run as model_a does, but the input of '3'"):
        activation_matching(a, Diverging(*b), batches, spec)

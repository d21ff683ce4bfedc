"""The builders for usual architectures find what derive_spec finds: no more, no less."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import architectures
from lmc_fast.experiments.models import MLP, VGG11, ResNet

from .comparing import up_to_names
from .derive.side_by_side import Case, Derived, derived


def chain(*widths: int, norm: Callable[[int], nn.Module] | None = None, bias: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, width in pairwise(widths[:-1]):
        layers += [nn.Linear(fan_in, width, bias=bias), *([norm(width)] if norm else []), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1], bias=bias))


MLPS: dict[str, nn.Module] = {
    "plain": MLP(4, (9, 7), 3),
    "one hidden layer": chain(4, 6, 3),
    "deep": chain(4, 9, 8, 7, 6, 5, 3),
    "no bias": chain(4, 9, 7, 3, bias=False),
    "LayerNorm": chain(4, 9, 7, 3, norm=nn.LayerNorm),
    "LayerNorm without weights": chain(4, 9, 7, 3, norm=lambda width: nn.LayerNorm(width, elementwise_affine=False)),
    "BatchNorm": chain(4, 9, 7, 3, norm=nn.BatchNorm1d),
    "a norm of the inputs": nn.Sequential(nn.BatchNorm1d(4), *chain(4, 9, 3)),
}


def convolutions(norm: Callable[[int], nn.Module] | None, *, flatten: bool, bias: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, width in ((1, 5), (5, 6), (6, 7)):
        layers += [nn.Conv2d(fan_in, width, 3, padding=1, bias=bias), *([norm(width)] if norm else []), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if width < 7 else []
    side = 2 if flatten else 1
    layers += [nn.Flatten()] if flatten else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(7 * side * side, 9), nn.ReLU(), nn.Dropout(), nn.Linear(9, 3))


VGGS: dict[str, nn.Module] = {
    "flattened maps": models.ConvNet(),
    "VGG11": VGG11(1, 3, 8, 5),
    "VGG11 without BatchNorm": VGG11(1, 3, 8, 5, batchnorm=False),
    "flattened without norms": convolutions(None, flatten=True),
    "pooled": convolutions(nn.BatchNorm2d, flatten=False, bias=False),
    "instance norms": convolutions(lambda width: nn.InstanceNorm2d(width, affine=True), flatten=True),
    "one group": convolutions(lambda width: nn.GroupNorm(1, width), flatten=False),
}


class Block(nn.Module):
    """Basic, bottleneck or pre-activation, with torchvision's names."""

    def __init__(self, kind: str, channels_in: int, channels: int, norm: Callable[[int], nn.Module] | None) -> None:
        super().__init__()
        self.kind, inner = kind, channels // 2
        sizes = {
            "basic": [(channels_in, channels, 3), (channels, channels, 3)],
            "bottleneck": [(channels_in, inner, 1), (inner, inner, 3), (inner, channels, 1)],
            "preactivation": [(channels_in, channels, 3), (channels, channels, 3)],
        }[kind]
        self.depth = len(sizes)
        for number, (fan_in, width, side) in enumerate(sizes, 1):
            convolution = nn.Conv2d(fan_in, width, side, padding=side // 2, bias=norm is None)
            made = nn.Identity() if norm is None else norm(fan_in if kind == "preactivation" else width)
            parts = [(f"bn{number}", made), (f"conv{number}", convolution)]
            for name, part in parts if kind == "preactivation" else reversed(parts):
                self.add_module(name, part)
        if channels_in != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, bias=norm is None), *([norm(channels)] if norm else [])
            )

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for number in range(1, self.depth + 1):
            norm, convolution = self.get_submodule(f"bn{number}"), self.get_submodule(f"conv{number}")
            if self.kind == "preactivation":
                out = convolution(norm(out).relu())
            else:
                out = norm(convolution(out))
                out = out.relu() if number < self.depth else out
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        return out + shortcut if self.kind == "preactivation" else (out + shortcut).relu()


class Residual(nn.Module):
    def __init__(
        self, kind: str, widths: Sequence[int], norm: Callable[[int], nn.Module] | None = nn.BatchNorm2d
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, widths[0], 3, padding=1, bias=norm is None)
        self.bn1 = nn.Identity() if norm is None else norm(widths[0])
        channels = widths[0]
        self.stages: list[str] = []
        for stage, width in enumerate(widths, 1):
            blocks = nn.Sequential(Block(kind, channels, width, norm), Block(kind, width, width, norm))
            channels = width
            self.stages.append(f"layer{stage}")
            self.add_module(self.stages[-1], blocks)
        self.fc = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        pooled: Tensor = self.fc(x.mean((2, 3)))
        return pooled


RESNETS: dict[str, nn.Module] = {
    "ResNet of the experiments": ResNet(1, 4, (2, 1, 1), 3),
    "basic": Residual("basic", (4, 6)),
    "basic, one width": Residual("basic", (4, 4)),
    "bottleneck": Residual("bottleneck", (4, 8)),
    "pre-activation": Residual("preactivation", (4, 6)),
    "without norms": Residual("basic", (4, 6), None),
    "norms over all channels": Residual("basic", (4, 6), lambda width: nn.GroupNorm(1, width)),
}
ALL = {
    **{f"mlp: {name}": (architectures.mlp, model, (3, 4)) for name, model in MLPS.items()},
    **{f"vgg: {name}": (architectures.vgg, model, (3, 1, 8, 8)) for name, model in VGGS.items()},
    **{f"resnet: {name}": (architectures.resnet, model, (3, 1, 8, 8)) for name, model in RESNETS.items()},
}


@cache
def all_derived() -> Derived:
    return derived({name: Case(model, torch.randn(shape), ()) for name, (_, model, shape) in ALL.items()})


def derived_of(name: str) -> lmc.PermutationSpec:
    axes, groups = all_derived().axes(name), all_derived().spec.groups
    mine = {group for entries in axes.values() for axis in entries for group in axis.groups}
    return lmc.PermutationSpec.from_axes(axes, [groups[group] for group in mine]).bind(ALL[name][1])


@pytest.mark.parametrize("name", ALL)
def test_builders_find_what_is_derived(name: str) -> None:
    build, model, _ = ALL[name]
    built, found = build(model), derived_of(name)
    assert up_to_names(built) == up_to_names(found)
    permitted = [spec.explain().log10_permutations for spec in (built, found)]
    assert permitted[0] == pytest.approx(permitted[1]) and permitted[0] > 0


def test_a_group_that_is_missing_shows() -> None:
    model = MLPS["plain"]
    built = architectures.mlp(model)
    less = built.edit(pin=built.roots[:1])
    assert up_to_names(less) != up_to_names(lmc.derive_spec(model, torch.randn(3, 4)))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "wide_resnet50_2", "vgg11_bn", "vgg11"])
def test_torchvisions_too(name: str) -> None:
    models_of = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        model = getattr(models_of, name)(weights=None)
    build = architectures.resnet if "resnet" in name else architectures.vgg
    assert up_to_names(build(model)) == up_to_names(lmc.derive_spec(model, torch.randn(2, 3, 224, 224)))

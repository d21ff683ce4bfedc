"""The specs that git-re-basin and its port build: here they fit the models, and keep their functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.models import randomise
from lmc_fast.compat import git_re_basin, git_re_basin_pytorch
from lmc_fast.compat.git_re_basin import PermutationSpec, apply_permutation, weight_matching


class MLP(nn.Module):
    """The port's, narrow."""

    def __init__(self) -> None:
        super().__init__()
        for i, (inputs, outputs) in enumerate([(12, 8), (8, 6), (6, 7), (7, 5)]):
            self.add_module(f"layer{i}", nn.Linear(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)[:, :12]
        for i in range(3):
            x = torch.relu(self.get_submodule(f"layer{i}")(x))
        return self.layer3(x)


def random_perm(ps: PermutationSpec, params: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {p: rng.permutation(params[k].shape[axis]) for p, ((k, axis), *_) in ps.perm_to_axes.items()}


def norm(channels: int) -> nn.Module:
    return nn.GroupNorm(1, channels)


class WideBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn2, self.conv2 = norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Sequential()
        if inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(torch.relu(self.bn1(x)))
        return self.conv2(torch.relu(self.bn2(out))) + self.shortcut(x)


class WideResNet(nn.Module):
    """The port's pre-activation ResNet, narrow."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        widths = [4, 6, 7, 8]
        for stage in (1, 2, 3):
            first = WideBlock(widths[stage - 1], widths[stage])
            rest = [WideBlock(widths[stage], widths[stage]) for _ in range(blocks - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(first, *rest))
        self.bn1, self.linear = norm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for stage in (1, 2, 3):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.linear(torch.relu(self.bn1(x)).mean(dim=(2, 3)))


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """torchvision's, narrow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        before = 4
        for stage, width in enumerate((4, 5, 6, 7), start=1):
            self.add_module(f"layer{stage}", nn.Sequential(BasicBlock(before, width), BasicBlock(width, width)))
            before = width
        self.fc = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.fc(x.mean(dim=(2, 3)))


class VGG16(nn.Module):
    """The port's, narrow."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for width in (3, 3, 0, 4, 4, 0, 5, 5, 5, 0, 6, 6, 6, 0, 7, 7, 7, 0):
            if width:
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                inputs = width
            else:
                layers.append(nn.MaxPool2d(2))
        self.features, self.classifier = nn.Sequential(*layers), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


class CNN(nn.Module):
    """The port's, narrow, with maps that end at 1 x 1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3)
        self.fc1, self.fc2 = nn.Linear(6, 7), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv2(torch.relu(self.conv1(x)))).amax(dim=(2, 3))
        return self.fc2(torch.relu(self.fc1(x)))


TORCH: dict[str, tuple[Callable[[], nn.Module], Callable[[], PermutationSpec]]] = {
    "mlp": (MLP, lambda: git_re_basin_pytorch.mlp_permutation_spec(3)),
    "cnn": (CNN, git_re_basin_pytorch.cnn_permutation_spec),
    "resnet18": (ResNet18, git_re_basin_pytorch.resnet18_permutation_spec),
    "resnet20": (lambda: WideResNet(3), git_re_basin_pytorch.resnet20_permutation_spec),
    "resnet50": (lambda: WideResNet(8), git_re_basin_pytorch.resnet50_permutation_spec),
    "vgg16": (VGG16, git_re_basin_pytorch.vgg16_permutation_spec),
}


@pytest.mark.parametrize("name", TORCH)
def test_specs_of_the_port_keep_the_function(name: str) -> None:
    """Every parameter and statistic random, every permutation random: the outputs stay, and are found again."""
    build, spec = TORCH[name]
    model, ps = randomise(build(), seed=1).double(), spec()
    state = model.state_dict()
    assert not set(ps.axes_to_perm) - set(state)
    x = torch.randn(6, 3, 32, 32, dtype=torch.float64)
    truth = random_perm(ps, state)
    moved = apply_permutation(ps, truth, state)
    assert any(not torch.equal(moved[k], state[k]) for k in state)
    other = build().double().eval()
    other.load_state_dict(moved)
    with torch.no_grad():
        torch.testing.assert_close(other(x), model(x))
    perm = weight_matching(ps, moved, state, silent=True)
    assert {p: index.tolist() for p, index in perm.items()} == {p: index.tolist() for p, index in truth.items()}


def flax_conv(params: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Kernels are [height, width, inputs, outputs]; x is [batch, channels, height, width]."""
    return functional.conv2d(
        x, params[f"{name}/kernel"].permute(3, 2, 0, 1), params.get(f"{name}/bias"), padding="same"
    )


def flax_norm(params: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    scale, bias = (params[f"{name}/{part}"][:, None, None] for part in ("scale", "bias"))
    return functional.group_norm(x, 1) * scale + bias


def flax_dense(params: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ params[f"{name}/kernel"] + params[f"{name}/bias"]


def flax_vgg16(params: dict[str, Tensor], x: Tensor) -> Tensor:
    for i in range(13):
        x = torch.relu(flax_norm(params, f"LayerNorm_{i}", flax_conv(params, f"Conv_{i}", x)))
    x = x.amax(dim=(2, 3))
    for i in range(2):
        x = torch.relu(flax_dense(params, f"Dense_{i}", x))
    return flax_dense(params, "Dense_2", x)


def flax_resnet20(params: dict[str, Tensor], x: Tensor) -> Tensor:
    x = torch.relu(flax_norm(params, "norm1", flax_conv(params, "conv1", x)))
    for stage in range(3):
        for block in range(3):
            name = f"blockgroups_{stage}/blocks_{block}"
            out = torch.relu(flax_norm(params, f"{name}/norm1", flax_conv(params, f"{name}/conv1", x)))
            out = flax_norm(params, f"{name}/norm2", flax_conv(params, f"{name}/conv2", out))
            if block == 0 and stage > 0:
                x = flax_norm(params, f"{name}/shortcut/layers_1", flax_conv(params, f"{name}/shortcut/layers_0", x))
            x = torch.relu(out + x)
    return flax_dense(params, "dense", x.mean(dim=(2, 3)))


def flax_resnet50(params: dict[str, Tensor], x: Tensor) -> Tensor:
    def part(name: str, x: Tensor) -> Tensor:
        return flax_norm(params, f"{name}/BatchNorm_0", flax_conv(params, f"{name}/Conv_0", x))

    x = torch.relu(part("layers_0/ConvBlock_0", x))
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            name = f"blockgroups_{stage}/blocks_{block}"
            out = torch.relu(part(f"{name}/ConvBlock_0", x))
            out = part(f"{name}/ConvBlock_2", torch.relu(part(f"{name}/ConvBlock_1", out)))
            x = torch.relu(out + (x if block else part(f"{name}/ResNetSkipConnection_0/ConvBlock_0", x)))
    return flax_dense(params, "dense", x.mean(dim=(2, 3)))


FLAX = {
    "vgg16": (flax_vgg16, git_re_basin.vgg16_permutation_spec),
    "resnet20": (flax_resnet20, git_re_basin.resnet20_permutation_spec),
    "resnet50": (flax_resnet50, git_re_basin.resnet50_permutation_spec),
}


@pytest.mark.parametrize("name", FLAX)
def test_specs_of_the_original_keep_the_function(name: str) -> None:
    forward, spec = FLAX[name]
    ps = spec()
    rng = np.random.default_rng(0)
    sizes = {p: int(rng.integers(4, 9)) for p in ps.perm_to_axes}

    def extent(k: str, axis: int) -> int:
        p = ps.axes_to_perm[k][axis]
        if p is not None:
            return sizes[p]
        return 3 if len(ps.axes_to_perm[k]) == 4 else 5

    params = {
        k: rng.standard_normal([extent(k, axis) for axis in range(len(axes))]) / (2 if k.endswith("kernel") else 1)
        for k, axes in ps.axes_to_perm.items()
    }
    truth = random_perm(ps, params)
    moved = apply_permutation(ps, truth, params)
    x = torch.from_numpy(rng.standard_normal((6, 3, 5, 5)))
    expected, found = (forward({k: torch.from_numpy(w) for k, w in state.items()}, x) for state in (params, moved))
    assert float(expected.std()) > 1e-3
    torch.testing.assert_close(found, expected)
    perm = weight_matching(0, ps, moved, params, silent=True)
    assert {p: index.tolist() for p, index in perm.items()} == {p: index.tolist() for p, index in truth.items()}


def test_class_labels_keep_their_places() -> None:
    """The trap: a permutation for the classifier's outputs."""
    ps = git_re_basin_pytorch.vgg16_permutation_spec()
    assert ps.axes_to_perm["classifier.weight"] == (None, "P_Conv_40")
    assert ps.axes_to_perm["classifier.bias"] == (None,)
    for _, spec in [*TORCH.values(), *FLAX.values()]:
        last = [k for k, axes in spec().axes_to_perm.items() if len(axes) == 1][-1]
        assert spec().axes_to_perm[last] == (None,)

"""Builders on state dicts: the order that names tell, or a refusal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import PermutationSpec, architectures

State = dict[str, Tensor]


def from_file(model: nn.Module, folder: Path) -> State:
    path = folder / "model.safetensors"
    save_file(model.state_dict(), path)
    return load_file(path)


def reversed_layers(state: State) -> State:
    """Another order than the model's and than that of names."""
    return dict(reversed(state.items()))


def stack(depth: int, bias: bool = True) -> nn.Sequential:
    layers = [part for _ in range(depth) for part in (nn.Linear(8, 8, bias=bias), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(8, 8, bias=bias))


class Numbered(nn.Module):
    """fc1 to fc12, one width for all."""

    def __init__(self) -> None:
        super().__init__()
        for i in range(1, 13):
            self.add_module(f"fc{i}", nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = torch.tanh(layer(x))
        return x


class InBlocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(11))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Words(nn.Module):
    """Names that tell no order, and that sort into a wrong one that fits by size."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.entry, self.body, self.answer = (nn.Linear(8, 8, bias=bias) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(torch.relu(self.body(torch.relu(self.entry(x)))))


@pytest.mark.parametrize(
    "make", [lambda: stack(6), lambda: stack(6, bias=False), Numbered, InBlocks], ids=["0", "0-bare", "fc1", "blocks.0"]
)
def test_numbers_in_names_tell_the_order_of_a_file(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = make()
    spec = architectures.mlp(from_file(model, tmp_path))
    assert spec == architectures.mlp(model)
    assert lmc.verify_spec(model, spec, torch.randn(5, 8)) < 1e-12


def test_of_a_file_with_several_dtypes(tmp_path: Path) -> None:
    model = stack(6)
    for place in (0, 8, 12):
        model[place].double()
    assert architectures.mlp(from_file(model, tmp_path)) == architectures.mlp(model)


def test_convolutions_and_norms_of_a_file_by_number(tmp_path: Path) -> None:
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()]
    layers[0] = nn.Conv2d(1, 4, 3, padding=1)
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 25, 3))
    spec = architectures.vgg(from_file(model, tmp_path))
    assert spec == architectures.vgg(model)
    assert lmc.verify_spec(model, spec, torch.randn(2, 1, 5, 5)) < 1e-12


@pytest.mark.parametrize(
    ("build", "model"),
    [
        (architectures.mlp, Words()),
        (architectures.mlp, Words(bias=False)),
        (architectures.vgg, models.ConvNet()),
        (architectures.resnet, models.small_resnet()),
    ],
    ids=["words", "words-bare", "features-classifier", "resnet"],
)
def test_an_order_that_nothing_tells_is_refused(
    build: Callable[[object], PermutationSpec], model: nn.Module, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"cannot tell the order of the layers .* Pass the module, or a dict in"):
        build(from_file(model, tmp_path))


@pytest.mark.parametrize(
    ("build", "model"),
    [
        (architectures.mlp, Words()),
        (architectures.vgg, models.ConvNet()),
        (architectures.resnet, models.small_resnet()),
    ],
    ids=["words", "features-classifier", "resnet"],
)
def test_a_models_own_order_is_taken(build: Callable[[object], PermutationSpec], model: nn.Module) -> None:
    assert build(dict(model.state_dict())) == build(model)


def test_an_order_that_contradicts_the_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="contradicts the numbers in its names"):
        architectures.mlp(reversed_layers(stack(2).state_dict()))


NORMS = {
    "group-norm": nn.GroupNorm(4, 8),
    "layer-like-group-norm": nn.GroupNorm(1, 8),
    "batch-norm-without-statistics": nn.BatchNorm2d(8, track_running_stats=False),
    "instance-norm": nn.InstanceNorm2d(8, affine=True),
}


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())
def test_a_norm_that_a_state_dict_does_not_show_is_refused(norm: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 3))
    with pytest.raises(ValueError, match=r"cannot tell from a state dict what norm '1' is.*Pass the module"):
        architectures.vgg(model.state_dict())


@pytest.mark.parametrize("norm", list(NORMS.values())[1:], ids=list(NORMS)[1:])
def test_a_module_shows_its_norms(norm: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 3))
    assert lmc.verify_spec(model, architectures.vgg(model), torch.randn(5, 3, 6, 6)) < 1e-12


def test_a_resnet_of_unknown_norms_is_refused() -> None:
    model = models.small_resnet()
    state = {name: tensor for name, tensor in model.state_dict().items() if "running" not in name}
    with pytest.raises(ValueError, match=r"cannot tell from a state dict what norm 'bn1' is"):
        architectures.resnet(state)


class OwnGroupNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_groups, self.weight, self.bias = 2, nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.group_norm(x, self.num_groups, self.weight, self.bias)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (nn.GroupNorm(4, 8), "a GroupNorm of 4 groups"),
        (OwnGroupNorm(), "a OwnGroupNorm of 2 groups"),
        (nn.LocalResponseNorm(3), "a LocalResponseNorm, to which the order of channels matters"),
        (nn.ChannelShuffle(2), "a ChannelShuffle, to which the order of channels matters"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_a_module_with_groups_of_channels_is_refused_by_name(part: nn.Module, message: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), part, nn.Flatten(), nn.Linear(8 * 16, 3))
    with pytest.raises(ValueError, match=message):
        architectures.vgg(model)


def test_an_embedding_is_no_linear() -> None:
    with pytest.raises(ValueError, match="got '0', an embedding"):
        architectures.mlp(nn.Sequential(nn.Embedding(8, 8), nn.Linear(8, 3)))


def test_a_transposed_convolution_shows_by_its_bias() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 6, 3), nn.Conv2d(8, 2, 3))
    with pytest.raises(ValueError, match="tensors of '1' differ in their number of outputs"):
        architectures.vgg(model.state_dict())


def test_sizes_must_chain_in_the_order_of_numbers() -> None:
    state = {"2.weight": torch.zeros(4, 5), "10.weight": torch.zeros(3, 6)}
    with pytest.raises(ValueError, match="layer '10' reads 6 inputs, but the layer before it has 4 outputs"):
        architectures.mlp(state)

"""Kinds of model that people have, and the modes that they call from, for `cells`."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import lmc_fast as lmc

__all__ = ["KINDS", "MODES", "Kind"]


WIDTH = 6
INPUTS, CLASSES, EXAMPLES = 4, 3, 10


class Net(nn.Module):
    """Two layers, of any dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:  # [batch, inputs]
        return self.fc2(torch.relu(self.fc1(x)))


class Normed(Net):
    """With BatchNorm between."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.norm(self.fc1(x))))


class InFloat32(Net):
    """With a norm that is computed in float32 whatever comes, as language models have it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(WIDTH) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(x).float()
        hidden = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + 1e-6)
        return self.fc2(torch.relu(self.scale * hidden.to(x.dtype)))


class Keeps(Net):
    """Keeps its hidden units."""

    def forward(self, x: Tensor) -> Tensor:
        self.hidden = torch.relu(self.fc1(x))
        return self.fc2(self.hidden)


class WithUnused(Net):
    """With an auxiliary head that the forward pass leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Linear(WIDTH, 2)


class Tied(Net):
    """The last layer reads hidden units by the weights that the first one writes them with."""

    def __init__(self) -> None:
        super().__init__()
        self.fc2 = nn.Linear(INPUTS, WIDTH)
        self.out = nn.Linear(WIDTH, CLASSES)
        self.fc2.weight = self.fc1.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.fc1(x) + self.fc2(x.flip(-1))))


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    Attributes:
        build: makes one.
        axes: what its spec says beside, or in the place of, the plain net's.
        without: names of the plain net that its spec lacks.
        prepare: what is done to it in the end: wrapped, cast.
        dtype: of its inputs.
    """

    build: Callable[[], nn.Module] = Net
    axes: Mapping[str, tuple[str | None, ...]] = dataclasses.field(default_factory=dict)
    without: Sequence[str] = ()
    prepare: Callable[[Any], nn.Module] = lambda model: model
    dtype: torch.dtype = torch.float32

    def models(self) -> list[nn.Module]:
        """Three of them, from different seeds."""
        made = []
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            for seed in range(3):
                torch.default_generator.manual_seed(seed)
                made.append(self.prepare(self.build()))
        return made

    def spec(self) -> lmc.PermutationSpec:
        """The spec of these."""
        axes = {**PLAIN, **self.axes}
        return lmc.PermutationSpec.from_axes({name: of for name, of in axes.items() if name not in self.without})

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """Two batches of inputs and targets, one after another of other sizes."""
        generator = torch.Generator().manual_seed(7)
        made = []
        for count in (EXAMPLES, EXAMPLES // 2):
            inputs = torch.randn(count, INPUTS, generator=generator, dtype=torch.float64)
            made.append((inputs.to(self.dtype), torch.randint(0, CLASSES, (count,), generator=generator)))
        return made


PLAIN: dict[str, tuple[str | None, ...]] = {
    "fc1.weight": ("P", None),
    "fc1.bias": ("P",),
    "fc2.weight": (None, "P"),
    "fc2.bias": (None,),
}


def _ran(model: nn.Module) -> nn.Module:
    """After a step of training, which leaves gradients and what the forward pass keeps."""
    model(torch.randn(4, INPUTS)).sum().backward()
    return model


def _first(prepare: Callable[[nn.Module], object]) -> Callable[[nn.Module], nn.Module]:
    """Prepare the first layer, and take a step."""

    def prepared(model: nn.Module) -> nn.Module:
        prepare(model.fc1)
        return _ran(model)

    return prepared


def _made_in_inference() -> nn.Module:
    with torch.inference_mode():
        return Net()


_NEW = "fc1.parametrizations.weight"
_WEIGHT = ("fc1.weight",)
KINDS: dict[str, Kind] = {
    "plain": Kind(),
    "BatchNorm": Kind(Normed, {"norm.weight": ("P",), "norm.bias": ("P",)}, prepare=_ran),
    "compiled": Kind(prepare=lambda model: torch.compile(model, backend="eager")),
    "DataParallel": Kind(prepare=nn.DataParallel),
    "DDP": Kind(prepare=lambda model: nn.parallel.DistributedDataParallel(model)),
    "weight_norm": Kind(
        axes={f"{_NEW}.original0": ("P", None), f"{_NEW}.original1": ("P", None)},
        without=_WEIGHT,
        prepare=_first(parametrizations.weight_norm),
    ),
    "old weight_norm": Kind(
        axes={"fc1.weight_g": ("P", None), "fc1.weight_v": ("P", None)},
        without=_WEIGHT,
        prepare=_first(nn.utils.weight_norm),
    ),
    "spectral_norm": Kind(
        axes={f"{_NEW}.original": ("P", None), f"{_NEW}.0._u": ("P",), f"{_NEW}.0._v": (None,)},
        without=_WEIGHT,
        prepare=_first(parametrizations.spectral_norm),
    ),
    "pruned": Kind(
        axes={"fc1.weight_orig": ("P", None), "fc1.weight_mask": ("P", None)},
        without=_WEIGHT,
        prepare=_first(lambda layer: prune.l1_unstructured(layer, "weight", 0.3)),
    ),
    "activation on self": Kind(Keeps, prepare=_ran),
    "bfloat16": Kind(prepare=lambda model: model.bfloat16(), dtype=torch.bfloat16),
    "float16": Kind(prepare=lambda model: model.half(), dtype=torch.float16),
    "double": Kind(prepare=lambda model: model.double(), dtype=torch.float64),
    "tied": Kind(
        Tied,
        {"fc2.weight": ("P", None), "fc2.bias": ("P",), "out.weight": (None, "P"), "out.bias": (None,)},
    ),
    "unused parameter": Kind(WithUnused, {"aux.weight": (None, "P"), "aux.bias": (None,)}),
    "float32 norm": Kind(InFloat32, {"scale": ("P",)}),
    "made in inference": Kind(_made_in_inference),
}


@contextlib.contextmanager
def _set(read: Callable[[], Any], write: Callable[[Any], object], value: Any) -> Iterator[None]:
    before = read()
    write(value)
    try:
        yield
    finally:
        write(before)


MODES: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "default dtype": lambda: _set(torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    "default device": lambda: _set(lambda: None, torch.set_default_device, "meta"),
    "matmul precision": lambda: _set(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"),
    "deterministic": lambda: _set(torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True),
    "numpy errors": lambda: np.errstate(all="raise"),
}

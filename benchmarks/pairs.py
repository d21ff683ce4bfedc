"""Pairs of networks of one architecture, trained from two seeds and kept on disk."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional

from lmc_fast import PermutationSpec, architectures
from lmc_fast.checkpoints import load_checkpoint, save_checkpoint
from lmc_fast.experiments.datasets import Dataset, load_dataset
from lmc_fast.experiments.models import MLP, VGG11, ResNet
from lmc_fast.experiments.training import train

from .gains import DEFAULT_CACHE

__all__ = ["MODELS", "Pair", "PairStore", "check_model", "smaller"]

# What `PairStore.get` is asked for by default; any other width will do.
MODELS = (
    *(f"mlp-{width}" for width in (512, 1024, 2048, 4096)),
    "vgg11-64",
    *(f"resnet20-{width}" for width in (1, 2, 4, 8)),
)
_NAME = re.compile(r"(mlp|vgg11|resnet20)-([1-9]\d*)")
# Convolutions on whole images would train for hours here, and their weights would be no larger.
_MAP_SIZE = 10


@dataclass(frozen=True)
class Pair:
    """Two trained models in eval mode, a bound spec, and inputs that tell whether a function stayed."""

    name: str
    a: nn.Module
    b: nn.Module
    spec: PermutationSpec
    inputs: Tensor


@dataclass(frozen=True)
class PairStore:
    """Trained pairs, by name; a pair is trained when it is first asked for.

    Attributes:
        data: a path for `load_dataset`, or None for scikit-learn's digits.
        cache: folder in which trained models are kept.
        say: told what takes long.
        steps: of training for each model, in batches of 64, rounded to whole epochs; convolutional ones take a
            fifth of them.
    """

    data: Path | None = None
    cache: Path = DEFAULT_CACHE
    say: Callable[[str], None] = print
    steps: int = 660

    def get(self, name: str) -> Pair:
        """The pair ``mlp-{units}``, ``vgg11-{channels of the first layer}`` or ``resnet20-{multiple of 16}``.

        Raises:
            ValueError: another name.
        """
        family, width = check_model(name)
        data = load_dataset("digits" if self.data is None else self.data)
        if family != "mlp":
            data = smaller(data)
        steps = self.steps if family == "mlp" else self.steps // 5
        epochs = max(1, round(steps / (len(data.train_inputs) // 64)))
        shape = data.image_shape

        def build() -> nn.Module:
            return _build(family, width, shape, data.classes)

        models = []
        for seed in (0, 1):
            path = self.cache / f"{data.name}-{name}-{epochs}epochs-seed{seed}.safetensors"
            if not path.exists():
                self.say(f"training {name} from seed {seed} for {epochs} epochs, once, for {path}")
                self.cache.mkdir(parents=True, exist_ok=True)
                save_checkpoint(path, train(build, data, seed=seed, epochs=epochs).state_dict())
            model = build().eval()
            model.load_state_dict(load_checkpoint(path))
            models.append(model)
        spec = {"mlp": architectures.mlp, "vgg11": architectures.vgg, "resnet20": architectures.resnet}[family]
        return Pair(name, *models, spec(models[0]), data.test_inputs[:64])


def check_model(name: str) -> tuple[str, int]:
    """Family and width of a pair's name; ValueError unless it is one."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"--models must be like mlp-512, vgg11-64 or resnet20-4, got {name!r}")
    return match[1], int(match[2])


def smaller(data: Dataset) -> Dataset:
    """The data set with images averaged down to at most 10 pixels a side."""
    factor = -(-data.train_inputs.shape[-1] // _MAP_SIZE)
    return replace(
        data,
        train_inputs=functional.avg_pool2d(data.train_inputs, factor),
        test_inputs=functional.avg_pool2d(data.test_inputs, factor),
    )


def _build(family: str, width: int, shape: tuple[int, int, int], classes: int) -> nn.Module:
    channels, height, side = shape
    if family == "mlp":
        return MLP(channels * height * side, (width,) * 3, classes)
    if family == "resnet20":
        return ResNet(channels, 16 * width, (3, 3, 3), classes)
    return VGG11(channels, width, side, classes)

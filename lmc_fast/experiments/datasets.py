"""Data sets, as tensors in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .._checks import check_int, check_type
from .._extras import require
from .image_files import Images, read_images

__all__ = ["Batches", "Dataset", "Shifted", "digits", "load_dataset"]

# Of files with one part: 1,500 of 10,000 examples.
TEST_PERCENT = 15


class Batches:
    """(inputs, targets) batches of fixed order, to be gone through as often as wanted."""

    def __init__(self, inputs: Tensor, targets: Tensor, size: int) -> None:
        self.inputs, self.targets, self.size = inputs, targets, size

    def __len__(self) -> int:
        return -(-len(self.inputs) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.inputs), self.size):
            yield self.inputs[start : start + self.size], self.targets[start : start + self.size]


class Shifted:
    """Batches of images, each moved by up to so many pixels across and down, anew every time they are gone through.

    What comes in at an edge is as the edge was. The first time is the same for every object of one seed, as are the
    second and all that follow.

    Args:
        batches: of images [examples, channels, height, width] and their targets; read.
        pixels: at most, 0 or more.
        seed: of what is drawn; the global generator is left as it was.

    Raises:
        TypeError, ValueError: `pixels` or `seed` that is no whole number, or below 0.
    """

    def __init__(self, batches: Batches, pixels: int, seed: int = 0) -> None:
        check_int("pixels", pixels, 0)
        check_int("seed", seed, 0)
        self.batches, self.pixels, self.seed, self._times = batches, pixels, seed, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # Both numbers decide, and no other time of another seed is the same.
        drawn = np.random.default_rng([self.seed, self._times])
        self._times += 1
        for images, targets in self.batches:
            shifts = torch.from_numpy(drawn.integers(0, 2 * self.pixels + 1, (len(images), 2)))
            yield self._moved(images, shifts), targets

    def _moved(self, images: Tensor, shifts: Tensor) -> Tensor:  # [n, c, h, w], [n, 2] -> [n, c, h, w]
        height, width = images.shape[-2:]
        # An entry of the result is read from a place as many pixels away, or from the edge.
        down = (torch.arange(height) + shifts[:, :1] - self.pixels).clamp(0, height - 1)  # [n, h]
        across = (torch.arange(width) + shifts[:, 1:] - self.pixels).clamp(0, width - 1)  # [n, w]
        example = torch.arange(len(images))[:, None, None, None]
        channel = torch.arange(images.shape[1])[:, None, None]
        return images[example, channel, down[:, None, :, None], across[:, None, None, :]]


@dataclass(frozen=True)
class Dataset:
    """Images and labels, or text and what comes next in it, split once and for all.

    Attributes:
        name: the data set's.
        train_inputs, test_inputs: float32 [examples, channels, height, width], standardised by the training part; of
            text int64 [examples, tokens].
        train_targets, test_targets: int64 [examples], or [examples, tokens].
    """

    name: str
    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        channels, height, width = self.train_inputs.shape[1:]
        return channels, height, width

    @property
    def classes(self) -> int:
        """How many, by the largest label."""
        return int(max(self.train_targets.max(), self.test_targets.max())) + 1

    @cached_property
    def fingerprint(self) -> str:
        """A hash of every number in it: of two data sets with one fingerprint, training cannot tell which is which."""
        digest = hashlib.sha256()
        for tensor in (self.train_inputs, self.train_targets, self.test_inputs, self.test_targets):
            digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(np.ascontiguousarray(tensor.numpy()).view(np.uint8).data)
        return digest.hexdigest()

    def thinned(self, examples: int | None = None, test_examples: int | None = None) -> Dataset:
        """The data set with so many examples of each part at most; None: all.

        They are evenly spaced: of classes that stand in a row all stay.
        """

        def some(of: Tensor, wanted: int | None) -> Tensor:
            return of if wanted is None or wanted >= len(of) else of[torch.arange(wanted) * len(of) // wanted]

        return replace(
            self,
            train_inputs=some(self.train_inputs, examples),
            train_targets=some(self.train_targets, examples),
            test_inputs=some(self.test_inputs, test_examples),
            test_targets=some(self.test_targets, test_examples),
        )

    def train_batches(self, size: int = 64, examples: int | None = None) -> Batches:
        """The first `examples` (None: all) of the training part, in its order."""
        return Batches(self.train_inputs[:examples], self.train_targets[:examples], size)

    def statistics_batches(self, examples: int = 512) -> Batches:
        """The first examples of the training part, in one batch: enough to estimate BatchNorm statistics."""
        return Batches(self.train_inputs[:examples], self.train_targets[:examples], examples)

    def test_batches(self, size: int = 512) -> Batches:
        """The test part."""
        return Batches(self.test_inputs, self.test_targets, size)


def digits() -> Dataset:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels; a fixed fifth is the test part.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, its test set.

    Raises:
        ImportError: scikit-learn is not installed; the message names the extra.
    """
    bunch = require("sklearn.datasets", "demo").load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    images = torch.from_numpy(bunch.images[order]).float().unsqueeze(1)  # [1797, 1, 8, 8]
    labels = torch.from_numpy(bunch.target[order]).long()
    held_out = len(order) // 5
    train, test = images[held_out:], images[:held_out]
    mean, deviation = train.mean(), train.std()
    return Dataset(
        name="digits",
        train_inputs=(train - mean) / deviation,
        train_targets=labels[held_out:],
        test_inputs=(test - mean) / deviation,
        test_targets=labels[:held_out],
    )


def load_dataset(data: str | Path) -> Dataset:
    """The data set that `data` names.

    Args:
        data: "digits" for the embedded one (see `digits`); else a folder with the standard files of MNIST,
            Fashion-MNIST or CIFAR-10, or an ``.npz`` of `images` (uint8) and `labels`, see `read_images`. Files
            without a test part give their last 15 % for it.

    Raises:
        TypeError: `data` is neither.
        FileNotFoundError: no such path, or nothing known in the folder; the message tells what was looked for.
        ValueError: files that are damaged, hold something else, or too few examples to split.
        ImportError: "digits" without scikit-learn.
    """
    check_type("data", data, (str, Path), "'digits' or a path")
    if data == "digits":
        return digits()
    path = Path(data)
    train, test = read_images(path)
    if test is None:
        split = len(train.labels) - len(train.labels) * TEST_PERCENT // 100
        train, test = (
            Images(train.images[part], train.labels[part]) for part in (slice(None, split), slice(split, None))
        )
    for part in (train, test):
        if len(part.labels) == 0:
            raise ValueError(f"data {str(path)!r} must hold examples to train on and to test with")
        if part.labels.min() < 0:
            raise ValueError(f"data {str(path)!r} must have labels of 0 and above, got {part.labels.min()}")
    inputs = [
        torch.from_numpy(part.images.astype(np.float32)) for part in (train, test)
    ]  # [examples, channels, height, width]
    deviation, mean = torch.std_mean(inputs[0], dim=(0, 2, 3), keepdim=True)
    # A channel that does not vary is left as it is, but for its mean.
    deviation = torch.where(deviation > 0, deviation, 1.0)
    return Dataset(
        name=path.resolve().stem,
        train_inputs=(inputs[0] - mean) / deviation,
        train_targets=torch.from_numpy(train.labels),
        test_inputs=(inputs[1] - mean) / deviation,
        test_targets=torch.from_numpy(test.labels),
    )

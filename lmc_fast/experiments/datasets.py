"""Data sets, as tensors in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .._extras import require

__all__ = ["Batches", "Dataset", "digits"]


class Batches:
    """(inputs, targets) batches of fixed order, to be gone through as often as wanted."""

    def __init__(self, inputs: Tensor, targets: Tensor, size: int) -> None:
        self.inputs, self.targets, self.size = inputs, targets, size

    def __len__(self) -> int:
        return -(-len(self.inputs) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.inputs), self.size):
            yield self.inputs[start : start + self.size], self.targets[start : start + self.size]


@dataclass(frozen=True)
class Dataset:
    """Images and labels, split once and for all.

    Attributes:
        name: the data set's.
        train_inputs, test_inputs: float32 [examples, channels, height, width], standardised by the training part.
        train_targets, test_targets: int64 [examples].
    """

    name: str
    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor

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

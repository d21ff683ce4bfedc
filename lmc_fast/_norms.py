"""Layers that normalise by statistics of a batch, while a model runs on batches of any size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

__all__ = ["Norm", "batchnorms", "first_of", "take_batch_statistics", "tracked", "values_per_channel"]

Norm = _BatchNorm | _InstanceNorm


def tracked(module: nn.Module) -> Iterator[tuple[str, Norm]]:
    """The layers that keep running statistics, by name."""
    for name, layer in module.named_modules():
        if isinstance(layer, (_BatchNorm, _InstanceNorm)) and layer.running_mean is not None:
            yield name, layer


def batchnorms(module: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    """All BatchNorm layers, by name."""
    return ((name, layer) for name, layer in module.named_modules() if isinstance(layer, _BatchNorm))


def first_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a layer of one input was called with."""
    return args[0] if args else next(iter(kwargs.values()))


def values_per_channel(tensor: Tensor) -> int:
    """How many numbers a BatchNorm takes the statistics of one channel from."""
    return tensor.numel() // max(1, tensor.shape[1])


class _LocalNorm(_BatchNorm):
    """A BatchNorm over this process alone, of any number of dimensions."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


def take_batch_statistics(module: nn.Module) -> None:
    """Let BatchNorm layers of a module of one's own take the statistics of each batch, with their gradients.

    A batch with one value for each channel has no variance: it is normalised by the statistics of the batch before.
    SyncBatchNorm takes those of this process: other processes need not run the same.

    Raises (when the module is run):
        ValueError: a first batch with one value for each channel.
    """
    for name, layer in batchnorms(module):
        if isinstance(layer, nn.SyncBatchNorm):
            layer.__class__ = _LocalNorm  # type: ignore[assignment]
        if layer.running_mean is None:
            like = torch.zeros(()) if layer.weight is None else layer.weight.detach()
            layer.track_running_stats = True
            layer.running_mean, layer.running_var = (like.new_zeros(layer.num_features) for _ in range(2))
        # The running statistics are those of the last batch.
        layer.momentum = 1.0
        layer.register_forward_pre_hook(_Switch(name), with_kwargs=True)


class _Switch:
    """Puts a BatchNorm in training mode where the batch has statistics."""

    def __init__(self, name: str) -> None:
        self.name, self.has_some = name, False

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        layer.training = values_per_channel(first_of(args, kwargs)) > 1
        if not layer.training and not self.has_some:
            raise ValueError(
                "batches must begin with one of two examples at least, as BatchNorm takes the statistics of a batch, "
                f"but {self.name!r} gets one value for each channel"
            )
        self.has_some = True

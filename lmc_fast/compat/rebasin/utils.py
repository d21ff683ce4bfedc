"""Statistics measured again, and levels of logging."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterable, Sequence, Sized
from typing import Any

import torch
from torch import nn

from ..._backend import check_device
from ..._checks import check_finite, check_int, check_type, fail_type
from ..._modes import neutral
from ...repairing import has_batchnorm, reestimate_in_place

__all__ = ["parse_logging_level", "recalculate_batch_norms"]


@neutral
def recalculate_batch_norms(
    model: nn.Module,
    dataloader: Iterable[Any],
    input_indices: int | Sequence[int] = 0,
    device: torch.device | str | None = None,
    verbose: bool = False,
    dataset_percentage: float = 1.0,
    iterations: int = -1,
) -> None:
    """Measure the BatchNorm statistics of a model again, in place; one without BatchNorm stays as it is.

    Args:
        dataloader: batches: inputs, or tuples or lists with inputs among them.
        input_indices: where in a batch the inputs are, in the order in which the model takes them.
        device: where the inputs go; None: where the model is.
        verbose: a bar.
        dataset_percentage: the share of the batches that is used, in [0, 1]; a part of a batch counts as one.
        iterations: above 0: how many batches are used, whatever the share is.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range, or as `lmc_fast.reestimate_batchnorm`.
    """
    check_type("model", model, nn.Module, "a torch.nn.Module")
    indices = check_indices(input_indices)
    share = check_share(dataset_percentage)
    where = check_device("device", device)
    if not has_batchnorm(model):
        return
    batches: Iterable[Any] = dataloader
    if isinstance(iterations, int) and iterations > 0:
        batches = list(itertools.islice(dataloader, iterations))
    elif share < 1:
        if not isinstance(dataloader, Sized):
            fail_type("dataloader", "a loader that has a length, with dataset_percentage below 1", dataloader)
        batches = list(itertools.islice(dataloader, math.ceil(len(dataloader) * share)))

    def forward(module: nn.Module, batch: Any) -> Any:
        to = next(module.parameters()).device if where is None else where
        listed = [batch[i] for i in indices] if isinstance(batch, (tuple, list)) else [batch]
        return module(*(entry.to(to) for entry in listed))

    reestimate_in_place(model, batches, forward=forward, argument="dataloader", progress=bool(verbose))


def check_indices(input_indices: object) -> list[int]:
    """Indices of inputs in a batch, as a list."""
    several = isinstance(input_indices, Sequence) and not isinstance(input_indices, str)
    listed: Sequence[Any] = input_indices if several else [input_indices]  # type: ignore[assignment]
    return [check_int("input_indices", i, 0) for i in listed]


def check_share(dataset_percentage: float) -> float:
    """A share in [0, 1]."""
    share = check_finite("dataset_percentage", dataset_percentage)
    if not 0 <= share <= 1:
        raise ValueError(f"dataset_percentage must be in [0, 1], got {share}")
    return share


def parse_logging_level(logging_level: int | str) -> int:
    """A level of `logging` by its name, in capitals or not, or by its number."""
    if isinstance(logging_level, str):
        found = getattr(logging, logging_level.upper(), None)
        if isinstance(found, int):
            return found
    elif isinstance(logging_level, int) and logging_level in (10, 20, 30, 40, 50):
        return logging_level
    elif not isinstance(logging_level, int):
        fail_type("logging_level", "a level of logging, by name or by number", logging_level)
    raise ValueError(f"logging_level must be a level of logging, by name or by number, got {logging_level!r}")

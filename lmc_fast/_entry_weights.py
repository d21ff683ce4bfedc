"""Weights of single entries, as matching and merging take them: one tensor for each parameter of each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ._chunks import numbers
from ._tensors import plain
from ._wrappers import met

__all__ = ["checked_entry_weights"]


def checked_entry_weights(
    argument: str, given: Any, tensors: Sequence[Mapping[str, Tensor]]
) -> list[dict[str, Tensor]]:
    """For each model the weights of its entries, by the names of its tensors.

    Args:
        argument: what the caller calls them.
        given: one mapping for each model, from names to tensors of the parameter's shape, 0 or more.
        tensors: of each model.

    Raises:
        TypeError: another kind of thing.
        ValueError: lists of different lengths, a name that the model lacks, another shape, or numbers that are
            negative or not finite.
    """
    takes = f"a sequence of {len(tensors)} mappings from names to tensors, one for each model"
    if isinstance(given, (str, Mapping, Tensor)) or not isinstance(given, Sequence):
        raise TypeError(f"{argument} must be {takes}, got {type(given).__name__}")
    if len(given) != len(tensors):
        raise ValueError(f"{argument} must be {takes}, got {len(given)}")
    found = []
    for i, (mapping, of_model) in enumerate(zip(given, tensors, strict=True)):
        if not isinstance(mapping, Mapping):
            raise TypeError(f"{argument}[{i}] must be a mapping from names to tensors, got {type(mapping).__name__}")
        found.append(_checked(f"{argument}[{i}]", met(mapping, of_model), of_model))
    return found


def _checked(argument: str, mapping: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    ready = {}
    for name, weights in mapping.items():
        if name not in tensors:
            raise ValueError(f"{argument} names {name!r}, which the model lacks")
        if not isinstance(weights, Tensor):
            raise TypeError(f"{argument}[{name!r}] must be a tensor, got {type(weights).__name__}")
        ready[name] = plain(f"{argument}[{name!r}]", weights)
        if weights.shape != tensors[name].shape or not weights.is_floating_point():
            raise ValueError(
                f"{argument}[{name!r}] must be floating point of shape {tuple(tensors[name].shape)}, as the parameter, "
                f"got {weights.dtype} of {tuple(weights.shape)}"
            )
    # A sum that is finite, and a least that is not negative, say it of all; nan is neither.
    least = numbers(torch.stack([w.min().double(), w.sum(dtype=torch.float64)]) for w in ready.values() if w.numel())
    for name, (lowest, total) in zip((name for name, w in ready.items() if w.numel()), least, strict=True):
        if not (lowest >= 0 and total < float("inf")):
            raise ValueError(f"{argument}[{name!r}] must be finite and 0 or more")
    return ready

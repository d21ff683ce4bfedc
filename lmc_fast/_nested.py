"""What is in nested tuples, lists, mappings and dataclasses, and the same structure with other things in it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence

__all__ = ["entries_of", "is_sequence", "leaves", "mapped"]


def mapped(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """The same structure with ``leaf(each)`` for what is in it; containers are copied, the caller's stay."""
    if isinstance(value, PackedSequence):
        return leaf(value)
    if isinstance(value, Mapping):
        items = {key: mapped(item, leaf) for key, item in value.items()}
        if type(value) is dict or not isinstance(value, MutableMapping):
            return items
        made = _copy_of(value)
        for key, item in items.items():
            made[key] = item
        return made
    if is_sequence(value):
        parts = [mapped(item, leaf) for item in value]
        if hasattr(value, "_fields"):
            return type(value)(*parts)
        return tuple(parts) if isinstance(value, tuple) else parts
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        again: Any = copy.copy(value)
        for field in dataclasses.fields(value):
            if hasattr(value, field.name):
                object.__setattr__(again, field.name, mapped(getattr(value, field.name), leaf))
        return again
    return leaf(value)


def _copy_of(mapping: MutableMapping[Any, Any]) -> MutableMapping[Any, Any]:
    """A copy whose entries can be set without the original's changing."""
    made = copy.copy(mapping)
    if not isinstance(mapping, dict):
        # A class of the caller's keeps its entries in an attribute, which a shallow copy shares.
        for name, held in vars(made).items() if hasattr(made, "__dict__") else ():
            if isinstance(held, dict):
                made.__dict__[name] = dict(held) if type(held) is dict else copy.copy(held)
    return made


def entries_of(value: Any) -> Mapping[Any, Any] | None:
    """A mapping or a dataclass as names and values; None for anything else."""
    if isinstance(value, Mapping):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: getattr(value, field.name)
            for field in dataclasses.fields(value)
            if getattr(value, field.name, None) is not None
        }
    return None


def is_sequence(value: Any) -> bool:
    """Whether it is a tuple or list of things, not one thing that happens to be a tuple."""
    return isinstance(value, (tuple, list)) and not isinstance(value, (PackedSequence, torch.Size))


def leaves(value: Any) -> Iterator[Any]:
    """Everything that is no container."""
    entries = entries_of(value)
    if entries is None and not is_sequence(value):
        yield value
        return
    for item in value if entries is None else entries.values():
        yield from leaves(item)

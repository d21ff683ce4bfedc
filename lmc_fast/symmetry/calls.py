"""What a model is called with, and the tensors in what it returns."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .._nested import mapped

__all__ = ["Call", "Inputs", "calls_of", "shapes_of", "tensors_in", "with_tensors_changed"]

# What a language model hands on to its own next call: hidden units, which a right spec permutes. An encoder's are read
# by the decoder of the same model.
STATE = ("past_key_values", "past_key_value", "mems", "cache", "cache_params", "encoder_last_hidden_state")


class Inputs:
    """What a model is called with, where there are positional and keyword arguments: ``Inputs(x, mask=mask)``.

    Attributes:
        args, kwargs: of the call.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs

    def __repr__(self) -> str:
        return f"Inputs({shapes_of((self.args, self.kwargs))})"


@dataclasses.dataclass(frozen=True)
class Call:
    """One forward pass.

    Attributes:
        given: what it takes, nested; copied for every run.
        run: (model, given) -> outputs.
    """

    given: Any
    run: Callable[[nn.Module, Any], Any]

    @classmethod
    def of(cls, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Call:
        """The plain call of a module."""
        return cls((arguments, dict(keywords)), lambda module, given: module(*given[0], **given[1]))


def calls_of(module: nn.Module, example_inputs: Any) -> list[Call]:
    """How a module may be called, the likelier way first.

    A tuple or list holds positional arguments, a mapping with names of the forward's arguments keywords, or is itself
    the only argument, as anything else is. `Inputs` hold both kinds.
    """
    if isinstance(example_inputs, Inputs):
        return [Call.of(example_inputs.args, example_inputs.kwargs)]
    if type(example_inputs) in (tuple, list):
        return [Call.of(tuple(example_inputs), {})]
    whole = Call.of((example_inputs,), {})
    if isinstance(example_inputs, Mapping) and all(isinstance(name, str) for name in example_inputs):
        keywords = dict(example_inputs)
        try:
            inspect.signature(module.forward).bind(**keywords)
        except TypeError:
            return [whole]
        return [Call.of((), keywords), whole]
    return [whole]


def with_tensors_changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A copy of nested structures with every tensor changed; numpy arrays become tensors."""

    def leaf(each: Any) -> Any:
        if isinstance(each, PackedSequence):
            return each._replace(data=change(each.data))
        if isinstance(each, np.ndarray) and each.dtype.kind in "biufc":
            each = torch.from_numpy(np.array(each, dtype=each.dtype.newbyteorder("=")))
        return change(each) if isinstance(each, Tensor) else each

    return mapped(value, leaf)


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors of nested tuples, lists, mappings and dataclasses, and numbers as tensors; the rest is left out."""
    if isinstance(value, Tensor):
        return [value.to_dense() if value.layout != torch.strided else value]
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return [torch.from_numpy(np.array(value))]
    if isinstance(value, (bool, int, float, complex)):
        return [torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None, device="cpu")]
    if isinstance(value, Mapping):
        return [tensor for key, item in value.items() if key not in STATE for tensor in tensors_in(item)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [part.name for part in dataclasses.fields(value) if part.name not in STATE]
        return [tensor for name in names for tensor in tensors_in(getattr(value, name))]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


def shapes_of(value: Any) -> str:
    """Shapes of all tensors in `value`, in order, as ``[3, 7], [3]``."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    with_tensors_changed(value, note)
    return ", ".join(str(list(tensor.shape)) for tensor in found) or "none"

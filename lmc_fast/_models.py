"""Modules and state dicts, seen as one thing: named tensors that are read here and never written."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ._checks import fail_type

__all__ = [
    "Model",
    "ModelT",
    "accumulate_dtype",
    "check_batches",
    "check_same_tensors",
    "counted_names",
    "tensor_identity",
    "tensors_of",
    "with_tensors",
]

Model = nn.Module | Mapping[str, Tensor]
ModelT = TypeVar("ModelT", bound=Model)

# Statistics of the data, not weights: they are permuted with their units, and count in no distance.
STATISTICS = ("running_mean", "running_var")


def tensors_of(argument: str, model: object) -> dict[str, Tensor]:
    """The named tensors of a module (its state dict) or of a mapping, detached and not copied.

    Raises:
        TypeError: `model` is neither, or a mapping of something other than names to tensors.
    """
    if isinstance(model, nn.Module):
        found: Mapping[Any, Any] = model.state_dict()
    elif isinstance(model, Mapping):
        found = model
    else:
        fail_type(argument, "a torch.nn.Module or a state dict", model)
    tensors = {}
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            fail_type(f"{argument}[{name!r}]", "a tensor under its parameter's name", tensor)
        tensors[name] = tensor.detach()
    return tensors


def with_tensors(model: ModelT, tensors: dict[str, Tensor]) -> ModelT:
    """A model of the same kind as `model` that holds `tensors`: a new module, or `tensors` as they are.

    A module is deep-copied (hooks and training mode stay, gradients do not); `tensors` are copied into it, in its
    own dtypes and on its own devices.
    """
    if not isinstance(model, nn.Module):
        return tensors  # type: ignore[return-value]
    module = copy.deepcopy(model)
    module.load_state_dict(tensors)
    module.zero_grad(set_to_none=True)
    return module


def check_same_tensors(argument: str, tensors: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> None:
    """Raise ValueError, naming the first difference, unless both hold the same names with the same shapes."""
    for name, tensor in reference.items():
        if name not in tensors:
            raise ValueError(f"{argument} must have the tensors of model_a, but lacks {name!r}")
        if tensors[name].shape != tensor.shape:
            raise ValueError(
                f"{argument} must have the shapes of model_a, but {name!r} is {tuple(tensors[name].shape)} "
                f"there and {tuple(tensor.shape)} in model_a"
            )
    extra = next((name for name in tensors if name not in reference), None)
    if extra is not None:
        raise ValueError(f"{argument} must have the tensors of model_a, but has {extra!r} as well")


def tensor_identity(tensor: Tensor) -> Hashable:
    """Equal for two names of one tensor (tied weights), different for different tensors."""
    if tensor.numel() == 0 or tensor.device.type == "meta":
        return id(tensor)
    return (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)


def counted_names(model: Model, tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that count in distances: every weight once, no buffers, nothing integer.

    A tied weight counts under its first name. Of a state dict, which does not tell buffers from weights, the
    running statistics of normalisation layers are known by name.
    """
    buffers = {name for name, _ in model.named_buffers()} if isinstance(model, nn.Module) else set()
    seen: set[Hashable] = set()
    names = []
    for name, tensor in tensors.items():
        is_statistic = name in buffers or name.rpartition(".")[2] in STATISTICS
        if is_statistic or not tensor.is_floating_point():
            continue
        identity = tensor_identity(tensor)
        if identity not in seen:
            seen.add(identity)
            names.append(name)
    return names


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums over tensors of `dtype` are kept in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_batches(argument: str, batches: object) -> Iterable[Any]:
    """Return `batches` if it can be run through more than once; TypeError for a tensor or a one-shot iterator."""
    takes = "batches that can be gone through again and again (a list, a DataLoader)"
    if isinstance(batches, Tensor) or not isinstance(batches, Iterable) or isinstance(batches, Iterator):
        fail_type(argument, takes, batches)
    return batches

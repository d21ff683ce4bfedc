"""Copies of modules, of those too that keep things beside their tensors that cannot be copied."""

from __future__ import annotations

import copy
import pickle
import types
from collections.abc import Iterator
from typing import Any, TypeVar

from torch import Tensor, nn

__all__ = ["copied"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)

# What is raised by what does not want to be copied: torch of activations, Python of locks and files, other classes.
_REFUSALS = (
    *(TypeError, RuntimeError, ValueError, AttributeError, AssertionError, OSError, LookupError),
    *(pickle.PicklingError, copy.Error),
)
# What nn.Module keeps by itself.
_OWN = frozenset(nn.Module().__dict__)
_CONTAINERS = (dict, list, tuple, set, frozenset)


def copied(module: ModuleT) -> ModuleT:
    """A copy with tensors of its own: hooks and training modes stay, gradients do not.

    Beside parameters, buffers and modules all else is copied too, as `copy.deepcopy` does. What refuses that (a lock,
    a file, a logger, a trainer) is shared by both; an activation that a forward pass left behind comes without its
    history.

    Raises:
        TypeError: something of the module cannot be copied even so; the message names where it is.
    """
    try:
        twin = copy.deepcopy(module)
    except _REFUSALS:
        twin = _copied_around(module)
    twin.zero_grad(set_to_none=True)
    return twin


def _copied_around(module: ModuleT) -> ModuleT:
    """As `copy.deepcopy`, which is told beforehand what stands for each thing that it could not copy."""
    memo: dict[int, Any] = {}
    # The memo knows things by where they are, so that they must stay there.
    held: list[Any] = []
    seen: set[int] = set()
    for part in module.modules():
        for value in _extras(part):
            for refusing, stand_in in _stand_ins(value, seen):
                memo[id(refusing)] = stand_in
                held.append(refusing)
    try:
        return copy.deepcopy(module, memo)
    except _REFUSALS as error:
        name, why = _culprit(module, memo, error)
        raise TypeError(
            f"{name} cannot be copied ({type(why).__name__}: {_first_line(why)}): take it off the model, or pass state "
            "dicts where no forward pass is needed"
        ) from error


def _extras(part: nn.Module) -> Iterator[Any]:
    """What a module keeps beside what every module has, its hooks and buffers included."""
    for name, value in part.__dict__.items():
        if name not in _OWN:
            yield value
        elif name.endswith("_hooks") or name == "_buffers":
            yield from value.values()


def _stand_ins(value: Any, seen: set[int]) -> Iterator[tuple[Any, Any]]:
    """Things within `value` that cannot be copied, each with what is to stand for it in the copy."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        if not value.is_leaf:
            yield value, value.detach().clone()
    elif isinstance(value, _CONTAINERS):
        for entry in (*value.keys(), *value.values()) if isinstance(value, dict) else value:
            yield from _stand_ins(entry, seen)
    elif not isinstance(value, (nn.Module, type, types.FunctionType, types.ModuleType)) and not _copies(value):
        yield value, value


def _copies(value: Any) -> bool:
    """Whether `copy.deepcopy` takes it."""
    try:
        copy.deepcopy(value)
    except _REFUSALS:
        return False
    return True


def _culprit(module: nn.Module, memo: dict[int, Any], error: BaseException) -> tuple[str, BaseException]:
    """The attribute that stands in the way of a copy, and what it says."""
    for path, part in module.named_modules():
        for name, value in part.__dict__.items():
            if name in ("_modules", "_parameters", "_buffers"):
                continue
            try:
                copy.deepcopy(value, dict(memo))
            except _REFUSALS as found:
                return f"attribute {f'{path}.{name}'.lstrip('.')!r} of the model", found
    return f"the model, a {type(module).__name__},", error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]

"""What is known of a spec that was verified."""

from __future__ import annotations

import hashlib
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

__all__ = ["Verification", "structure_of"]

_OWN = vars(nn.Module()).keys()
# Of nested code and configurations: none is nested deeper.
_DEPTH = 8


@dataclass(frozen=True)
class Verification:
    """That a spec was seen to keep a model's function, and how.

    Attributes:
        by: the function that checked it.
        version: of lmc_fast.
        model: name of the model's class.
        inputs: shapes of the example inputs.
        error: largest change of an output entry, relative to the largest output entry.
        precision: the dtype that the forward pass was run in.
        note: what else was found; empty where there is nothing to say.
        structure: what tells the model from another of the same name, as `structure_of` has it; empty where that is
            not known.
    """

    by: str
    version: str
    model: str
    inputs: str
    error: float
    precision: str
    note: str = ""
    structure: str = ""

    def holds_for(self, module: nn.Module) -> bool:
        """Whether it is of a model like this one: the same classes with the same code and settings, part by part."""
        return self.structure != "" and self.structure == structure_of(module)

    def __str__(self) -> str:
        note = f"; {self.note}" if self.note else ""
        return (
            f"verified by {self.by} on {self.model}, inputs {self.inputs}, largest change {self.error:.2g} "
            f"in {self.precision}{note}"
        )


def structure_of(module: nn.Module) -> str:
    """What is the same for models that compute alike up to their weights: a digest of the classes, the code and the
    settings of all parts. A class that was written anew under its old name has another one."""
    digest = hashlib.sha256()
    for name, part in module.named_modules(remove_duplicate=False):
        kind = type(part)
        forward = vars(part).get("forward", kind.forward)
        settings = {key: _told(value) for key, value in vars(part).items() if key not in _OWN and key != "forward"}
        told = (name, kind.__module__, kind.__qualname__, _code(forward), sorted(settings.items()), part.extra_repr())
        digest.update(repr(told).encode(errors="backslashreplace"))
    return digest.hexdigest()


def _code(function: Any, depth: int = 0) -> Any:
    """The instructions of a function, and of those inside it."""
    code = getattr(function, "__code__", function)
    if not isinstance(code, types.CodeType) or depth > _DEPTH:
        return type(function).__qualname__
    constants = [
        _code(each, depth + 1) if isinstance(each, types.CodeType) else repr(each)
        for each in code.co_consts
        if not isinstance(each, (set, frozenset))
    ]
    return code.co_code, constants, code.co_names


def _told(value: Any, depth: int = 0) -> Any:
    """A setting as text: numbers, texts and what is made of them; of anything else its kind."""
    if isinstance(value, (bool, int, float, complex, str, bytes, type(None))):
        return repr(value)
    if depth > _DEPTH:
        return type(value).__qualname__
    if isinstance(value, (list, tuple)):
        return [_told(each, depth + 1) for each in value]
    if isinstance(value, Mapping):
        return sorted((repr(key), _told(each, depth + 1)) for key, each in value.items())
    if callable(getattr(value, "to_dict", None)) and not isinstance(value, type):
        # Configurations of transformers.
        return _told(value.to_dict(), depth + 1)
    return getattr(value, "__qualname__", type(value).__qualname__)

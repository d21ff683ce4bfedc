"""Results of matching as safetensors files: tensors beside a spec and a JSON object, checked when they are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..._checks import check_type, describe
from ..._extras import require
from ..._files import check_writable
from ..._safetensors import write_safetensors
from ...symmetry import PermutationSpec
from ...symmetry.kinds import KINDS
from ...symmetry.transforms import Choice, choice_for

__all__ = ["Parts", "checked", "choice_from", "choice_to", "expected_choice", "read_parts", "what_of", "write_parts"]

VERSION = 1
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Parts:
    """What a file holds.

    Attributes:
        spec: bound to sizes.
        tensors: by name.
        result: a JSON object, not checked yet.
    """

    spec: PermutationSpec
    tensors: Mapping[str, Tensor]
    result: Any

    def check_tensors(self, expected: Mapping[str, torch.dtype], what: str) -> None:
        """ValueError unless the tensors are those, of these dtypes; `what` says which they should be."""
        if set(self.tensors) != set(expected):
            raise ValueError(f"it must hold {what}, but {sorted(set(expected) ^ set(self.tensors))} differ")
        for name, dtype in expected.items():
            if self.tensors[name].dtype != dtype:
                raise ValueError(f"{name} must be {str(dtype).removeprefix('torch.')}, got {self.tensors[name].dtype}")


def choice_to(where: str, choice: Choice) -> dict[str, Tensor]:
    """A choice as tensors of a file.

    Args:
        where: before the groups' names, of which model it is.
    """
    return {_prefix(choice.spec) + where + group: element for group, element in choice.items()}


def expected_choice(where: str, spec: PermutationSpec) -> dict[str, torch.dtype]:
    """The dtypes of the tensors that `choice_to` makes of a spec's choice."""
    return {_prefix(spec) + where + name: KINDS[group.kind].identity((1,)).dtype for name, group in spec.groups.items()}


def choice_from(where: str, parts: Parts) -> Choice:
    """The choice that `choice_to` made tensors of, checked."""
    spec = parts.spec
    return choice_for(spec, {group: parts.tensors[_prefix(spec) + where + group] for group in spec.groups})


def what_of(spec: PermutationSpec) -> str:
    """What a choice has for each group, in a word."""
    return "permutation" if spec.only_permutes else "element"


def _prefix(spec: PermutationSpec) -> str:
    # Before a group's name, so that no name can be one of the file format's own.
    return f"{what_of(spec)}."


def write_parts(
    path: str | Path,
    file_format: str,
    spec: PermutationSpec,
    tensors: Mapping[str, Tensor],
    result: Mapping[str, Any],
    *,
    overwrite: bool,
) -> None:
    """Write a result aside, then rename it; raises as `Matching.save` says."""
    check_type("path", path, (str, Path), "a path")
    path = Path(path)
    check_writable(path, overwrite=overwrite)
    metadata = {
        "format": file_format,
        "version": str(VERSION),
        "spec": spec.to_json(),
        "result": json.dumps(result),
    }
    write_safetensors(path, tensors, metadata, overwrite=overwrite)


def read_parts(path: str | Path, file_format: str, make: Callable[[Parts], ResultT]) -> ResultT:
    """What `make` makes of a file's parts; its TypeError or ValueError, and those found here, name the file."""
    library = require("safetensors", "cli")
    check_type("path", path, (str, Path), "a path")
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"matching {str(path)!r} does not exist" + (" as a file" if path.exists() else ""))
    try:
        with library.safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (library.SafetensorError, OSError) as error:
        raise ValueError(
            f"matching {str(path)!r} is no complete safetensors file: {error if path.stat().st_size else 'it is empty'}"
        ) from None
    try:
        return make(_parts(metadata, tensors, file_format))
    except (TypeError, ValueError) as error:
        raise ValueError(f"matching {str(path)!r}: {error}") from None


def _parts(metadata: Mapping[str, str], tensors: Mapping[str, Tensor], file_format: str) -> Parts:
    if metadata.get("format") != file_format:
        what = file_format.rpartition(".")[2]
        raise ValueError(f"holds no {what}: its format must be {file_format!r}, got {describe(metadata.get('format'))}")
    if metadata.get("version") != str(VERSION):
        raise ValueError(f"its version must be {VERSION}, got {describe(metadata.get('version'))}")
    spec = PermutationSpec.from_json(metadata.get("spec", ""))
    if not spec.is_bound:
        raise ValueError("its spec leaves sizes open")
    try:
        result = json.loads(metadata.get("result", ""))
    except (json.JSONDecodeError, RecursionError):
        raise ValueError("its result is not JSON") from None
    return Parts(spec, tensors, result)


def checked(entry: Any, where: str, kinds: Mapping[str, type]) -> dict[str, Any]:
    """`entry`, if it is a dict of these keys and kinds of value."""
    if not isinstance(entry, dict) or set(entry) != set(kinds):
        raise ValueError(f"{where} must be an object with {sorted(kinds)}, got {describe(entry)}")
    for key, kind in kinds.items():
        if type(entry[key]) is not kind:
            raise ValueError(f"{where}: {key} must be of type {kind.__name__}, got {describe(entry[key])}")
    return entry

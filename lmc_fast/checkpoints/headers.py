"""What a safetensors file holds, told by its header: no tensor is read, and nothing but this file's own word counts."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .._safetensors import DTYPES

__all__ = ["Header", "StoredTensor", "read_header"]

# The library takes no longer header.
MOST_BYTES = 100_000_000
BY_NAME = {name: dtype for dtype, name in DTYPES.items()}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies.

    Attributes:
        path: of the file.
        dtype, shape: what it is.
        start: its first byte in the file; its numbers lie along its rows, little-endian.
        size: how many bytes it has.
    """

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True)
class Header:
    """A safetensors file without its numbers.

    Attributes:
        tensors: by name, in the file's order.
        metadata: text that the file carries.
    """

    tensors: dict[str, StoredTensor]
    metadata: dict[str, str]


def read_header(path: str | Path) -> Header:
    """Read and check the header of a safetensors file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no safetensors file, is cut off, or its entries overlap, leave holes or have another size than
            their shape; the message names the file, and the tensor.
    """
    path = Path(path)

    def broken(what: str) -> ValueError:
        return ValueError(f"checkpoint {str(path)!r} is no complete safetensors file: {what}")

    with path.open("rb") as file:
        total = file.seek(0, 2)
        file.seek(0)
        first = file.read(8)
        length = int.from_bytes(first, "little")
        if not total:
            raise broken("it is empty")
        if len(first) < 8 or length > min(MOST_BYTES, total - 8):
            raise broken(f"its first 8 bytes announce a header of {length} bytes, and it has {total}")
        text = file.read(length)
    if not text.startswith(b"{"):
        raise broken("it does not begin with a header")
    try:
        data = json.loads(text, object_pairs_hook=_once)
    except _TwiceError as error:
        raise broken(f"its header has {error.args[0]!r} twice") from None
    except (ValueError, RecursionError):
        raise broken("its header is no JSON") from None
    metadata = data.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise broken("its header's __metadata__ is no text by name")
    begin = 8 + length
    tensors: dict[str, StoredTensor] = {}
    for name, entry in data.items():
        try:
            tensors[name] = _entry(path, entry, begin)
        except _EntryError as error:
            raise broken(f"{name!r} {error}") from None
    end = begin
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].size)):
        if tensor.start < end:
            raise broken(f"{name!r} overlaps another tensor")
        if tensor.start > end:
            raise broken(f"before {name!r} there are {tensor.start - end} bytes that belong to no tensor")
        end += tensor.size
    if end != total:
        raise broken(f"its header tells of {end} bytes, and it has {total}")
    return Header(tensors, metadata)


class _TwiceError(ValueError):
    """A name that stands twice."""


class _EntryError(ValueError):
    """What is wrong with an entry, to stand behind its name."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _TwiceError(name)
        found[name] = value
    return found


def _entry(path: Path, entry: object, begin: int) -> StoredTensor:
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise _EntryError("has no dtype, shape and data_offsets")
    name, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(name, str) or name not in BY_NAME:
        raise _EntryError(f"has dtype {name!r}, which is not known here")
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise _EntryError("has a shape or data_offsets that are no whole numbers")
    dtype = BY_NAME[name]
    size = math.prod(shape) * dtype.itemsize
    if offsets[1] - offsets[0] != size:
        raise _EntryError(f"has {offsets[1] - offsets[0]} bytes, and {size} by its shape {shape} and dtype {name}")
    return StoredTensor(path, dtype, tuple(shape), begin + offsets[0], size)


def _are_counts(value: object) -> bool:
    return isinstance(value, list) and all(type(each) is int and each >= 0 for each in value)

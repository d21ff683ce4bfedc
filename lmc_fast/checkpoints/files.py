"""Checkpoints as files: safetensors in and out, torch files in (tensors only, never code)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .._checks import check_type, fail_type
from .._extras import require
from .._files import check_writable, write_aside
from .._modes import neutral
from .._safetensors import check_storable, write_safetensors
from .._tensors import plain, tensor_identity
from .torch_files import load_torch_file

__all__ = [
    "Checkpoint",
    "check_writable",
    "load_checkpoint",
    "read_checkpoint",
    "save_checkpoint",
    "tied_names",
    "write_aside",
]

# In the header: the names of each tied tensor, as JSON.
TIED = "lmc_fast.tied"
SUFFIXES = (".safetensors", ".sft", ".pt", ".pth", ".bin", ".ckpt", ".index.json")
INDEX = ".index.json"
# Of torch.save: a zip archive, and before that a pickle.
TORCH_STARTS = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a file holds.

    Attributes:
        tensors: by name, on the CPU. Names of one tied tensor have the same one.
        metadata: of a safetensors file's header.
        aliases: names that the file does not hold itself: its header says which tensor they are another name of.
        left_out: names of entries that are no tensors.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    aliases: Sequence[str] = ()
    left_out: Sequence[str] = ()


@neutral
def load_checkpoint(path: str | Path, *, key: str | None = None) -> dict[str, Tensor]:
    """Read the named tensors of a checkpoint onto the CPU.

    Args:
        path: a ``.safetensors`` file; the ``.index.json`` of one in several parts; or a file of torch.save, which is
            read with ``weights_only=True``. That may hold a state dict, or one inside dicts under a usual key:
            "state_dict", "model", "model_state_dict", "net", "network", "params", "weights", "module" and the like;
            where there is none of these, under "ema", "model_ema" and the like. Of several that fit equally well
            none is taken.
        key: which to take of what a torch file holds: "generator", or "state.generator" for one inside another.
            Safetensors files have no such keys, and need none.

    Returns:
        The tensors by name. Names of one tied tensor have the same one, where the file says that they are tied.

    Warns:
        UserWarning: the state dict has entries that are no tensors (`_extra_state`), which are left out; it names them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, not a checkpoint, a pickle that wants to run code, or one in which it is not clear
            where the state dict is; the message names the file, and the keys that are there.
        ImportError: safetensors is not installed; the message names the extra.
    """
    found = read_checkpoint(path, key=key)
    if found.left_out:
        warnings.warn(left_out_note(path, found.left_out), UserWarning, stacklevel=2)
    return found.tensors


def left_out_note(path: str | Path, names: Sequence[str]) -> str:
    """What is said of entries that are no tensors."""
    listed = ", ".join(map(repr, names))
    return f"checkpoint {str(path)!r}: left out, being no tensors: {listed}"


def read_checkpoint(path: str | Path, *, key: str | None = None) -> Checkpoint:
    """Read a checkpoint with all that its file says beside the tensors; arguments and errors as `load_checkpoint`."""
    check_type("path", path, (str, Path), "a path")
    if key is not None:
        check_type("key", key, str, "a string")
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {str(path)!r} does not exist{_what_is_there(path)}")
    if path.name.lower().endswith(INDEX):
        return _load_parts(path, key)
    is_named, head = path.suffix.lower() == ".safetensors", _head(path)
    # Eight bytes tell the length of the header, which is JSON.
    is_safetensors = head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32
    if is_named and not is_safetensors and head[:2] in TORCH_STARTS:
        raise ValueError(
            f"checkpoint {str(path)!r} is no complete safetensors file: it is one of torch.save; give it another "
            "ending, .pt"
        )
    if is_named or is_safetensors:
        return _load_safetensors(path)
    if not head:
        raise ValueError(f"checkpoint {str(path)!r} is no complete torch file: it is empty")
    tensors, others = load_torch_file(path, key)
    return Checkpoint(tensors, {}, left_out=others)


def _what_is_there(path: Path) -> str:
    if not path.exists():
        return ""
    if not path.is_dir():
        return " as a file"
    names = sorted(each.name for each in path.iterdir() if each.name.lower().endswith(SUFFIXES))
    return " as a file: it is a folder" + (f", with {', '.join(map(repr, names[:8]))} in it" if names else "")


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(16)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _load_safetensors(path: Path) -> Checkpoint:
    library = require("safetensors", "cli")
    try:
        with library.safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (library.SafetensorError, OSError) as error:
        what = "it is empty" if not path.stat().st_size else error
        raise ValueError(f"checkpoint {str(path)!r} is no complete safetensors file: {what}") from None
    # The way of safetensors' save_model: one name of a tied tensor is written, the others lead to it.
    aliases = [name for name, kept in metadata.items() if name not in tensors and kept in tensors]
    tensors |= {name: tensors[metadata[name]] for name in aliases}
    for first, *others in _tied_of(metadata):
        for name in others:
            # Another program may have changed one and kept the header.
            if first in tensors and name in tensors and _same(tensors[first], tensors[name]):
                tensors[name] = tensors[first]
    return Checkpoint(tensors, metadata, aliases)


def _tied_of(metadata: Mapping[str, str]) -> list[list[str]]:
    try:
        groups = json.loads(metadata.get(TIED, "[]"))
    except (json.JSONDecodeError, RecursionError):
        return []
    if not isinstance(groups, list):
        return []
    return [
        group for group in groups if isinstance(group, list) and group and all(isinstance(name, str) for name in group)
    ]


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are alike to the bit."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(a.contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8))


def _load_parts(path: Path, key: str | None) -> Checkpoint:
    """A checkpoint in several files, which stand beside their index."""
    try:
        index = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError(f"checkpoint {str(path)!r} is no JSON index of parts") from None
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(part, str) for part in places.values()):
        raise ValueError(f"checkpoint {str(path)!r} is no index of parts: it has no weight_map (names to files)")
    tensors: dict[str, Tensor] = {}
    aliases: list[str] = []
    left_out: list[str] = []
    metadata: dict[str, str] = {}
    for name in dict.fromkeys(places.values()):
        if Path(name).name != name:
            raise ValueError(f"checkpoint {str(path)!r} names a part that is not beside it: {name!r}")
        part = read_checkpoint(path.with_name(name), key=key)
        tensors |= part.tensors
        aliases += part.aliases
        left_out += part.left_out
        metadata |= part.metadata
    missing = next((name for name in places if name not in tensors and name not in left_out), None)
    if missing is not None:
        raise ValueError(f"checkpoint {str(path)!r}: {missing!r} is not in {places[missing]!r}, where it should be")
    return Checkpoint(tensors, metadata, aliases, left_out)


def tied_names(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    """The names of each tensor that has several."""
    groups: dict[object, list[str]] = {}
    for name, tensor in tensors.items():
        groups.setdefault(tensor_identity(tensor), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


@neutral
def save_checkpoint(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    *,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> None:
    """Write named tensors as a safetensors file, aside and then renamed: there is never half a file.

    The format has no place for two names of one tensor. Tied ones are written under each of their names, for
    ``model.load_state_dict(safetensors.torch.load_file(path))`` to find all; the header says that they are one, and
    `load_checkpoint` makes them one again. (safetensors' `load_model`, which wants one name of each, does not take
    such a file with ``strict=True``.)

    Args:
        path: where to; ends in ``.safetensors``. A link is followed. A file that is replaced keeps its mode and owner.
        tensors: by name; each is copied to the CPU and made contiguous as it is written.
        metadata: text for the file's header, which says ``format: pt`` unless this says another.
        overwrite: whether a file that exists may be replaced.

    Raises:
        FileExistsError: `path` exists, and `overwrite` is False.
        FileNotFoundError: its folder does not exist.
        TypeError: an entry that is no tensor, or metadata that is no text.
        ValueError: another ending, or a tensor that the format cannot hold (complex128, sparse, without numbers); the
            message names it.
        OSError: it cannot be written to, or the disk is full; what was there stays as it was.
    """
    check_type("path", path, (str, Path), "a path")
    check_type("tensors", tensors, Mapping, "a mapping from names to tensors")
    header = {} if metadata is None else metadata
    check_type("metadata", header, Mapping, "a mapping from text to text")
    for name, text in header.items():
        if not isinstance(name, str) or not isinstance(text, str):
            fail_type(f"metadata[{name!r}]", "text", text)
    path = Path(path)
    check_writable(path, overwrite=overwrite)
    check_storable("tensors", tensors)
    held = {name: plain(f"tensors[{name!r}]", tensor) for name, tensor in tensors.items()}
    header = {"format": "pt", **header}
    header.pop(TIED, None)
    tied = tied_names(held)
    if tied:
        header[TIED] = json.dumps(tied)
    write_safetensors(path, held, header, overwrite=overwrite)

"""The weights of a model directory: one safetensors file, or several beside their index. Pickles are not read."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .headers import Header, StoredTensor, read_header

__all__ = ["Shards", "indexed_shards", "read_json", "shards_of"]

# As the two libraries write them.
STEMS = ("model", "diffusion_pytorch_model")
ENDING, INDEX = ".safetensors", ".safetensors.index.json"
PICKLES = ("pytorch_model*.bin", "diffusion_pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.bin")
# Names that a message lists before it only counts them.
SHOWN = 4


@dataclass(frozen=True)
class Shards:
    """The weights of a model directory.

    Attributes:
        tensors: by name: the file, dtype and shape of each.
        files: names of the files, in the order of the index.
        index: name of the index; None where one file holds all.
        metadata: of each file's header, by the file's name.
        why_none: why there are no weights; empty where there are.
    """

    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    index: str | None = None
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    why_none: str = ""


def shards_of(folder: Path) -> Shards:
    """Find the weights of a model directory; `why_none` says what there is instead, where there are none.

    Of several variants (``model.fp16.safetensors``) the plain one is taken, or the only one.

    Raises:
        ValueError: an index that is none, that names a file outside of the folder or one that is not there, or that
            says what its files do not; a file that is cut off; several variants and no plain one.
    """
    for ending in (ENDING, INDEX):
        for stem in STEMS:
            if (folder / (stem + ending)).is_file():
                return _of(folder, stem + ending)
    variants = sorted(
        {path.name for stem in STEMS for end in (ENDING, INDEX) for path in folder.glob(f"{stem}.*{end}")}
    )
    if len(variants) == 1:
        return _of(folder, variants[0])
    if variants:
        raise ValueError(f"directory {str(folder)!r} holds several variants of the weights: {_listed(variants)}")
    pickles = sorted({path.name for pattern in PICKLES for path in folder.glob(pattern) if path.is_file()})
    if pickles:
        return Shards(
            why_none=f"directory {str(folder)!r} holds its weights as {_listed(pickles)}, pickles, which are not read: "
            "save them as safetensors (save_pretrained does)"
        )
    return Shards(why_none=f"directory {str(folder)!r} holds no weights (model.safetensors, or shards with an index)")


def _of(folder: Path, name: str) -> Shards:
    if name.endswith(ENDING):
        header = read_header(folder / name)
        return Shards(header.tensors, (name,), None, {name: header.metadata})
    return indexed_shards(folder, name)


def indexed_shards(folder: Path, name: str) -> Shards:
    """The shards that the index `name` in `folder` tells of, by their headers.

    Raises:
        ValueError: it is no index, names others than safetensors files beside it, or does not agree with what they
            hold; the message names it.
    """
    index = read_json(folder / name, "index")
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(part, str) for part in places.values()):
        raise ValueError(f"index {str(folder / name)!r} has no weight_map (names to files)")
    files = tuple(dict.fromkeys(places.values()))
    headers: dict[str, Header] = {}
    for part in files:
        # A colon would be a drive.
        if Path(part).name != part or "\\" in part or ":" in part or not part.endswith(ENDING):
            raise ValueError(
                f"index {str(folder / name)!r} must name safetensors files beside it, got {part!r}: nothing is read"
            )
        if not (folder / part).is_file():
            raise ValueError(f"index {str(folder / name)!r} names {part!r}, which is not there")
        headers[part] = read_header(folder / part)
    missing = [each for each, part in places.items() if each not in headers[part].tensors]
    if missing:
        raise ValueError(
            f"index {str(folder / name)!r} says that {missing[0]!r} is in {places[missing[0]]!r}, which does not hold "
            "it"
        )
    for part, header in headers.items():
        for each in header.tensors:
            if places.get(each) != part:
                raise ValueError(
                    f"index {str(folder / name)!r} does not say that {each!r} is in {part!r}, which holds it"
                )
    tensors = {each: headers[part].tensors[each] for each, part in places.items()}
    return Shards(tensors, files, name, {part: header.metadata for part, header in headers.items()})


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object from a file; the error names the file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError(f"{what} {str(path)!r} is no complete JSON") from None
    if not isinstance(data, dict):
        raise ValueError(f"{what} {str(path)!r} must hold a JSON object")
    return data


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more

"""Files of torch.save: what is read of them, and which of the things in them is the model."""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["load_torch_file"]

# Where training scripts keep the weights, in small letters: as they were trained, and averaged over training.
TRAINED = {
    *("state_dict", "model", "model_state_dict", "model_state", "model_dict", "net", "net_state_dict", "network"),
    *("network_state_dict", "params", "parameters", "weights", "module"),
}
AVERAGED = {
    *("ema", "ema_state_dict", "model_ema", "ema_model", "state_dict_ema", "model_state_dict_ema", "params_ema"),
    *("model_ema_state_dict", "ema_params", "net_ema", "ema_net", "ema_weights", "shadow", "swa", "swa_model"),
    "averaged_model",
}
# Where other things are kept, moments of the size of the weights among them.
OTHERS = re.compile(r"(^|_)(optim(?!al)|opt(_|$)|(lr)?sched|scaler|rng(_|$)|callbacks|loops)")
MAX_DEPTH = 5
MOST_LISTED = 12
EXTRA_STATE = "_extra_state"


def load_torch_file(path: Path, key: str | None) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict of a file, and the names of its entries that are no tensors; as `load_checkpoint` says."""
    data = _read(path)
    found = _chosen(path, data, key)
    others = [name for name, entry in found.items() if not isinstance(entry, Tensor)]
    return {name: entry for name, entry in found.items() if isinstance(entry, Tensor)}, others


def _read(path: Path) -> object:
    if _is_program(path):
        raise ValueError(
            f"checkpoint {str(path)!r} is a TorchScript or exported program, not a file of weights: save its "
            "state_dict()"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # What torch says here is advice on how to run the code all the same.
        named = re.search(r"GLOBAL (\S+)", str(error))
        if named is None:
            raise ValueError(
                f"checkpoint {str(path)!r} is no torch file, or holds more than tensors; nothing in it was run"
            ) from None
        raise ValueError(
            f"checkpoint {str(path)!r} wants to call {named.group(1)}; nothing in it was run. If you trust the file, "
            "save the weights alone, where that code is at hand: torch.save(model.state_dict(), 'weights.pt'), or of "
            "this file, read with torch.load(..., weights_only=False), the entry that holds them"
        ) from None
    # On damaged bytes the unpickler stumbles in as many ways as there are.
    except (RuntimeError, EOFError, OSError, ValueError, TypeError, LookupError, AttributeError, struct.error) as error:
        # A key that is not found is all that a KeyError says.
        is_key = isinstance(error, KeyError)
        what = "it is damaged, or another kind of file" if is_key else (str(error).splitlines() or [repr(error)])[0]
        raise ValueError(f"checkpoint {str(path)!r} is no complete torch file: {what}") from None


def _is_program(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    # Older torch files are none; damaged ones are told of as such.
    except (zipfile.BadZipFile, ValueError, OSError, struct.error, NotImplementedError):
        return False
    return any(
        "/code/" in name or name.endswith(("constants.pkl", "archive_format", "serialized_exported_program.json"))
        for name in names
    )


def _chosen(path: Path, data: object, key: str | None) -> Mapping[str, Any]:
    """The state dict in what a file holds; ValueError, naming the keys that are there, where it is not clear which."""
    if key is not None:
        return _under(path, data, key)
    if _is_state_dict(data):
        return data  # type: ignore[return-value]
    found = dict(_inside(data, ()))
    for names in (TRAINED, AVERAGED):
        fitting = [place for place in found if _kind(place) is names]
        if len(fitting) == 1:
            return found[fitting[0]]
        if fitting:
            listed = ", ".join(repr(".".join(place)) for place in fitting)
            raise ValueError(f"checkpoint {str(path)!r} holds several state dicts, choose one by its key: {listed}")
    raise ValueError(f"checkpoint {str(path)!r} holds no state dict (names to tensors) {_advice(data, found)}")


def _advice(data: object, found: Mapping[tuple[str, ...], Any]) -> str:
    if found:
        return f"where one is looked for; choose by its key: {', '.join(repr('.'.join(place)) for place in found)}"
    if not isinstance(data, Mapping):
        return f"but a {type(data).__name__}"
    if not data:
        return "but an empty dict"
    keys = [repr(key) for key in data]
    more = f" and {len(keys) - MOST_LISTED} more" if len(keys) > MOST_LISTED else ""
    wrong = next((k for k, entry in data.items() if not isinstance(entry, Tensor)), None)
    about = ""
    if any(isinstance(entry, Tensor) for entry in data.values()):
        about = f"; {wrong!r} is of type {type(data[wrong]).__name__}, not a tensor"
    return f"at a usual key; its keys are {', '.join(keys[:MOST_LISTED])}{more}{about}"


def _under(path: Path, data: object, key: str) -> Mapping[str, Any]:
    """What stands under a key, or under several, one in the other, with dots between them."""
    left, here = key, data
    while left:
        entries = here if isinstance(here, Mapping) else {}
        # A key may itself have dots.
        part = next(
            (k for k in sorted(filter(_is_text, entries), key=len, reverse=True) if f"{left}.".startswith(f"{k}.")),
            None,
        )
        if part is None:
            there = ", ".join(repr(".".join(place)) for place, _ in _inside(data, ())) or "none"
            raise ValueError(f"checkpoint {str(path)!r} has nothing under key {key!r}; state dicts are at {there}")
        here, left = entries[part], left[len(part) + 1 :]
    if not _is_state_dict(here):
        raise ValueError(f"checkpoint {str(path)!r} has a {type(here).__name__} under key {key!r}, and no state dict")
    return here  # type: ignore[return-value]


def _is_text(key: object) -> bool:
    return isinstance(key, str) and bool(key)


def _inside(data: object, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """All state dicts in nested dicts, but those of optimisers and their like, and where they are."""
    if not isinstance(data, Mapping) or len(place) >= MAX_DEPTH:
        return
    for key, entry in data.items():
        if not isinstance(key, str) or OTHERS.search(key.lower()):
            continue
        if _is_state_dict(entry):
            yield (*place, key), entry
        else:
            yield from _inside(entry, (*place, key))


def _kind(place: tuple[str, ...]) -> set[str] | None:
    """Which names a place goes by: its last key's, and averaged where anything on the way to it is."""
    words = [key.lower() for key in place]
    if words[-1] not in TRAINED | AVERAGED:
        return None
    return AVERAGED if any(word in AVERAGED for word in words) else TRAINED


def _is_state_dict(data: object) -> bool:
    """Names to tensors, with at most what modules add of their own."""
    return (
        isinstance(data, Mapping)
        and any(isinstance(entry, Tensor) for entry in data.values())
        and all(
            isinstance(name, str) and (isinstance(entry, Tensor) or name.rpartition(".")[2].startswith(EXTRA_STATE))
            for name, entry in data.items()
        )
    )

"""Specs as JSON and back. Short forms where they say all: null, a group's name; a list of segments elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from .folds import Centre, Fold, folds_from_json, folds_to_json
from .groups import Axis, Group, Segment

__all__ = ["is_text", "made_from_file", "spec_from_json", "spec_to_json"]

T = TypeVar("T")

FORMAT = "lmc_fast.PermutationSpec"
VERSION = 1
# Owners of owners: no architecture comes near.
MAX_DEPTH = 16


def spec_to_json(
    groups: Mapping[str, Group],
    axes: Mapping[str, tuple[Axis, ...]],
    unsaved: Mapping[str, tuple[Axis, ...]] | None = None,
    folds: tuple[Fold | Centre, ...] = (),
) -> dict[str, Any]:
    """The spec as plain data for json.dumps."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "groups": {name: _group_to_json(group) for name, group in groups.items()},
        "axes": _axes_to_json(axes),
        **({"unsaved": _axes_to_json(unsaved)} if unsaved else {}),
        **({"folds": folds_to_json(folds)} if folds else {}),
    }


def _group_to_json(group: Group) -> dict[str, Any]:
    kind = {} if group.kind == "permutation" else {"kind": group.kind}
    return {"size": group.size, "owner": group.owner, **kind}


def is_text(source: str) -> bool:
    """Whether a string is a spec by itself, and no path to one."""
    return source.lstrip("\ufeff \t\r\n")[:1] in ("{", "[", "") or "\n" in source


def text_of(path: Path) -> str:
    """The text of a spec's file, in the encoding that it has by its first bytes; ValueError names the file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"spec {str(path)!r} does not exist") from None
    except IsADirectoryError:
        raise FileNotFoundError(f"spec {str(path)!r} does not exist as a file") from None
    except OSError as error:
        raise OSError(f"spec {str(path)!r} cannot be read: {error.strerror}") from None
    try:
        text = content.decode(json.detect_encoding(content))
    except UnicodeDecodeError:
        raise ValueError(f"spec {str(path)!r} is no text file (UTF-8)") from None
    if not text.strip():
        raise ValueError(f"spec {str(path)!r} is no text file with a spec: it is empty")
    return text


Axes = dict[str, tuple[Axis, ...]]


def made_from_file(path: Path, make: Callable[..., T]) -> T:
    """What is made of the fields that a file tells; what is wrong with these is said of the file."""
    text = text_of(path)
    try:
        return make(*spec_from_json(text))
    except (TypeError, ValueError) as error:
        raise ValueError(f"spec {str(path)!r}: {str(error).removeprefix('spec: ')}") from None


def spec_from_json(text: str) -> tuple[dict[str, Group], Axes, Axes, tuple[Fold | Centre, ...]]:
    """Groups, axes, those of unsaved buffers, and folds from text; ValueError says what is wrong and where."""
    try:
        data = json.loads(text.lstrip("\ufeff"), object_pairs_hook=_no_duplicates)
    except json.JSONDecodeError as error:
        raise ValueError(f"spec: not JSON at line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise ValueError("spec: nested too deep") from None
    if not isinstance(data, dict):
        raise ValueError("spec: must be a JSON object")
    if "format" not in data:
        return {}, _axes_from_json(data), {}, ()
    if data["format"] != FORMAT or data.get("version") != VERSION:
        raise ValueError(
            f"spec: format must be {FORMAT!r}, version {VERSION}, got {data['format']!r}, {data.get('version')!r}"
        )
    for key in ("groups", "axes"):
        if not isinstance(data.get(key), dict):
            raise ValueError(f"spec: must hold an object under {key!r}")
    groups = {}
    for name, entry in data["groups"].items():
        if not isinstance(entry, dict) or not set(entry) <= {"size", "owner", "kind"}:
            raise ValueError(f"spec: group {name!r} must be an object with size, owner and kind")
        with _Where(f"group {name!r}"):
            groups[name] = Group(name, entry.get("size"), entry.get("owner"), entry.get("kind", "permutation"))
    unsaved = data.get("unsaved", {})
    if not isinstance(unsaved, dict):
        raise ValueError("spec: must hold an object under 'unsaved', if anything")
    folds = folds_from_json(data.get("folds", []))
    return groups, _axes_from_json(data["axes"]), _axes_from_json(unsaved), folds


class _Where:
    """Turns what the data classes say of wrong data into a ValueError that says where in the text it stands."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (TypeError, ValueError)):
            raise ValueError(f"spec: {self.where}: {error}") from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"spec: {key!r} stands twice")
        found[key] = value
    return found


def _axes_from_json(data: Mapping[str, Any]) -> dict[str, tuple[Axis, ...]]:
    axes = {}
    for name, entries in data.items():
        if not isinstance(entries, list):
            raise ValueError(f"spec: parameter {name!r} must have a list with one entry for each dimension")
        with _Where(f"parameter {name!r}"):
            axes[name] = tuple(_axis_from_json(entry) for entry in entries)
    return axes


def _axes_to_json(axes: Mapping[str, tuple[Axis, ...]]) -> dict[str, Any]:
    return {name: [_axis_to_json(axis) for axis in entries] for name, entries in axes.items()}


def _axis_to_json(axis: Axis) -> Any:
    if axis.dims != 1:
        return {"dims": axis.dims, "segments": [_segment_to_json(s) for s in axis.segments]}
    if len(axis.segments) == 1:
        segment = axis.segments[0]
        if segment == Segment():
            return None
        if segment.group is not None and segment == Segment(segment.group):
            return segment.group
    return [_segment_to_json(s) for s in axis.segments]


def _segment_to_json(segment: Segment) -> dict[str, Any]:
    lies = ({} if segment.step == 1 else {"step": segment.step}) | (
        {"runs": list(segment.runs)} if segment.runs else {}
    )
    if segment.group is None:
        return {"fixed": segment.length, **lies}
    inner = segment.inner if isinstance(segment.inner, int) else [_segment_to_json(s) for s in segment.inner]
    return {"group": segment.group, "outer": segment.outer, "inner": inner, **lies}


def _axis_from_json(entry: Any) -> Axis:
    if entry is None:
        return Axis()
    if isinstance(entry, str):
        return Axis((Segment(entry),))
    if isinstance(entry, list):
        return Axis(tuple(_segment_from_json(part) for part in entry))
    if isinstance(entry, dict) and set(entry) == {"dims", "segments"} and isinstance(entry["segments"], list):
        return Axis(tuple(_segment_from_json(part) for part in entry["segments"]), entry["dims"])
    raise ValueError(f"an axis must be null, a group's name or a list of segments, got {entry!r}")


def _segment_from_json(entry: Any, depth: int = 0) -> Segment:
    if depth > MAX_DEPTH:
        raise ValueError(f"segments must not be nested deeper than {MAX_DEPTH}")
    if isinstance(entry, str):
        return Segment(entry)
    if isinstance(entry, dict) and "fixed" in entry and set(entry) <= {"fixed", "step", "runs"}:
        return Segment.fixed(entry["fixed"], entry.get("step", 1), entry.get("runs", ()))
    if isinstance(entry, dict) and "group" in entry and set(entry) <= {"group", "outer", "inner", "step", "runs"}:
        inner = entry.get("inner", 1)
        if isinstance(inner, list):
            inner = tuple(_segment_from_json(part, depth + 1) for part in inner)
        return Segment(
            entry["group"], entry.get("outer", 1), inner, step=entry.get("step", 1), runs=entry.get("runs", ())
        )
    raise ValueError(
        f"a segment must be a group's name, {{fixed, step, runs}} or {{group, outer, inner, step, runs}}, got {entry!r}"
    )

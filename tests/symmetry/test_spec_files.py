"""Specs in files: paths and text, encodings, and messages that name the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmc_fast import PermutationSpec

SPEC = PermutationSpec.from_axes({"fc1.weight": ("P", None), "fc2.weight": (None, "P")})


@pytest.mark.parametrize("kind", [str, Path], ids=["str", "Path"])
def test_a_path_goes_in_as_it_came_out(tmp_path: Path, kind: type) -> None:
    path = kind(tmp_path / "spec.json")
    text = SPEC.to_json(path)
    assert PermutationSpec.from_json(path) == PermutationSpec.from_json(text) == SPEC


@pytest.mark.parametrize("before", ["", "\ufeff", "\n  ", "\ufeff\n"], ids=["plain", "bom", "space", "both"])
def test_text_begins_with_a_brace(before: str) -> None:
    assert PermutationSpec.from_json(before + SPEC.to_json()) == SPEC


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_files_of_other_systems_are_read(tmp_path: Path, encoding: str) -> None:
    axes = {"größe": ["P", None]}
    (tmp_path / "spec.json").write_bytes(json.dumps(axes, ensure_ascii=False).replace("{", "{\r\n").encode(encoding))
    assert list(PermutationSpec.from_json(tmp_path / "spec.json").axes) == ["größe"]


WRONG = {
    "no json": ("{", "not JSON at line 1"),
    "no object": ("[]", "must be a JSON object"),
    "twice": ('{"w": ["p"], "w": ["p"]}', "'w' stands twice"),
    "no list": ('{"w": "p"}', "parameter 'w' must have a list"),
    "unused group": (
        '{"format": "lmc_fast.PermutationSpec", "version": 1, "axes": {}, "groups": {"g": {}}}',
        "group 'g' must be on some axis",
    ),
    "empty": (" \n", "is no text file with a spec: it is empty"),
    "other version": ('{"format": "lmc_fast.PermutationSpec", "version": 9}', "format must be"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG.keys())
@pytest.mark.parametrize("kind", [str, Path], ids=["str", "Path"])
def test_errors_name_the_file(tmp_path: Path, text: str, message: str, kind: type) -> None:
    path = tmp_path / "spec.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"^spec '.*spec\.json'.*{message}"):
        PermutationSpec.from_json(kind(path))


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"spec 'none\.json' does not exist"):
        PermutationSpec.from_json("none.json")
    with pytest.raises(FileNotFoundError, match="does not exist as a file"):
        PermutationSpec.from_json(str(tmp_path))
    (tmp_path / "spec.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"spec\.json' is no text file"):
        PermutationSpec.from_json(tmp_path / "spec.json")
    with pytest.raises(TypeError, match="source must be a path, or the text of a spec, got 3"):
        PermutationSpec.from_json(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="path must be a path, got 3"):
        SPEC.to_json(3)  # type: ignore[arg-type]

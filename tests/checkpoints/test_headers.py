"""Headers of safetensors files: what they say is checked against the file before anything is believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lmc_fast.checkpoints.headers import read_header


def written(path: Path, header: dict[str, Any] | bytes, content: bytes) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)
    return path


def test_every_tensor_is_told_with_its_place(tmp_path: Path) -> None:
    tensors = {"w": torch.randn(3, 5), "b": torch.arange(7, dtype=torch.bfloat16), "none": torch.zeros(0, 4)}
    path = tmp_path / "m.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    header = read_header(path)
    content = path.read_bytes()
    assert header.metadata == {"format": "pt"}
    assert header.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        found = header.tensors[name]
        assert (found.dtype, found.shape, found.path) == (tensor.dtype, tuple(tensor.shape), path)
        raw = content[found.start : found.start + found.size]
        assert raw == tensor.view(torch.uint8).numpy().tobytes()


def entry(begin: int, end: int, shape: list[Any] | None = None, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


BROKEN: dict[str, tuple[Any, int, str]] = {
    "no header": (b"not json", 0, "does not begin with a header"),
    "no JSON": (b"{nothing", 0, "its header is no JSON"),
    "nested without end": (b'{"a":' * 100_000, 0, "its header is no JSON"),
    "a name twice": (b'{"a":{"dtype":"F32"},"a":1}', 0, "has 'a' twice"),
    "text that is none": ({"__metadata__": {"a": 3}}, 0, "__metadata__ is no text"),
    "an entry that is none": ({"a": 3}, 0, "'a' has no dtype, shape and data_offsets"),
    "an unknown dtype": ({"a": entry(0, 8, dtype="F4")}, 8, "'a' has dtype 'F4', which is not known here"),
    "a negative size": ({"a": entry(0, 8, [-2])}, 8, "'a' has a shape or data_offsets that are no whole numbers"),
    "a size that is no number": ({"a": entry(0, 8, [True, 2])}, 8, "that are no whole numbers"),
    "three offsets": ({"a": {**entry(0, 8), "data_offsets": [0, 4, 8]}}, 8, "that are no whole numbers"),
    "another size": ({"a": entry(0, 8, [3])}, 8, "'a' has 8 bytes, and 12 by its shape [3] and dtype F32"),
    "an overlap": ({"a": entry(0, 8), "b": entry(4, 12)}, 12, "'b' overlaps another tensor"),
    "a hole": ({"a": entry(0, 4), "b": entry(8, 12)}, 12, "before 'b' there are 4 bytes that belong to no tensor"),
    "cut off": ({"a": entry(0, 8)}, 7, "its header tells of"),
    "too long": ({"a": entry(0, 8)}, 9, "its header tells of"),
}


@pytest.mark.parametrize(("header", "content", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_what_does_not_fit_the_file_is_named(tmp_path: Path, header: Any, content: int, message: str) -> None:
    path = written(tmp_path / "m.safetensors", header, bytes(content))
    with pytest.raises(ValueError) as caught:
        read_header(path)
    assert str(path) in str(caught.value) and message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"abc", "announce a header of"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "announce a header of 1099511627776 bytes, and it has 10"),
    ],
    ids=["empty", "three bytes", "a header longer than the file"],
)
def test_a_file_without_a_whole_header_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_header(path)


def test_a_missing_file_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_header(tmp_path / "none.safetensors")

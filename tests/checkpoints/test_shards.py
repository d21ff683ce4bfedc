"""Weights of a model directory: whole, in shards, in variants, or not there; and indexes that lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lmc_fast.checkpoints.shards import read_json, shards_of

TENSORS = {"a": torch.randn(2, 3), "b": torch.randn(5), "c": torch.randn(7)}
PLACES = {"a": "one.safetensors", "b": "two.safetensors", "c": "one.safetensors"}
INDEX = "model.safetensors.index.json"


def indexed(folder: Path, places: Any, index: str = INDEX, held: dict[str, str] = PLACES) -> Path:
    for part in set(held.values()):
        save_file({name: TENSORS[name] for name in held if held[name] == part}, folder / part, {"part": part})
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


@pytest.mark.parametrize("index", [INDEX, "diffusion_pytorch_model.safetensors.index.json"])
def test_shards_are_found_by_their_index(tmp_path: Path, index: str) -> None:
    found = shards_of(indexed(tmp_path, PLACES, index))
    assert list(found.tensors) == ["a", "b", "c"]
    assert {name: entry.path.name for name, entry in found.tensors.items()} == PLACES
    assert found.files == ("one.safetensors", "two.safetensors")
    assert (found.index, found.why_none) == (index, "")
    assert found.metadata["two.safetensors"] == {"part": "two.safetensors"}


@pytest.mark.parametrize("name", ["model.safetensors", "diffusion_pytorch_model.safetensors", "model.fp16.safetensors"])
def test_one_file_holds_all(tmp_path: Path, name: str) -> None:
    save_file(TENSORS, tmp_path / name)
    found = shards_of(tmp_path)
    assert (found.files, found.index) == ((name,), None)
    assert found.tensors.keys() == TENSORS.keys()


def test_the_plain_variant_comes_first(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    save_file(TENSORS, tmp_path / "model.fp16.safetensors")
    assert shards_of(tmp_path).files == ("model.safetensors",)


def test_several_variants_and_no_plain_one_are_refused(tmp_path: Path) -> None:
    for name in ("model.fp16.safetensors", "model.fp32.safetensors"):
        save_file(TENSORS, tmp_path / name)
    with pytest.raises(ValueError, match=r"several variants of the weights: 'model\.fp16\.safetensors', 'model\.fp32"):
        shards_of(tmp_path)


def test_links_are_followed_as_in_the_hubs_cache(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "f00"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    save_file(TENSORS, blobs / "0123")
    (snapshot / "model.safetensors").symlink_to("../../blobs/0123")
    assert shards_of(snapshot).tensors.keys() == TENSORS.keys()


def test_pickles_are_named_and_not_read(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / f"pytorch_model-{number}.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    found = shards_of(tmp_path)
    assert not found.tensors
    assert "'pytorch_model-3.bin' and 2 more, pickles, which are not read" in found.why_none


def test_a_folder_without_weights_says_so(tmp_path: Path) -> None:
    assert "holds no weights" in shards_of(tmp_path).why_none


LIES: dict[str, tuple[Any, str]] = {
    "a part outside": ({**PLACES, "b": "../two.safetensors"}, "beside it, got '../two.safetensors': nothing is read"),
    "an absolute part": ({**PLACES, "b": "/etc/passwd"}, "beside it, got '/etc/passwd'"),
    "a part with a backslash": ({**PLACES, "b": "..\\two.safetensors"}, "must name safetensors files beside it"),
    "a pickle": ({**PLACES, "b": "two.bin"}, "must name safetensors files beside it, got 'two.bin'"),
    "a part that is not there": ({**PLACES, "b": "three.safetensors"}, "names 'three.safetensors', which is not there"),
    "a tensor in another part": ({**PLACES, "b": "one.safetensors"}, "says that 'b' is in 'one.safetensors', which"),
    "a tensor that is not there": ({**PLACES, "d": "one.safetensors"}, "'d' is in 'one.safetensors', which does not"),
    "a tensor left out": ({"a": "one.safetensors"}, "does not say that 'c' is in 'one.safetensors', which holds it"),
    "no map": (None, "has no weight_map"),
    "an empty map": ({}, "has no weight_map"),
    "a map to numbers": ({"a": 3}, "has no weight_map"),
}


@pytest.mark.parametrize(("places", "message"), LIES.values(), ids=LIES.keys())
def test_an_index_that_lies_is_refused(tmp_path: Path, places: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        shards_of(indexed(tmp_path, places))
    assert message in str(caught.value) and INDEX in str(caught.value)


def test_a_shard_that_is_cut_off_is_named(tmp_path: Path) -> None:
    indexed(tmp_path, PLACES)
    part = tmp_path / "two.safetensors"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"two\.safetensors' is no complete safetensors file"):
        shards_of(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "is no complete JSON"), (b"[" * 100_000, "is no complete JSON"), (b"[]", "must hold a JSON object")],
    ids=["cut off", "nested without end", "a list"],
)
def test_json_that_is_none_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"index '.*c.json' {message}"):
        read_json(tmp_path / "c.json", "index")


def test_json_that_cannot_be_read_is_an_oserror_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        read_json(tmp_path / "none.json", "index")
    assert caught.value.filename == str(tmp_path / "none.json")

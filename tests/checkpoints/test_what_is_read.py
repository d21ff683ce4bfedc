"""Files as training scripts write them: where the weights are found, and what is said where they are not."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import nn

from lmc_fast.checkpoints import load_checkpoint, save_checkpoint

STATE = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}
OTHER = {"w": torch.zeros(2, 3), "b": torch.zeros(2)}
MOMENTS = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


FOUND: dict[str, Any] = {
    **{key: {key: STATE, "epoch": 1, "optimizer": MOMENTS} for key in ("state_dict", "model", "model_state_dict")},
    **{key: {key: STATE, "epoch": 1} for key in ("net", "network", "params", "weights", "module")},
    **{key: {"best": 0.5, key: STATE} for key in ("ema", "ema_state_dict", "model_ema", "state_dict_ema")},
    "flat": STATE,
    "upper-case": {"MODEL": STATE},
    "nested": {"state": {"model": STATE, "step": 3}, "config": {"width": 3}},
    "model.state_dict": {"model": {"state_dict": STATE, "name": "x"}},
    "ema.module": {"ema": {"module": STATE, "updates": 9}},
    "trained before averaged": {"ema": OTHER, "model_ema": OTHER, "model": STATE},
    "trained beside ema.module": {"model": STATE, "ema": {"module": OTHER}},
    "moments of an optimiser": {
        "model": STATE,
        "optimizer_state_dict": {"params": OTHER},
        "lr_scheduler": {"params": OTHER},
    },
    "lightning": {
        "state_dict": STATE,
        "callbacks": {"EMA": {"model": OTHER}},
        "optimizer_states": [MOMENTS],
        "epoch": 2,
    },
}


@pytest.mark.parametrize("content", FOUND.values(), ids=FOUND.keys())
def test_the_weights_are_found(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "m.pt")
    assert same(load_checkpoint(tmp_path / "m.pt"), STATE)


REFUSED: dict[str, tuple[Any, str]] = {
    "another key": ({"encoder": STATE, "epoch": 1}, "choose by its key: 'encoder'"),
    "two of a rank": ({"generator": {"model": STATE}, "critic": {"model": OTHER}}, "'generator.model', 'critic.model'"),
    "two usual keys": ({"model": STATE, "net": OTHER}, "several state dicts, choose one by its key: 'model', 'net'"),
    "two averages": ({"ema": STATE, "swa": OTHER}, "several state dicts, choose one by its key: 'ema', 'swa'"),
    "none": ({"epoch": 1, "loss": 0.5}, "holds no state dict .* its keys are 'epoch', 'loss'$"),
    "a number among them": ({**STATE, "epoch": 1}, "'w', 'b', 'epoch'; 'epoch' is of type int, not a tensor"),
    "many keys": ({f"k{i}": i for i in range(20)}, "'k11' and 8 more"),
    "empty": ({}, "but an empty dict"),
    "a list": ([STATE], "but a list"),
    "a tensor": (STATE["w"], "but a Tensor"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_clear_is_refused_with_the_keys(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(ValueError, match=rf"m\.pt' .*{message}"):
        load_checkpoint(tmp_path / "m.pt")


def test_a_key_chooses(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save({"model": OTHER, "ema": STATE, "x.y": {"z": STATE}, "epoch": 1}, path)
    assert same(load_checkpoint(path), OTHER)
    assert same(load_checkpoint(path, key="ema"), STATE)
    assert same(load_checkpoint(path, key="x.y.z"), STATE)
    with pytest.raises(ValueError, match=r"nothing under key 'emma'; state dicts are at 'model', 'ema', 'x\.y\.z'"):
        load_checkpoint(path, key="emma")
    with pytest.raises(ValueError, match="has a int under key 'epoch'"):
        load_checkpoint(path, key="epoch")
    with pytest.raises(TypeError, match="key must be a string"):
        load_checkpoint(path, key=3)  # type: ignore[arg-type]


def test_a_pickle_with_code_is_refused_with_advice(tmp_path: Path) -> None:
    torch.save({"state_dict": STATE, "args": argparse.Namespace(lr=1)}, tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"call argparse\.Namespace; nothing in it was run.*save the weights alone"):
        load_checkpoint(tmp_path / "m.pt")


def test_a_program_is_no_checkpoint(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "m.pt"))
    with pytest.raises(ValueError, match=r"m\.pt' is a TorchScript or exported program"):
        load_checkpoint(tmp_path / "m.pt")


@pytest.mark.parametrize("ending", ["safetensors", "SAFETENSORS", "bin", "sft", ""])
def test_safetensors_files_are_known_by_what_is_in_them(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"m.{ending}"
    save_file(STATE, path)
    assert same(load_checkpoint(path), STATE)


@pytest.mark.parametrize("ending", ["PT", "Pth", "BIN", "ckpt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_by_any_name(tmp_path: Path, ending: str, zipped: bool) -> None:
    torch.save(STATE, tmp_path / f"m.{ending}", _use_new_zipfile_serialization=zipped)
    assert same(load_checkpoint(tmp_path / f"m.{ending}"), STATE)


def test_a_torch_file_with_the_other_ending_is_named(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"m\.safetensors' is no complete safetensors file: it is one of torch\.save"):
        load_checkpoint(tmp_path / "m.safetensors")


@pytest.mark.parametrize("name", ["m.safetensors", "m.pt"])
def test_empty_files_and_folders(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match="it is empty"):
        load_checkpoint(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=f"it is a folder, with '{name}' in it"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_a_checkpoint_in_parts(tmp_path: Path, ending: str) -> None:
    for number, name in enumerate(STATE):
        part = tmp_path / f"m-{number}.{ending}"
        (save_file if ending == "safetensors" else torch.save)({name: STATE[name]}, part)
    index = tmp_path / f"m.{ending}.index.json"
    places = {name: f"m-{number}.{ending}" for number, name in enumerate(STATE)}
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert same(load_checkpoint(index), STATE)
    for wrong, message in (
        ({**places, "b": "../m.bin"}, "names a part that is not beside it"),
        ({**places, "c": places["b"]}, "'c' is not in"),
        ({}, "no weight_map"),
    ):
        index.write_text(json.dumps({"weight_map": wrong}))
        with pytest.raises(ValueError, match=message):
            load_checkpoint(index)
    index.write_text("{")
    with pytest.raises(ValueError, match="no JSON index"):
        load_checkpoint(index)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.emb.weight


def test_tied_tensors_have_all_their_names_and_come_back_as_one(tmp_path: Path) -> None:
    model = Tied()
    save_checkpoint(tmp_path / "m.safetensors", model.state_dict())
    # What other loaders see.
    Tied().load_state_dict(load_file(tmp_path / "m.safetensors"), strict=True)
    loaded = load_checkpoint(tmp_path / "m.safetensors")
    assert loaded["emb.weight"].data_ptr() == loaded["head.weight"].data_ptr()
    assert torch.equal(loaded["emb.weight"], model.emb.weight)


def test_names_that_save_model_dropped_come_back(tmp_path: Path) -> None:
    model = Tied()
    save_model(model, str(tmp_path / "m.safetensors"))
    loaded = load_checkpoint(tmp_path / "m.safetensors")
    assert loaded.keys() == model.state_dict().keys()
    assert loaded["emb.weight"].data_ptr() == loaded["head.weight"].data_ptr()
    load_model(Tied(), tmp_path / "m.safetensors")


def test_tensors_that_are_no_longer_equal_are_not_made_one(tmp_path: Path) -> None:
    tied = {"lmc_fast.tied": '[["a", "b"], ["a", "c"], 3, ["a", "none"]]'}
    tensors = {"a": torch.zeros(2), "b": torch.ones(2), "c": torch.zeros(2)}
    save_file(tensors, tmp_path / "m.safetensors", metadata=tied)
    loaded = load_checkpoint(tmp_path / "m.safetensors")
    assert same(loaded, tensors) and loaded["a"] is loaded["c"] and loaded["a"] is not loaded["b"]
    save_file(tensors, tmp_path / "m.safetensors", metadata={"lmc_fast.tied": "{"})
    assert same(load_checkpoint(tmp_path / "m.safetensors"), tensors)


KINDS = {
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "empty": torch.zeros(0, 3),
    "bool": torch.tensor([True, False, True]),
    "complex": torch.randn(3, dtype=torch.complex64),
    "conjugate": torch.randn(3, 2, dtype=torch.complex64).T.conj(),
    "float8": torch.randn(5).to(torch.float8_e4m3fn),
    "bfloat16": torch.randn(3).bfloat16(),
    "int8": torch.arange(7, dtype=torch.int8),
    "uint16": torch.arange(3).to(torch.uint16),
    "strided": torch.randn(4, 6)[::2, 1::3].T,
    "expanded": torch.randn(1, 3).expand(4, 3),
    "leaf": nn.Parameter(torch.randn(2)),
    "näme": torch.ones(1),
}


def test_every_kind_is_written_as_the_library_reads_it(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m.safetensors", KINDS, metadata={"licence": "mine", "ä": "ö"})
    loaded = load_file(tmp_path / "m.safetensors")
    assert loaded.keys() == KINDS.keys()
    for name, tensor in KINDS.items():
        assert loaded[name].dtype == tensor.dtype and loaded[name].shape == tensor.shape, name
        wide = torch.complex128 if tensor.is_complex() else torch.float64
        assert torch.equal(loaded[name].to(wide), tensor.detach().to(wide)), name


def test_large_tensors_are_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmc_fast._safetensors.CHUNK", 1000)
    tensors = {"w": torch.randn(700, 3), "v": torch.randn(250)}
    save_checkpoint(tmp_path / "m.safetensors", tensors)
    assert same(load_file(tmp_path / "m.safetensors"), tensors)


WRONG: dict[str, tuple[Any, Any, str]] = {
    "complex128": (ValueError, torch.zeros(2, dtype=torch.complex128), r"tensors\['x'\] .* got torch\.complex128"),
    "sparse": (ValueError, torch.eye(3).to_sparse(), r"tensors\['x'\] .* got torch\.sparse_coo"),
    "meta": (ValueError, torch.zeros(2, device="meta"), r"tensors\['x'\] .* meta device"),
    "list": (TypeError, [1.0], r"tensors\['x'\] must be a tensor"),
}


@pytest.mark.parametrize(("error", "entry", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_the_format_cannot_hold_is_named(tmp_path: Path, error: Any, entry: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        save_checkpoint(tmp_path / "m.safetensors", {"x": entry})
    with pytest.raises(ValueError, match="__metadata__"):
        save_checkpoint(tmp_path / "m.safetensors", {"__metadata__": torch.zeros(1)})
    with pytest.raises(TypeError, match=r"metadata\['n'\] must be text"):
        save_checkpoint(tmp_path / "m.safetensors", STATE, metadata={"n": 3})  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []


def test_state_that_is_no_tensor_is_left_out_and_named(tmp_path: Path) -> None:
    torch.save({**STATE, "layer._extra_state": {"step": 1}}, tmp_path / "m.pt")
    with pytest.warns(UserWarning, match=r"m\.pt': left out, being no tensors: 'layer\._extra_state'"):
        assert same(load_checkpoint(tmp_path / "m.pt"), STATE)

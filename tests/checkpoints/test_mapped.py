"""Tensors as views of mapped files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lmc_fast.checkpoints.headers import read_header
from lmc_fast.checkpoints.mapped import MappedTensors

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int8, torch.bool]


def test_tensors_are_what_was_written(tmp_path: Path) -> None:
    state = {str(dtype): torch.arange(-6, 6).reshape(3, 4).to(dtype) for dtype in DTYPES}
    state |= {"scalar": torch.tensor(2.5), "nothing": torch.zeros(0, 3)}
    save_file(state, tmp_path / "x.safetensors")
    mapped = MappedTensors(read_header(tmp_path / "x.safetensors").tensors)
    assert set(mapped) == set(state)
    assert len(mapped) == len(state)
    assert mapped.nbytes == sum(tensor.nbytes for tensor in state.values())
    for name, tensor in state.items():
        assert mapped[name].dtype == tensor.dtype
        assert torch.equal(mapped[name], tensor)
    mapped.let_go()
    assert all(torch.equal(mapped[name], tensor) for name, tensor in state.items())


def test_tensors_are_not_copied(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(4), "b": torch.ones(4)}, tmp_path / "x.safetensors")
    entries = read_header(tmp_path / "x.safetensors").tensors
    mapped = MappedTensors(entries)
    apart = entries["b"].start - entries["a"].start
    assert mapped["b"].data_ptr() - mapped["a"].data_ptr() == apart


def test_numbers_at_odd_addresses_are_copied(tmp_path: Path) -> None:
    # Other programs do not pad the header.
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    header += b" " * ((3 - len(header)) % 4)
    data = torch.tensor([1.5, -2.0]).numpy().tobytes()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
    mapped = MappedTensors(read_header(tmp_path / "x.safetensors").tensors)
    assert mapped["a"].tolist() == [1.5, -2.0]
    assert mapped["a"].data_ptr() % 4 == 0


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(4)}, tmp_path / "x.safetensors")
    entries = read_header(tmp_path / "x.safetensors").tensors
    (tmp_path / "x.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"x\.safetensors"):
        MappedTensors(entries)

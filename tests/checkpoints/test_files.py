"""Checkpoint files: what is read, what is refused, and that nothing is half-written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from lmc_fast.checkpoints import load_checkpoint, save_checkpoint
from lmc_fast.checkpoints.files import write_aside

STATE = {"w": torch.randn(3, 4), "half": torch.randn(5).half(), "count": torch.tensor(7)}


class Code:
    """A pickle of this runs code when it is loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def test_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, STATE, metadata={"note": "hello"})
    assert same(load_checkpoint(path), STATE)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "note": "hello"}
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_tied_and_strided_tensors_are_written(tmp_path: Path) -> None:
    table = torch.randn(3, 4)
    save_checkpoint(tmp_path / "m.safetensors", {"a": table, "b": table, "t": table.T})
    assert same(load_checkpoint(tmp_path / "m.safetensors"), {"a": table, "b": table, "t": table.T})


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s}], ids=[0, 1, 2])
def test_torch_files_of_tensors_are_read(tmp_path: Path, wrap: object) -> None:
    torch.save(wrap(STATE), tmp_path / "model.pt")  # type: ignore[operator]
    assert same(load_checkpoint(tmp_path / "model.pt"), STATE)


def test_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.zeros(1), "evil": Code()}, "model.pt")
    with pytest.raises(ValueError, match=r"'model\.pt' wants to call \w+\.system; nothing in it was run"):
        load_checkpoint("model.pt")
    assert not Path("pwned").exists()


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m.safetensors", STATE)
    torch.save(STATE, tmp_path / "m.pt")
    for name, kind in (("m.safetensors", "safetensors"), ("m.pt", "torch")):
        whole = (tmp_path / name).read_bytes()
        for length in (0, 4, len(whole) // 2, len(whole) - 1):
            (tmp_path / name).write_bytes(whole[:length])
            with pytest.raises(ValueError, match=f"{name}' (is no complete {kind} file|is no torch file)"):
                load_checkpoint(tmp_path / name)


def test_what_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(2)], tmp_path / "m.pt")
    with pytest.raises(ValueError, match="holds no state dict"):
        load_checkpoint(tmp_path / "m.pt")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_checkpoint(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match="does not exist as a file"):
        load_checkpoint(tmp_path)


def test_an_output_that_exists_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="exists already"):
        save_checkpoint(path, STATE)
    assert path.read_text() == "precious"
    save_checkpoint(path, STATE, overwrite=True)
    assert same(load_checkpoint(path), STATE)
    with pytest.raises(FileNotFoundError, match="the folder of output"):
        save_checkpoint(tmp_path / "no" / "m.safetensors", STATE)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(part: Path) -> None:
        part.write_text("half")
        raise OSError("disk full")

    path = tmp_path / "m.safetensors"
    path.write_text("precious")
    with pytest.raises(OSError, match="disk full"):
        write_aside(path, fail)
    assert path.read_text() == "precious" and [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]

"""Fine-tunes and adapters on disk, carried over to another base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import Tensor

import lmc_fast as lmc
from lmc_fast.cli import cli

from . import models

PREFIX = "base_model.model."


@pytest.fixture
def three(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A fine-tune, its base, and another base."""
    base = models.weights(0)
    new = models.planted(base, 1, noise=0.01)[0]
    generator = torch.Generator().manual_seed(7)
    tuned = {name: x + 0.1 * torch.randn(x.shape, generator=generator) for name, x in base.items()}
    states = (("tuned", tuned), ("base", base), ("new", new))
    paths = [models.write_directory(tmp_path / name, state, config={"of": name}) for name, state in states]
    (paths[0] / "tokenizer.json").write_text("tuned", encoding="utf-8")
    return paths[0], paths[1], paths[2]


def factors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    found = {}
    for name in ("0.q", "1.o", "1.down"):
        outputs, inputs = models.shapes()[f"{name}.weight"]
        found[f"{PREFIX}{name}.lora_A.weight"] = torch.randn(2, inputs, generator=generator)
        found[f"{PREFIX}{name}.lora_B.weight"] = torch.randn(outputs, 2, generator=generator)
    return found


def products(of: dict[str, Tensor]) -> dict[str, Tensor]:
    """What an adapter adds, by the name of each weight."""
    names = [name.removesuffix(".lora_A.weight") for name in of if name.endswith("lora_A.weight")]
    return {
        f"{name.removeprefix(PREFIX)}.weight": of[f"{name}.lora_B.weight"] @ of[f"{name}.lora_A.weight"]
        for name in names
    }


def adapter(path: Path, **config: Any) -> Path:
    path.mkdir()
    told = {"peft_type": "LORA", "r": 2, "base_model_name_or_path": "base", **config}
    (path / "adapter_config.json").write_text(json.dumps(told), encoding="utf-8")
    (path / "tokenizer.json").write_text("adapter", encoding="utf-8")
    save_file(factors(), path / "adapter_model.safetensors", {"format": "pt"})
    return path


def test_a_fine_tune_is_written_as_one_of_the_new_base(three: tuple[Path, Path, Path], tmp_path: Path) -> None:
    result = lmc.rebase_checkpoints(*three, out=tmp_path / "out", spec=models.spec(), alpha=0.75)
    tuned, base, new = (models.read_directory(path) for path in three)
    match = lmc.weight_matching(new, base, models.spec())
    assert result.matches[0].permutations == match.permutations
    assert match.permutations.moved > 50
    wanted = lmc.rebase(tuned, base, new, match, alpha=0.75)
    found = models.read_directory(tmp_path / "out")
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    assert json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["of"] == "new"
    assert (tmp_path / "out" / "tokenizer.json").read_text(encoding="utf-8") == "tuned"
    assert "new plus 0.75 times the difference of tuned and base" in (tmp_path / "out" / "README.md").read_text("utf-8")


def test_an_adapter_comes_out_as_one(three: tuple[Path, Path, Path], tmp_path: Path) -> None:
    result = lmc.rebase_checkpoints(adapter(tmp_path / "lora"), *three[1:], out=tmp_path / "out", spec=models.spec())
    found = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {name: tensor.shape for name, tensor in found.items()} == {n: x.shape for n, x in factors().items()}
    moved = result.matches[0].permutations
    for name, tensor in products(found).items():
        assert torch.allclose(tensor, moved.apply_to(name, products(factors())[name]), atol=1e-6), name
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config == {"peft_type": "LORA", "r": 2, "base_model_name_or_path": str(three[2])}
    assert set(models.contents(tmp_path / "out")) == {
        *("adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "README.md", "SHA256SUMS")
    }
    assert set(result.checksums) == set(models.contents(tmp_path / "out")) - {"SHA256SUMS"}


def test_files_go_in_and_one_comes_out(three: tuple[Path, Path, Path], tmp_path: Path) -> None:
    files = [path / "model.safetensors" for path in three]
    lmc.rebase_checkpoints(*files, out=tmp_path / "out.safetensors", spec=models.spec())
    tuned, base, new = (models.read_directory(path) for path in three)
    wanted = lmc.rebase(tuned, base, new, lmc.weight_matching(new, base, models.spec()))
    found = load_file(tmp_path / "out.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    save_file(factors(), tmp_path / "lora.safetensors")
    lmc.rebase_checkpoints(
        tmp_path / "lora.safetensors", *files[1:], out=tmp_path / "l.safetensors", spec=models.spec()
    )
    assert set(load_file(tmp_path / "l.safetensors")) == set(factors())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: (path / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
        (
            lambda path: (path / "adapter_config.json").write_text('{"peft_type": "LOHA"}', encoding="utf-8"),
            "must be of type LORA, got 'LOHA'",
        ),
        (
            lambda path: save_file({"x.lora_A.weight": torch.zeros(2, 3)}, path / "adapter_model.safetensors"),
            "belongs to 'x.weight', which is no parameter",
        ),
        (
            lambda path: save_file(
                {"0.q.lora_A.weight": torch.full((2, 12), float("nan"))}, path / "adapter_model.safetensors"
            ),
            "'0.q.lora_A.weight' holds nan",
        ),
    ],
    ids=["no weights", "another kind", "unknown", "nan"],
)
def test_adapters_that_will_not_do_leave_nothing(
    three: tuple[Path, Path, Path], tmp_path: Path, change: Any, message: str
) -> None:
    path = adapter(tmp_path / "lora")
    change(path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises((ValueError, OSError), match=message):
        lmc.rebase_checkpoints(path, *three[1:], out=tmp_path / "out", spec=models.spec())
    assert sorted(tmp_path.iterdir()) == before


def test_a_fine_tune_with_nan_is_named(three: tuple[Path, Path, Path], tmp_path: Path) -> None:
    state = models.read_directory(three[0])
    state["1.o.weight"][0, 0] = float("nan")
    save_file(state, three[0] / "model.safetensors")
    with pytest.raises(ValueError, match=r"tuned' must have finite weights, but '1\.o\.weight' holds nan"):
        lmc.rebase_checkpoints(*three, out=tmp_path / "out", spec=models.spec())


def test_the_command(three: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    models.spec().to_json("spec.json")
    words = ["rebase", "tuned", "base", "new", "-o", "out", "--spec", "spec.json", "--log", "off"]
    done = CliRunner().invoke(cli, [*words, "--dtype", "float16", "--shard-size", "2KiB"])
    assert done.exit_code == 0, done.output
    assert "wrote out in" in done.stdout
    assert {tensor.dtype for tensor in models.read_directory(tmp_path / "out").values()} == {torch.float16}
    again = CliRunner().invoke(cli, words)
    assert again.exit_code == 2
    assert again.stderr == "lmc-fast: output 'out' exists already: force=True (--force) replaces it\n"

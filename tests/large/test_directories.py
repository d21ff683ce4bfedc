"""Directories whose spec comes from their module: derived, merged, planned without weights, verified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast.checkpoints.directories import ModelDirectory
from lmc_fast.checkpoints.shards import shards_of
from lmc_fast.cli import cli
from lmc_fast.large import inputs, memory, plan_merge
from lmc_fast.large.verify import same_outputs, verify_aligned


class Toy(nn.Module):
    """Tied embeddings, a stream, units, and a buffer that is computed and not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.up, self.down = nn.Linear(6, 10), nn.Linear(10, 6)
        self.head = nn.Linear(6, 9, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)

    def forward(self, words: Tensor) -> dict[str, Tensor]:
        stream = self.embed(words)
        stream = stream + self.down(self.up(stream).relu()) * self.scale
        return {"logits": self.head(stream), "words": words}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Directories A and B, B's units in another order, which a library that knows Toy describes."""

    def described(path: Path, *, trust_remote_code: bool = False) -> ModelDirectory:
        with torch.device("meta"):
            module = Toy().eval()
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        example = {"words": torch.arange(9).reshape(1, 9)}
        return ModelDirectory(path, "transformers", "Toy", config, module, example, shards_of(path), Toy)

    monkeypatch.setattr(inputs, "described", described)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = Toy().eval()
    spec = lmc.derive_spec(model, {"words": torch.arange(9).reshape(1, 9)})
    assert len(spec.groups) == 2
    for name, state in (("A", model), ("B", lmc.Permutations.random(spec, 3).apply(model))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"architectures": ["Toy"]}', encoding="utf-8")
        stored = {n: x for n, x in state.state_dict().items() if n != "head.weight"}
        save_file(stored, tmp_path / name / "model.safetensors")
    return tmp_path


def test_the_spec_is_that_of_the_module_and_tied_tensors_are_written_once(folder: Path) -> None:
    result = lmc.merge_checkpoints("A", "B", out="out")
    assert result.matches[0].permutations.moved > 8
    a, found = load_file("A/model.safetensors"), load_file("out/model.safetensors")
    assert set(found) == set(a)
    assert all(torch.allclose(found[name], tensor, atol=1e-6) for name, tensor in a.items())
    assert "head.weight" in result.matches[0].permutations.spec.axes


def test_the_plan_needs_no_weights(folder: Path) -> None:
    for name in ("A", "B"):
        Path(name, "model.safetensors").unlink()
    plan = plan_merge("A", "B", calibrate=False)
    # bfloat16, where the configuration names no dtype; the tied weight once.
    assert plan.nbytes == (2 * (9 * 6 + 6 * 10 + 10 + 10 * 6 + 6),) * 2
    assert sorted(size for group in plan.groups for size in group.units.values()) == [6, 10]
    with pytest.raises(ValueError, match="holds no weights"):
        lmc.merge_checkpoints("A", "B", out="out")


def test_an_aligned_model_computes_what_the_original_does(folder: Path) -> None:
    lmc.merge_checkpoints("A", "B", out="out", align_only=True)
    found = verify_aligned("out", "B")
    assert found.holds
    assert (found.inputs, found.outputs) == (3, 3)
    done = CliRunner().invoke(cli, ["verify", "out", "--against", "B", "--seed", "2"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("the same function: 3 outputs on 3 random inputs differ by")


def test_another_function_is_seen(folder: Path) -> None:
    state = load_file("B/model.safetensors")
    state["up.bias"] = state["up.bias"].roll(1)
    (folder / "C").mkdir()
    (folder / "C" / "config.json").write_text('{"architectures": ["Toy"]}', encoding="utf-8")
    save_file(state, "C/model.safetensors")
    assert verify_aligned("C", "B").difference > 0.01
    done = CliRunner().invoke(cli, ["verify", "C", "--against", "B"])
    assert done.exit_code == 1
    assert done.stdout.startswith("not the same function")


def test_a_directory_that_is_not_there_is_named(folder: Path) -> None:
    done = CliRunner().invoke(cli, ["verify", "none", "--against", "B"])
    assert done.exit_code == 2
    assert done.stderr == "lmc-fast: model directory 'none' does not exist\n"


def test_verify_takes_a_spec_or_an_original(folder: Path) -> None:
    done = CliRunner().invoke(cli, ["verify", "B"])
    assert done.exit_code == 2
    assert done.stderr == "lmc-fast: verify takes one of --spec and --against\n"


def test_half_precision_is_run_in_single_and_put_back() -> None:
    torch.manual_seed(0)
    model = Toy().eval()
    spec = lmc.derive_spec(model, {"words": torch.arange(9).reshape(1, 9)})
    moved = lmc.Permutations.random(spec, 1).apply(model)
    seen: list[torch.dtype] = []
    for each in (model, moved):
        each.bfloat16()
    model.up.register_forward_pre_hook(lambda part, given: seen.append(given[0].dtype))
    words: dict[str, Any] = {"words": torch.arange(9).reshape(1, 9)}
    assert same_outputs(moved, model, words).difference < 1e-5
    assert set(seen) == {torch.float32}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_nan_is_no_agreement() -> None:
    class Floats(nn.Linear):
        def forward(self, input: Tensor, flag: Tensor | None = None) -> Tensor:
            return super().forward(input)

    torch.manual_seed(0)
    one, other = Floats(3, 4).eval(), Floats(3, 4).eval()
    other.load_state_dict(one.state_dict())
    given = {"input": torch.randn(2, 3), "flag": torch.tensor(True)}
    assert same_outputs(one, other, given).difference == 0
    with torch.no_grad():
        other.bias[0] = torch.nan
    assert not same_outputs(one, other, given).holds


def test_memory_is_given_back_where_the_c_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    memory._trim.cache_clear()
    calls: list[int] = []

    class Library:
        malloc_trim = calls.append

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: Library)
    memory.give_back()
    assert calls == [0]
    memory._trim.cache_clear()
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    memory.give_back()
    assert calls == [0]
    memory._trim.cache_clear()


class Joined(nn.Module):
    """Two experts in one tensor, which files hold apart."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2, 5, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("ba,eac->bec", x, self.w)


def test_tensors_that_lie_apart_are_put_together_and_written_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def described(path: Path, *, trust_remote_code: bool = False) -> ModelDirectory:
        with torch.device("meta"):
            module = Joined().eval()
        return ModelDirectory(path, "transformers", "Joined", {}, module, torch.zeros(2, 5), shards_of(path), Joined)

    together = inputs.Conversion(
        ("w.0", "w.1"),
        ("w",),
        False,
        lambda given: {"w": torch.stack([given["w.0"], given["w.1"]])},
        lambda given: {f"w.{k}": given["w"][k] for k in range(2)},
    )
    monkeypatch.setattr(inputs, "described", described)
    monkeypatch.setattr(inputs, "conversions_of", lambda *_: (together,))
    states = []
    for seed, name in enumerate(("A", "B")):
        generator = torch.Generator().manual_seed(seed)
        state = {f"w.{k}": torch.randn(5, 4, generator=generator) for k in range(2)}
        states.append({**state, "ids": torch.arange(3) + seed})
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}", encoding="utf-8")
        save_file(states[-1], tmp_path / name / "model.safetensors")
    lmc.merge_checkpoints(tmp_path / "A", tmp_path / "B", out=tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    for k in range(2):
        assert torch.allclose(found[f"w.{k}"], 0.5 * (states[0][f"w.{k}"] + states[1][f"w.{k}"]))
    # What the module has no place for is the first model's.
    assert found["ids"].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="lays stored tensors together"):
        verify_aligned(tmp_path / "A", tmp_path / "B")

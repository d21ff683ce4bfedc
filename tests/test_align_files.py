"""`lmc-fast align` and the files that people have: what it keeps of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors import safe_open
from safetensors.torch import load_file, save_file, save_model
from torch import nn

import lmc_fast as lmc
from lmc_fast.checkpoints import load_checkpoint, save_checkpoint
from lmc_fast.cli import cli


class LM(nn.Module):
    """Tied embeddings, a hidden group, and things that are no weights."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.emb = nn.Embedding(11, 8)
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.emb.weight


AXES: dict[str, Any] = {
    "emb.weight": (None, "D"),
    "head.weight": (None, "D"),
    "fc1.weight": ("H", "D"),
    "fc1.bias": ("H",),
    "fc2.weight": ("D", "H"),
    "fc2.bias": ("D",),
}


def extras(seed: int) -> dict[str, torch.Tensor]:
    """Entries that no group touches; the other file's are others."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "rope": torch.randn(4, generator=generator).to(torch.complex64),
        "scale": torch.randn(3, generator=generator).to(torch.float8_e4m3fn),
        "steps": torch.tensor(seed),
        "layer._extra_state": torch.tensor([seed, 7], dtype=torch.uint8),
    }


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> lmc.PermutationSpec:
    monkeypatch.chdir(tmp_path)
    spec = lmc.PermutationSpec.from_axes(AXES)
    spec.to_json("spec.json")
    return spec


def align(a: str, b: str, *more: str) -> Result:
    return CliRunner().invoke(cli, ["align", a, b, "--spec", "spec.json", "-o", "out.safetensors", *more])


def cloned(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


WAYS: dict[str, tuple[str, Callable[[dict[str, torch.Tensor], str], object]]] = {
    "safetensors": ("safetensors", lambda state, path: save_file(state, path)),
    "torch": ("pt", lambda state, path: torch.save({"model": state, "epoch": 1}, path)),
}


@pytest.mark.parametrize(("ending", "save"), WAYS.values(), ids=WAYS.keys())
def test_entries_that_no_group_touches_are_carried_along(
    spec: lmc.PermutationSpec, ending: str, save: Callable[[dict[str, torch.Tensor], str], object]
) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        save({**cloned(LM(seed)), **extras(seed)}, f"{name}.{ending}")
    result = align(f"a.{ending}", f"b.{ending}")
    assert result.exit_code == 0, result.output
    out = load_file("out.safetensors")
    assert out.keys() == {*LM(1).state_dict(), *extras(1)}
    for name, tensor in extras(1).items():
        wide = torch.complex128 if tensor.is_complex() else torch.float64
        assert out[name].dtype == tensor.dtype and torch.equal(out[name].to(wide), tensor.to(wide)), name
    expected = lmc.weight_matching(cloned(LM(0)), cloned(LM(1)), spec).apply(cloned(LM(1)))
    assert all(torch.equal(out[name], tensor) for name, tensor in expected.items())


def test_entries_that_a_spec_names_as_fixed_are_carried_along_too(spec: lmc.PermutationSpec) -> None:
    axes = {**AXES, "rope": (None,), "scale": (None,)}
    lmc.PermutationSpec.from_axes(axes).to_json("spec.json")
    for name, seed in (("a", 0), ("b", 1)):
        save_file({**cloned(LM(seed)), **extras(seed)}, f"{name}.safetensors")
    assert align("a.safetensors", "b.safetensors").exit_code == 0
    assert torch.equal(load_file("out.safetensors")["rope"], extras(1)["rope"])


def test_what_only_one_file_has_beside_its_weights_is_no_hindrance(spec: lmc.PermutationSpec) -> None:
    save_file(cloned(LM(0)), "a.safetensors")
    save_file({**cloned(LM(1)), **extras(1)}, "b.safetensors")
    assert align("a.safetensors", "b.safetensors").exit_code == 0
    assert load_file("out.safetensors").keys() >= extras(1).keys()
    assert align("b.safetensors", "a.safetensors", "--force").exit_code == 0
    assert load_file("out.safetensors").keys() == LM(0).state_dict().keys()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.complex64], ids=str)
def test_weights_that_a_group_touches_are_still_refused(spec: lmc.PermutationSpec, dtype: torch.dtype) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        state = cloned(LM(seed))
        save_file({**state, "fc1.bias": state["fc1.bias"].to(dtype)}, f"{name}.safetensors")
    result = align("a.safetensors", "b.safetensors")
    assert result.exit_code == 2 and "'fc1.bias'" in result.stderr and not Path("out.safetensors").exists()


def test_what_the_output_cannot_hold_is_named_before_the_work(
    spec: lmc.PermutationSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(cloned(LM(0)), "a.safetensors")
    torch.save({**cloned(LM(1)), "wide": torch.zeros(2, dtype=torch.complex128)}, "b.pt")
    monkeypatch.setattr("lmc_fast.matching.weight_matching", lambda *_, **__: pytest.fail("it has begun"))
    result = align("a.safetensors", "b.pt")
    assert result.exit_code == 2 and "'b.pt'['wide'] must be a tensor that a safetensors file can hold" in result.stderr


def test_state_that_is_no_tensor_is_named(spec: lmc.PermutationSpec) -> None:
    save_file(cloned(LM(0)), "a.safetensors")
    torch.save({**cloned(LM(1)), "layer._extra_state": {"step": 1}}, "b.pt")
    result = align("a.safetensors", "b.pt")
    assert result.exit_code == 0
    assert result.stderr == "lmc-fast: checkpoint 'b.pt': left out, being no tensors: 'layer._extra_state'\n"


def metadata(path: str) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


OURS = {"lmc_fast.version", "lmc_fast.method", "lmc_fast.l2_before", "lmc_fast.l2_after"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"format": "pt", "licence": "mine", "method": "theirs"},
            {"format": "pt", "licence": "mine", "method": "theirs"},
        ),
        ({"format": "mlx"}, {"format": "mlx"}),
        (None, {"format": "pt"}),
    ],
    ids=["own", "other-format", "none"],
)
def test_metadata_is_kept(spec: lmc.PermutationSpec, given: dict[str, str] | None, expected: dict[str, str]) -> None:
    save_file(cloned(LM(0)), "a.safetensors", metadata={"licence": "of a"})
    save_file(cloned(LM(1)), "b.safetensors", metadata=given)
    assert align("a.safetensors", "b.safetensors").exit_code == 0
    found = metadata("out.safetensors")
    assert {key: found[key] for key in found.keys() - OURS} == expected and found.keys() >= OURS


def test_tied_names_stay_tied(spec: lmc.PermutationSpec) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        save_checkpoint(f"{name}.safetensors", LM(seed).state_dict())
    assert align("a.safetensors", "b.safetensors").exit_code == 0
    LM(5).load_state_dict(load_file("out.safetensors"), strict=True)
    out = load_checkpoint("out.safetensors")
    assert out["emb.weight"].data_ptr() == out["head.weight"].data_ptr()
    # Modules and their files are matched alike: what is tied counts once.
    match = lmc.weight_matching(LM(0), LM(1), spec)
    assert float(metadata("out.safetensors")["lmc_fast.l2_before"]) == match.l2_before
    assert float(metadata("out.safetensors")["lmc_fast.l2_after"]) == match.l2_after


def test_a_file_of_save_model_gives_one_of_its_kind(spec: lmc.PermutationSpec) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        save_model(LM(seed), f"{name}.safetensors")
    result = align("a.safetensors", "b.safetensors")
    assert result.exit_code == 0, result.output
    assert load_file("out.safetensors").keys() == load_file("b.safetensors").keys()
    assert metadata("out.safetensors").items() >= metadata("b.safetensors").items()


def test_a_key_is_taken_from_the_command_line(spec: lmc.PermutationSpec) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        torch.save({"generator": cloned(LM(seed)), "critic": {"x": torch.zeros(2)}}, f"{name}.pt")
    result = align("a.pt", "b.pt")
    assert result.exit_code == 2 and "'generator', 'critic'" in result.stderr
    assert align("a.pt", "b.pt", "--key", "generator").exit_code == 0


def test_an_aligned_file_may_take_the_place_of_its_input(spec: lmc.PermutationSpec) -> None:
    save_file(cloned(LM(0)), "a.safetensors")
    save_file(cloned(LM(1)), "out.safetensors")
    assert align("a.safetensors", "out.safetensors", "--force").exit_code == 0
    assert metadata("out.safetensors").keys() >= OURS

"""A matching goes to a file and comes back whole, or is refused with the reason."""

from __future__ import annotations

import dataclasses
import errno
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import architectures
from lmc_fast._extras import install_line
from lmc_fast.matching import Matching

MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], lmc.PermutationSpec]]] = {
    "mlp": (models.small_mlp, architectures.mlp),
    "conv-flatten-linear": (models.ConvNet, architectures.vgg),
    "resnet": (models.small_resnet, architectures.resnet),
    "attention": (models.Attention, lambda m: models.Attention.spec()),
    "experts": (models.Experts, lambda m: models.Experts.spec()),
    "concat": (models.Concat, lambda m: models.Concat.spec()),
    "groupnorm": (models.GroupNormNet, lambda m: models.GroupNormNet.spec()),
}


def matched(name: str) -> tuple[Matching, nn.Module]:
    build, spec = MODELS[name]
    a, b = (models.randomise(build(), seed=seed) for seed in (1, 2))
    return lmc.weight_matching(a, b, spec(a), init="random"), b


@pytest.mark.parametrize("name", MODELS)
def test_there_and_back(name: str, tmp_path: Path) -> None:
    match, b = matched(name)
    path = tmp_path / "match.safetensors"
    match.save(path)
    back = Matching.load(path)
    assert back.permutations == match.permutations and back.permutations.spec == match.permutations.spec
    for field in dataclasses.fields(Matching):
        if field.name != "permutations":
            value, expected = getattr(back, field.name), getattr(match, field.name)
            assert value == expected and type(value) is type(expected), field.name
    assert str(back) == str(match)
    moved, expected = back.apply(b).state_dict(), match.apply(b).state_dict()
    assert all(torch.equal(moved[k], expected[k]) for k in expected)
    assert [p.name for p in tmp_path.iterdir()] == ["match.safetensors"]


def test_the_file_is_one_that_others_can_read(tmp_path: Path) -> None:
    match, _ = matched("attention")
    match.save(str(tmp_path / "m.safetensors"))
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        groups = {name.removeprefix("permutation."): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    assert {name: choice.shape for name, choice in groups.items()} == {
        "head": (3,),
        "query_key": (3, 4),
        "value": (3, 4),
    }
    assert all(choice.dtype == torch.int64 for choice in groups.values())
    assert lmc.PermutationSpec.from_json(metadata["spec"]) == match.permutations.spec
    assert json.loads(metadata["result"])["objective"] == match.objective


def test_names_that_the_file_format_keeps_for_itself(tmp_path: Path) -> None:
    state = {"w": torch.randn(3, 2)}
    spec = lmc.PermutationSpec.from_axes({"w": ("__metadata__", None)}, model=state)
    match = lmc.weight_matching(state, {"w": state["w"].flip(0)}, spec)
    match.save(tmp_path / "m.safetensors")
    assert Matching.load(tmp_path / "m.safetensors").permutations["__metadata__"].tolist() == [2, 1, 0]


def test_a_file_that_exists_is_kept(tmp_path: Path) -> None:
    match, _ = matched("mlp")
    path = tmp_path / "m.safetensors"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="exists already"):
        match.save(path)
    assert path.read_text() == "precious"
    match.save(path, overwrite=True)
    assert Matching.load(path).permutations == match.permutations
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        match.save(tmp_path / "m.pt")
    with pytest.raises(FileNotFoundError, match="the folder of output"):
        match.save(tmp_path / "no" / "m.safetensors")


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(part: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lmc_fast._files.sync_to_disk", fail)
    match, _ = matched("mlp")
    with pytest.raises(OSError, match=r"No space left on device: '.*m\.safetensors'") as raised:
        match.save(tmp_path / "m.safetensors")
    assert raised.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_without_safetensors_a_matching_is_saved_and_the_extra_named_by_who_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    match, _ = matched("mlp")
    with monkeypatch.context() as without:
        for name in [name for name in sys.modules if name.split(".")[0] == "safetensors"]:
            without.delitem(sys.modules, name)
        without.setitem(sys.modules, "safetensors", None)
        match.save(tmp_path / "m.safetensors")
        with pytest.raises(ImportError, match=re.escape(f"which is not installed: {install_line('cli')}")):
            Matching.load(tmp_path / "m.safetensors")
    assert Matching.load(tmp_path / "m.safetensors").permutations == match.permutations


class TestRefused:
    @pytest.fixture(autouse=True)
    def file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "m.safetensors"
        matched("attention")[0].save(self.path)
        with safe_open(self.path, "pt") as file:
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self.metadata = file.metadata()
        self.result = json.loads(self.metadata["result"])

    def refused(self, message: str) -> None:
        save_file(self.tensors, self.path, metadata=self.metadata)
        with pytest.raises(ValueError, match=rf"matching '.*m\.safetensors': {message}"):
            Matching.load(self.path)

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"none\.safetensors' does not exist"):
            Matching.load(tmp_path / "none.safetensors")
        with pytest.raises(FileNotFoundError, match="does not exist as a file"):
            Matching.load(tmp_path)

    def test_truncated(self) -> None:
        whole = self.path.read_bytes()
        for length in (0, 4, len(whole) // 2, len(whole) - 1):
            self.path.write_bytes(whole[:length])
            with pytest.raises(ValueError, match=r"m\.safetensors' is no complete safetensors file"):
                Matching.load(self.path)

    def test_no_matching(self) -> None:
        self.metadata = {}
        self.refused("holds no Matching: its format must be 'lmc_fast.Matching', got None")
        self.metadata = {"format": "pt"}
        self.refused("holds no Matching: .* got 'pt'")

    def test_another_version(self) -> None:
        self.metadata["version"] = "2"
        self.refused("its version must be 1, got '2'")

    def test_specs(self) -> None:
        spec = self.metadata["spec"]
        self.metadata["spec"] = spec[:-5]
        self.refused("spec: not JSON")
        open_sizes = models.Attention.spec().to_json()
        self.metadata["spec"] = open_sizes
        self.refused("its spec leaves sizes open")
        del self.metadata["spec"]
        self.refused("spec: not JSON")

    def test_permutations(self) -> None:
        head = self.tensors["permutation.head"]
        self.tensors["permutation.head"] = torch.tensor([0, 0, 1])
        self.refused(r"choices\['head'\] must hold each of 0\.\.2 once")
        self.tensors["permutation.head"] = head[:2]
        self.refused(r"choices\['head'\] must have shape \(3,\), got \(2,\)")
        self.tensors["permutation.head"] = head.float()
        self.refused("permutation.head must be int64, got torch.float32")
        del self.tensors["permutation.head"]
        self.refused(r"it must hold one permutation for each group, but \['permutation\.head'\] differ")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"objective": "high"}, "result: objective must be of type float, got 'high'"),
            ({"converged": 1}, "result: converged must be of type bool, got 1"),
            ({"colour": "blue"}, "result must be an object with"),
            ({"history": [{"objective": 1.0}]}, r"history\[0\] must be an object with"),
            ({"history": 3}, "result: history must be of type list, got 3"),
            (
                {"history": [{"objective": 1.0, "moved": 1.5, "solved": 1, "seconds": 0.1}]},
                r"history\[0\]: moved must be of type int, got 1\.5",
            ),
        ],
        ids=str,
    )
    def test_results(self, change: dict[str, Any], message: str) -> None:
        self.metadata["result"] = json.dumps({**self.result, **change})
        self.refused(message)

    def test_a_result_that_is_not_json(self) -> None:
        self.metadata["result"] = "{"
        self.refused("its result is not JSON")

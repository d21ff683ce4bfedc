"""A matching of several models goes to a file and comes back whole, or is refused with the reason."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import lmc_fast as lmc
from benchmarks import models


def matched(count: int = 3) -> tuple[lmc.ManyMatching, list[models.Attention]]:
    several = [models.randomise(models.Attention(), seed=seed) for seed in range(count)]
    return lmc.match_many(several, models.Attention.spec(), reference=1), several


@pytest.mark.parametrize("count", [2, 3, 11])
def test_there_and_back(count: int, tmp_path: Path) -> None:
    many, several = matched(count)
    many.save(tmp_path / "many.safetensors")
    back = lmc.ManyMatching.load(tmp_path / "many.safetensors")
    assert back.permutations == many.permutations and back.reference == 1
    assert back.permutations[0].spec == many.permutations[0].spec
    for field in dataclasses.fields(lmc.ManyMatching):
        value, expected = getattr(back, field.name), getattr(many, field.name)
        assert type(value) is type(expected), field.name
        if field.name.startswith("l2"):
            assert value.dtype == np.float64 and np.array_equal(value, expected), field.name
        else:
            assert value == expected, field.name
    assert str(back) == str(many)
    for ours, theirs in zip(back.apply(several), many.apply(several), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert back.pairwise(1, 0) == many.pairwise(1, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["many.safetensors"]


def test_groups_with_numbers_and_dots_in_their_names(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    states = [{"w": torch.randn(4, 3, generator=generator)} for _ in range(2)]
    spec = lmc.PermutationSpec.from_axes({"w": ("1.x", "x")}, model=states[0])
    many = lmc.match_many(states, spec)
    many.save(tmp_path / "m.safetensors")
    assert lmc.ManyMatching.load(tmp_path / "m.safetensors").permutations == many.permutations


def test_a_file_that_exists_is_kept(tmp_path: Path) -> None:
    many, _ = matched()
    path = tmp_path / "m.safetensors"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="exists already"):
        many.save(path)
    assert path.read_text() == "precious"
    many.save(str(path), overwrite=True)
    assert lmc.ManyMatching.load(str(path)).permutations == many.permutations
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        many.save(tmp_path / "m.pt")


def test_the_two_kinds_of_files_are_told_apart(tmp_path: Path) -> None:
    many, several = matched(2)
    many.save(tmp_path / "many.safetensors")
    lmc.weight_matching(*several, models.Attention.spec()).save(tmp_path / "one.safetensors")
    with pytest.raises(ValueError, match=r"holds no Matching: .* got 'lmc_fast\.ManyMatching'"):
        lmc.Matching.load(tmp_path / "many.safetensors")
    with pytest.raises(ValueError, match=r"holds no ManyMatching: .* got 'lmc_fast\.Matching'"):
        lmc.ManyMatching.load(tmp_path / "one.safetensors")


Tensors = dict[str, torch.Tensor]


def drop(name: str) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        del tensors[name]

    return edit


def change(name: str, to: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: to(tensors[name])})


class TestRefused:
    @pytest.fixture(autouse=True)
    def file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "m.safetensors"
        matched()[0].save(self.path)
        with safe_open(self.path, "pt") as file:
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self.metadata = file.metadata()
        self.result = json.loads(self.metadata["result"])

    def refused(self, message: str) -> None:
        save_file(self.tensors, self.path, metadata=self.metadata)
        with pytest.raises(ValueError, match=rf"matching '.*m\.safetensors': {message}"):
            lmc.ManyMatching.load(self.path)

    def test_what_is_not_there_or_not_whole(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"none\.safetensors' does not exist"):
            lmc.ManyMatching.load(tmp_path / "none.safetensors")
        self.path.write_bytes(self.path.read_bytes()[:-1])
        with pytest.raises(ValueError, match=r"m\.safetensors' is no complete safetensors file"):
            lmc.ManyMatching.load(self.path)

    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            (drop("permutation.2.head"), r"it must hold one permutation .* \['permutation\.2\.head'\] differ"),
            (drop("l2_before"), r"it must hold one permutation for each model and group"),
            (drop("l2_after"), r"it must hold .* and the distances, but \['l2_after'\] differ"),
            (change("permutation.1.head", lambda t: t.int()), "permutation.1.head must be int64, got torch.int32"),
            (change("permutation.1.head", lambda t: t[:2]), r"choices\['head'\] must have shape \(3,\), got \(2,\)"),
            (change("permutation.1.head", lambda t: t * 0), r"choices\['head'\] must hold each of 0\.\.2 once"),
            (change("l2_after", lambda t: t.float()), "l2_after must be float64, got torch.float32"),
            (change("l2_after", lambda t: t[:2].clone()), r"l2_after must be \[models, models\], got \(2, 3\)"),
            (
                change("l2_before", lambda t: t.flatten()[:3].clone()),
                r"l2_before must be \[models, models\], got \(3,\)",
            ),
            (change("l2_before", lambda t: t[0, 0].clone()), "it must hold one permutation for each model and group"),
        ],
        ids=range(10),
    )
    def test_tensors(self, edit: Callable[[Tensors], None], message: str) -> None:
        edit(self.tensors)
        self.refused(message)

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"reference": 3}, "result: reference must be one of the 3 models, got 3"),
            ({"reference": -1}, "result: reference must be one of the 3 models, got -1"),
            ({"reference": True}, "result: reference must be of type int, got True"),
            ({"method": None}, "result: method must be of type str, got None"),
            ({"colour": "blue"}, "result must be an object with"),
            ({"history": [{"objective": 1.0}]}, r"history\[0\] must be an object with"),
        ],
        ids=str,
    )
    def test_results(self, changed: dict[str, Any], message: str) -> None:
        self.metadata["result"] = json.dumps({**self.result, **changed})
        self.refused(message)

    def test_another_version(self) -> None:
        self.metadata["version"] = "2"
        self.refused("its version must be 1, got '2'")

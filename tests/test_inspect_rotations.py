"""lmc-fast inspect --rotations: what turns, what is folded, and the spec that holds both."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import lmc_fast as lmc
from lmc_fast.cli import cli

CODE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Embedding(5, 6), nn.LayerNorm(6)
        self.up, self.down, self.head = nn.Linear(6, 7), nn.Linear(7, 6), nn.Linear(6, 3)

    def forward(self, ids):
        h = self.embed(ids)
        h = h + self.down(self.up(self.norm(h)).relu())
        return self.head(torch.nn.functional.layer_norm(h, (6,)))
"""
IDS = ("--input", "ids=int:2,6")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "block.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "block", raising=False)
    return tmp_path


def test_what_turns_is_told_with_what_is_folded(here: Path) -> None:
    result = CliRunner().invoke(cli, ["inspect", "block:Net", *IDS, "--rotations", "--out", "spec.json"])
    assert result.exit_code == 0, result.output
    assert "2 groups of 13 units; 10^7 permutations are permitted; 1 of the groups turns" in result.output
    assert (
        "down: 6 turn (orthogonal, keeping ones), on embed.weight, up.weight, down.weight, down.bias" in result.output
    )
    assert "what does not turn:\n   aten.relu: acts entry by entry" in result.output
    assert "what is folded:\n   norm.weight into up.weight" in result.output
    shown = result.output.partition("\n")[2].partition("what stays:")[0]
    assert shown in (Path(__file__).resolve().parents[1] / "docs" / "use" / "specs.md").read_text(encoding="utf-8")
    assert "verified by verify_spec on Net" in result.output
    spec = lmc.PermutationSpec.from_json(here / "spec.json")
    assert not spec.only_permutes
    assert len(spec.folds) == 4
    again = CliRunner().invoke(cli, ["inspect", "block:Net", *IDS, "--spec", "spec.json"])
    assert again.exit_code == 0, again.output
    assert "what is folded:\n   norm.weight into up.weight" in again.output


def test_programs_are_told_as_well(here: Path) -> None:
    result = CliRunner().invoke(cli, ["inspect", "block:Net", *IDS, "--rotations", "--json", "--no-verify"])
    told = json.loads(result.output)
    kinds = {group["name"]: (group["kind"], group["stiff"][:10]) for group in told["groups"]}
    assert kinds == {"down": ("orthogonal_keeping_ones", ""), "up": ("permutation", "aten.relu:")}
    assert told["folds"][0] == "norm.weight into up.weight"
    without = json.loads(CliRunner().invoke(cli, ["inspect", "block:Net", *IDS, "--json"]).output)
    assert {group["kind"] for group in without["groups"]} == {"permutation"}
    assert without["folds"] == []


def test_a_spec_that_is_written_is_verified_by_the_command(here: Path) -> None:
    CliRunner().invoke(cli, ["inspect", "block:Net", *IDS, "--rotations", "--out", "spec.json"])
    right = CliRunner().invoke(cli, ["verify", "block:Net", "--spec", "spec.json", *IDS])
    assert right.exit_code == 0, right.output
    text = json.loads((here / "spec.json").read_text())
    text["groups"]["down"]["kind"] = "orthogonal"
    (here / "wrong.json").write_text(json.dumps(text))
    wrong = CliRunner().invoke(cli, ["verify", "block:Net", "--spec", "wrong.json", *IDS])
    assert wrong.exit_code == 1
    assert "turning group 'down'" in wrong.output

"""lmc-fast inspect and verify: models by directory and by import, what is printed and written, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import architectures
from lmc_fast.checkpoints import save_checkpoint
from lmc_fast.checkpoints.directories import ModelDirectory
from lmc_fast.checkpoints.headers import StoredTensor
from lmc_fast.checkpoints.shards import Shards
from lmc_fast.cli import cli
from lmc_fast.cli.models import Given, _counted, _own_inputs, _told_of, parse_inputs

CODE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width=7):
        super().__init__()
        self.embed, self.up, self.down = nn.Embedding(5, 4), nn.Linear(4, width), nn.Linear(width, 3)

    def forward(self, ids, scale=None):
        h = self.up(self.embed(ids)).relu()
        return self.down(h if scale is None else h * scale)


class Said(Net):
    example_input_array = torch.zeros(2, 6, dtype=torch.long)


class Branch(Net):
    def forward(self, ids):
        h = self.up(self.embed(ids))
        return self.down(h if float(h.sum()) > 0 else -h)


class Wrong(Net):
    def forward(self, ids):
        return self.down(self.up(self.embed(ids)).cumsum(-1))


net = Net()
number = 3


def needs(width):
    return Net(width)


def gives_a_number():
    return 3


class inner:
    Net = Net
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    monkeypatch.delitem(sys.modules, "mine_to_inspect", raising=False)
    (tmp_path / "mine_to_inspect.py").write_text(CODE)
    (tmp_path / "needs_another.py").write_text("import no_such_package_here\n")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


IDS = ("--input", "ids=int:2,6")


@pytest.mark.parametrize("name", ["Net", "net", "inner.Net"])
def test_what_can_be_imported_is_inspected(here: Path, name: str) -> None:
    result = run("inspect", f"mine_to_inspect:{name}", *IDS)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == f"mine_to_inspect:{name}: Net, 79 parameters"
    assert lines[1].startswith("2 groups of 11 units")
    assert any("up: 7, on up.weight, up.bias, down.weight" in line for line in lines)
    assert lines[-1].startswith("verified by verify_spec on Net, inputs [2, 6]")


def test_inputs_come_by_place_and_by_name(here: Path) -> None:
    result = run("inspect", "mine_to_inspect:Net", "--input", "int:2,6", "--input", "scale=float:2,1,7")
    assert result.exit_code == 0, result.output
    assert "verified by verify_spec on Net, inputs [2, 6], [2, 1, 7]" in result.output
    assert "up: 7" not in result.output
    assert run("inspect", "mine_to_inspect:Said").exit_code == 0


def test_json_and_a_file_hold_the_same(here: Path) -> None:
    result = run("inspect", "mine_to_inspect:Net", *IDS, "--json", "--out", "spec.json")
    told = json.loads(result.output)
    assert told["model"] == "mine_to_inspect:Net: Net, 79 parameters"
    assert {group["name"]: group["size"] for group in told["groups"]} == {"embed": 4, "up": 7}
    assert told["verified"].startswith("verified by")
    spec = lmc.PermutationSpec.from_json(here / "spec.json")
    assert spec.sizes == {"embed": 4, "up": 7}
    again = run("inspect", "mine_to_inspect:Net", *IDS, "--out", "spec.json")
    assert again.exit_code == 2 and "--force" in again.stderr
    forced = run("inspect", "mine_to_inspect:Net", *IDS, "--out", "spec.json", "--force", "--no-verify")
    assert forced.exit_code == 0 and forced.output.splitlines()[-2:] == ["not verified", "wrote spec.json"]


def test_a_file_of_weights_is_inspected_with_its_spec(here: Path) -> None:
    model = models.ConvNet()
    save_checkpoint("m.safetensors", model.state_dict())
    architectures.vgg(model).to_json("spec.json")
    result = run("inspect", "m.safetensors", "--spec", "spec.json")
    assert result.exit_code == 0, result.output
    assert "m.safetensors: " in result.output and "3 groups of 25 units" in result.output
    assert result.output.splitlines()[-1] == "not verified"


def test_a_spec_is_explained_on_a_model(here: Path) -> None:
    run("inspect", "mine_to_inspect:Net", *IDS, "--out", "spec.json")
    result = run("inspect", "mine_to_inspect:Net", *IDS, "--spec", "spec.json")
    assert result.exit_code == 0 and "2 groups of 11 units" in result.output


def test_what_cannot_be_traced_names_its_line(here: Path) -> None:
    result = run("inspect", "mine_to_inspect:Branch", *IDS)
    assert result.exit_code == 2
    assert "mine_to_inspect.py:" in result.stderr and "float(h.sum()) > 0" in result.stderr
    assert result.stderr.count("\n") == 1
    lenient = run("inspect", "mine_to_inspect:Branch", *IDS, "--no-strict")
    assert lenient.exit_code == 0 and "0 groups" in lenient.output


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "no inputs": (("mine_to_inspect:Net",), "--input must be given for mine_to_inspect:Net"),
    "no module": (("no.such.module:Net", *IDS), "no.such.module:Net: there is no module 'no' to import from"),
    "an empty name": ((":Net", *IDS), ":Net: '' is no module's name"),
    "a module that lacks another": (("needs_another:Net", *IDS), "needs_another needs no_such_package_here, which is"),
    "no such name": (("mine_to_inspect:Other", *IDS), "mine_to_inspect has no 'Other'"),
    "a number": (("mine_to_inspect:number", *IDS), "must be a module or make one, got a int"),
    "what needs arguments": (
        ("mine_to_inspect:needs", *IDS),
        "must take no arguments, but: needs() missing 1 required",
    ),
    "what makes a number": (("mine_to_inspect:gives_a_number", *IDS), "must make a torch.nn.Module, got a int"),
    "an input that is none": (("mine_to_inspect:Net", "--input", "2x6"), "--input must be [NAME=][KIND:]SHAPE"),
    "an empty input": (("mine_to_inspect:Net", "--input", ""), "--input must be [NAME=][KIND:]SHAPE"),
    "an input twice": (("mine_to_inspect:Net", *IDS, *IDS), "--input must name each argument once, got 'ids' twice"),
    "inputs that do not fit": (("mine_to_inspect:Net", "--input", "2,6"), "model must run on example_inputs [2, 6]"),
    "no directory": (("no_such_folder",), "model directory 'no_such_folder' does not exist"),
    "a folder without a model": ((".",), "has no config.json"),
    "weights without a spec": (("m.safetensors",), "'m.safetensors' is a file, and no folder"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_model_is_refused_in_one_sentence(here: Path, arguments: tuple[str, ...], message: str) -> None:
    save_checkpoint("m.safetensors", {"w": torch.zeros(2)})
    result = run("inspect", *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr and result.stderr.startswith("lmc-fast: ") and result.stderr.count("\n") == 1


def test_inputs_are_of_their_kind() -> None:
    found = parse_inputs(["2,3", "int:4", "mask=bool:1,5", "t=float:"])
    assert [tensor.dtype for tensor in found.args] == [torch.float32, torch.int64]
    assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in found.kwargs.items()} == {
        "mask": ((1, 5), torch.bool),
        "t": ((), torch.float32),
    }
    assert parse_inputs([]) is None


class TestVerify:
    def test_a_right_spec(self, here: Path) -> None:
        run("inspect", "mine_to_inspect:Net", *IDS, "--out", "spec.json")
        result = run("verify", "mine_to_inspect:Net", "--spec", "spec.json", *IDS)
        assert result.exit_code == 0, result.output
        assert result.output.splitlines()[1].startswith("verified by verify_spec on Net, inputs [2, 6], largest change")

    def test_a_wrong_one_is_exit_code_1_with_the_group(self, here: Path) -> None:
        run("inspect", "mine_to_inspect:Net", *IDS, "--out", "spec.json")
        result = run("verify", "mine_to_inspect:Wrong", "--spec", "spec.json", *IDS)
        assert result.exit_code == 1
        assert "lmc-fast: permuting group 'up' changes the model's outputs" in result.stderr
        assert result.stderr.count("\n") == 1

    def test_bad_input_is_exit_code_2(self, here: Path) -> None:
        assert run("verify", "mine_to_inspect:Net", "--spec", "none.json", *IDS).exit_code == 2
        assert run("verify", "mine_to_inspect:Net").exit_code == 2

    def test_a_model_that_memory_does_not_hold_is_said(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        transformers = pytest.importorskip("transformers")
        config = transformers.BertConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=4, vocab_size=50)
        config.architectures = ["BertModel"]
        config.save_pretrained("bert")
        monkeypatch.setattr("lmc_fast.cli.models._free_memory", lambda: 1e6)
        result = run("inspect", "bert", "--out", "spec.json")
        assert result.exit_code == 0, result.output
        assert "note: the spec was not tried on the model: that would take 0 GiB of memory" in result.output
        refused = run("verify", "bert", "--spec", "spec.json")
        assert refused.exit_code == 2 and "was not tried on the model" in refused.stderr


def test_a_model_directory_is_inspected(here: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 40, "vocab_size": 50}
    model = transformers.BertModel(transformers.BertConfig(**sizes, num_hidden_layers=3))
    model.save_pretrained("bert", max_shard_size="20KB")
    result = run("inspect", "bert")
    assert result.exit_code == 0, result.output
    assert (
        "bert: BertModel of transformers, 27.6 k parameters, " in result.output and "files of weights" in result.output
    )
    assert (
        "encoder.layer.{0..2}.attention.self.query: 4, 3 times, on encoder.layer.{0..2}.attention: self."
        in result.output
    )
    assert "verified by verify_spec on BertModel, inputs [3, 13]" in result.output
    one = run("inspect", "bert", "--class", "BertForMaskedLM", "--no-verify", "--input", "input_ids=int:1,9")
    assert one.exit_code == 0 and "BertForMaskedLM of transformers" in one.output


class TestMemory:
    def test_it_is_asked_of_the_system(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from lmc_fast.cli.models import _free_memory

        assert 0 < _free_memory() < 1 << 50

        def unknown(name: str) -> Any:
            raise ValueError(name)

        monkeypatch.setattr("os.sysconf", unknown)
        assert _free_memory() == float("inf")


class TestGiven:
    """What is known of a model that the command line names, with a model directory made by hand."""

    def directory(self, files: int) -> ModelDirectory:
        shards = Shards({"w": StoredTensor(Path("w"), torch.float32, (3,), 0, 12)} if files else {}, ("w",) * files)
        kind = models.small_mlp
        return ModelDirectory(Path("m"), "mine", "MLP", {}, kind().to("meta"), torch.randn(2, 4), shards, kind)

    @pytest.mark.parametrize(
        ("files", "told"), [(0, "no weights"), (1, "one file of weights"), (3, "3 files of weights")]
    )
    def test_a_directory_is_told_in_a_line(self, files: int, told: str) -> None:
        assert _told_of(self.directory(files)) == f"m: MLP of mine, 139 parameters, {told}"

    def test_a_module_is_built_where_memory_holds_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = self.directory(0)
        given = Given("m", found.module, found.build, found.example_inputs)
        built, why_not = given.with_weights()
        assert built is not None and not why_not and not next(built.parameters()).is_meta
        monkeypatch.setattr("lmc_fast.cli.models._free_memory", lambda: 100.0)
        assert given.with_weights() == (None, "the spec was not tried on the model: that would take 0 GiB of memory")

    def test_what_is_not_tried_is_noted(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run("inspect", "mine_to_inspect:Net", *IDS, "--out", "spec.json")
        monkeypatch.setattr(Given, "with_weights", lambda self: (None, "the spec was not tried: too large"))
        result = run("inspect", "mine_to_inspect:Net", *IDS)
        assert result.exit_code == 0 and "note: the spec was not tried: too large" in result.output
        refused = run("verify", "mine_to_inspect:Net", "--spec", "spec.json", *IDS)
        assert refused.exit_code == 2 and refused.stderr == "lmc-fast: the spec was not tried: too large\n"

    @pytest.mark.parametrize(
        ("width", "told"),
        [(3, "15 parameters"), (300, "1.5 k parameters"), (300_000, "1.5 M parameters"), (10**9, "5.0 G parameters")],
    )
    def test_parameters_are_counted(self, width: int, told: str) -> None:
        assert _counted(nn.Linear(4, width, device="meta")) == told

    def test_a_model_of_transformers_tells_its_inputs(self) -> None:
        class Reads(nn.Module):
            main_input_name = "input_ids"
            config = SimpleNamespace(vocab_size=50)

            def forward(self, input_ids: torch.Tensor) -> None: ...

        assert _own_inputs(Reads())["input_ids"].shape == (3, 13)
        assert _own_inputs(nn.Linear(2, 2)) is None

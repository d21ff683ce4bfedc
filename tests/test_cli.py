"""The command line, as a person at a terminal meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

import lmc_fast as lmc
from lmc_fast import architectures
from lmc_fast.checkpoints import load_checkpoint, save_checkpoint
from lmc_fast.cli import cli

from . import models


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two models, of which b is a permuted with a little noise, and their spec."""
    monkeypatch.chdir(tmp_path)
    model = models.randomise(models.ConvNet(), seed=1)
    spec = architectures.vgg(model)
    other = lmc.Permutations.random(spec, 3).inverse().apply(model.state_dict())
    save_checkpoint("a.safetensors", model.state_dict())
    torch.save(other, "b.pt")
    spec.to_json("spec.json")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


ALIGN = ("align", "a.safetensors", "b.pt", "--spec", "spec.json", "-o", "out.safetensors")


def test_align_writes_the_permuted_b(folder: Path) -> None:
    result = run(*ALIGN)
    assert result.exit_code == 0, result.output
    assert "L2 distance" in result.output and "wrote out.safetensors" in result.output
    a, b, out = (load_checkpoint(name) for name in ("a.safetensors", "b.pt", "out.safetensors"))
    spec = lmc.PermutationSpec.from_json(folder / "spec.json")
    expected = lmc.weight_matching(a, b, spec).apply(b)
    assert all(torch.equal(out[name], tensor) for name, tensor in expected.items())
    model = models.ConvNet().eval()
    inputs = torch.randn(3, 1, 8, 8)
    model.load_state_dict(b)
    reference = model(inputs)
    model.load_state_dict(out)
    torch.testing.assert_close(model(inputs), reference)


def test_force_replaces(folder: Path) -> None:
    assert run(*ALIGN).exit_code == 0
    assert run(*ALIGN).exit_code == 2
    assert run(*ALIGN, "--force").exit_code == 0


class Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("open('pwned', 'w')",)


def truncate(path: str) -> None:
    Path(path).write_bytes(Path(path).read_bytes()[:-10])


BAD = {
    "missing-a": (lambda: Path("a.safetensors").unlink(), "'a.safetensors' does not exist"),
    "missing-b": (lambda: Path("b.pt").unlink(), "'b.pt' does not exist"),
    "missing-spec": (lambda: Path("spec.json").unlink(), "spec 'spec.json' does not exist"),
    "other-shapes": (
        lambda: torch.save(models.ConvNet(7).state_dict(), "b.pt"),
        "model_b must have the shapes of model_a, but",
    ),
    "other-spec": (
        lambda: architectures.mlp(models.small_mlp()).to_json("spec.json"),
        "the spec names parameter '1.weight', which the model lacks",
    ),
    "spec-no-json": (lambda: Path("spec.json").write_text("{"), "spec: not JSON at line 1"),
    "truncated": (lambda: truncate("a.safetensors"), "'a.safetensors' is no complete safetensors file"),
    "pickle-with-code": (lambda: torch.save({"w": Code()}, "b.pt"), "holds more than tensors"),
    "output-exists": (lambda: Path("out.safetensors").write_text("mine"), "output 'out.safetensors' exists already"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_and_code_2(folder: Path, spoil: object, message: str) -> None:
    spoil()  # type: ignore[operator]
    before = listing(folder)
    result = run(*ALIGN)
    assert result.exit_code == 2
    assert result.stderr.startswith("lmc-fast: ") and result.stderr.count("\n") == 1
    assert message in result.stderr
    assert listing(folder) == before


def test_a_device_that_is_not_there(folder: Path) -> None:
    before = listing(folder)
    result = run(*ALIGN, "--device", "no-such-device")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1 and listing(folder) == before


def test_demo_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("demo", "--quick")
    assert result.exit_code == 0, result.output
    assert "middle" in result.output and "lmc-fast align lmc-fast-demo/mlp_seed0.safetensors" in result.output
    out = tmp_path / "lmc-fast-demo"
    names = {path.name for path in out.iterdir()}
    assert {"barrier_mlp.png", "barrier_resnet.png", "results.json", "mlp_seed1_aligned.safetensors"} <= names
    assert (out / "barrier_mlp.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((out / "results.json").read_text())
    assert {pair["model"] for pair in results["pairs"]} == {"mlp", "resnet"} and len(results["pairs"]) == 4
    # Two models that were written match as those in memory did.
    arguments = [str(out / f"mlp_seed{s}.safetensors") for s in (0, 1)]
    aligned = run("align", *arguments, "--spec", str(out / "mlp_spec.json"), "-o", "again.safetensors")
    assert aligned.exit_code == 0, aligned.output
    again, first = load_checkpoint("again.safetensors"), load_checkpoint(out / "mlp_seed1_aligned.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())


def test_demo_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for out, message in (("mine", "exists already"), ("no/such", "does not exist")):
        result = run("demo", "--quick", "--out", out)
        assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_help_names_the_commands() -> None:
    for arguments, words in (
        (("--help",), ("demo", "align")),
        (("align", "-h"), ("--spec", "--out", "--force")),
        (("demo", "-h"), ("--models", "--quick")),
    ):
        result = run(*arguments)
        assert result.exit_code == 0 and all(word in result.output for word in words)
    assert run("--version").output == f"lmc-fast, version {lmc.__version__}\n"


BLOCKED = """
import sys
sys.modules[{module!r}] = None
sys.argv = ["lmc-fast", "demo"]
from lmc_fast.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("click", "lmc-fast needs click: pip install 'lmc_fast[cli]'"),
        ("rich", "lmc-fast needs rich: pip install 'lmc_fast[cli]'"),
        ("sklearn", "sklearn, which is not installed: pip install 'lmc_fast[demo]'"),
        ("safetensors", "safetensors, which is not installed: pip install 'lmc_fast[cli]'"),
    ],
)
def test_a_missing_extra_is_named(tmp_path: Path, module: str, message: str) -> None:
    code = BLOCKED.format(module=module)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []

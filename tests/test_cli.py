"""The command line, as a person at a terminal meets it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import architectures
from lmc_fast._extras import install_line
from lmc_fast.checkpoints import load_checkpoint, save_checkpoint
from lmc_fast.cli import cli
from lmc_fast.experiments.demo import standard_cases

from . import forked


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


def test_align_promises_no_more_than_it_knows(folder: Path) -> None:
    assert "spec not verified" in run(*ALIGN).output
    text = " ".join(run("align", "--help").output.split())
    assert "the same function as B if the spec is right" in text and "nothing is verified here" in text


def test_force_replaces(folder: Path) -> None:
    assert run(*ALIGN).exit_code == 0
    assert run(*ALIGN).exit_code == 2
    assert run(*ALIGN, "--force").exit_code == 0


class Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("open('pwned', 'w')",)


def torch_state(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    state = models.ConvNet().state_dict()
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}


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
        "spec 'spec.json': the spec names parameter '1.weight', which the model lacks",
    ),
    "spec-no-json": (lambda: Path("spec.json").write_text("{"), "spec 'spec.json': not JSON at line 1"),
    "truncated": (lambda: truncate("a.safetensors"), "'a.safetensors' is no complete safetensors file"),
    "pickle-with-code": (
        lambda: torch.save({"w": Code()}, "b.pt"),
        "nothing in it was run",
    ),
    "spec-is-binary": (lambda: Path("spec.json").write_bytes(b"\xff\xfe"), "spec 'spec.json' is no text file"),
    "spec-too-deep": (lambda: Path("spec.json").write_text("[" * 100_000), "spec 'spec.json': nested too deep"),
    "spec-typo": (
        lambda: Path("spec.json").write_text(
            '{"format": "lmc_fast.PermutationSpec", "version": 1, "axes": {}, "groups": {"zz": {"size": 100000000000}}}'
        ),
        "spec 'spec.json': group 'zz' must be on some axis",
    ),
    "complex": (
        lambda: [torch.save({"w": torch.zeros(2, dtype=torch.complex64)}, name) for name in ("a.safetensors", "b.pt")],
        "is no complete safetensors file",
    ),
    "float8": (
        lambda: torch.save(torch_state(torch.float8_e4m3fn), "b.pt"),
        "must be a dense float16, bfloat16, float32, float64 or integer tensor, got torch.float8_e4m3fn",
    ),
    "integer-weights": (
        lambda: torch.save(torch_state(torch.int64), "b.pt"),
        "model_b must hold floating point numbers where model_a does, but 'classifier.1.bias' is torch.int64",
    ),
    "output-exists": (
        lambda: Path("out.safetensors").write_text("mine"),
        "output 'out.safetensors' exists already: --force replaces it",
    ),
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


@pytest.mark.parametrize("device", ["no-such-device", "meta"])
def test_a_device_that_is_no_use(folder: Path, device: str) -> None:
    before = listing(folder)
    result = run(*ALIGN, "--device", device)
    assert result.exit_code == 2 and result.stderr.count("\n") == 1 and listing(folder) == before


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("out.pt", "output 'out.pt' must end in .safetensors"),
        ("-", "output '-' must end in .safetensors"),
        ("/proc/out.safetensors", "output '/proc/out.safetensors' cannot be written"),
        ("x" * 300 + ".safetensors", "cannot be written: File name too long"),
        ("no/such/out.safetensors", "the folder of output 'no/such/out.safetensors' does not exist"),
        ("dir.safetensors", "exists already"),
    ],
    ids=["suffix", "dash", "proc", "long", "folder", "is-folder"],
)
def test_an_output_that_cannot_be_written_is_said_at_once(folder: Path, out: str, message: str) -> None:
    (folder / "dir.safetensors").mkdir()
    # What comes first is told: no model has been read by then.
    (folder / "a.safetensors").unlink()
    before = listing(folder)
    result = run(*ALIGN[:-1], out)
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1
    assert listing(folder) == before
    assert "is a folder" in run(*ALIGN[:-1], "dir.safetensors", "--force").stderr


def test_links_are_followed_and_need_force(folder: Path) -> None:
    link = folder / "out.safetensors"
    link.symlink_to("target.safetensors")
    assert run(*ALIGN).exit_code == 2
    assert run(*ALIGN, "--force").exit_code == 0
    assert link.is_symlink() and (folder / "target.safetensors").is_file()


@pytest.fixture(scope="module")
def quick_demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The folder in which one run has been made, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, run("demo", "--quick", "--methods", "am, ste,wm")


@pytest.mark.slow
def test_demo_quick(quick_demo: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder, result = quick_demo
    assert result.exit_code == 0, result.output
    assert "middle" in result.output and "lmc-fast align lmc-fast-demo/mlp_seed0.safetensors" in result.output
    out = folder / "lmc-fast-demo"
    names = {path.name for path in out.iterdir()}
    assert {
        "barrier_mlp.png",
        "barrier_resnet.png",
        "alignment_mlp.png",
        "alignment_resnet.png",
        "results.json",
        "mlp_seed1_aligned.safetensors",
    } <= names
    assert (out / "barrier_mlp.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((out / "results.json").read_text())
    assert {pair["model"] for pair in results["pairs"]} == {"mlp", "resnet"} and len(results["pairs"]) == 4
    # Two models that were written match as those in memory did.
    arguments = [str(out / f"mlp_seed{s}.safetensors") for s in (0, 1)]
    aligned = run("align", *arguments, "--spec", str(out / "mlp_spec.json"), "-o", "again.safetensors")
    assert aligned.exit_code == 0, aligned.output
    again, first = load_checkpoint("again.safetensors"), load_checkpoint(out / "mlp_seed1_aligned.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())


def test_the_demo_names_the_files_that_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("_draw", "_draw_alignment"):
        monkeypatch.setattr(f"lmc_fast.experiments.demo.{name}", lambda *_: None)
    # What is named are files of the first.
    cases = standard_cases(quick=True)[:1]
    monkeypatch.setattr("lmc_fast.experiments.demo.standard_cases", lambda quick: cases)
    result = run("demo", "--quick", "--seed", "5", "--models", "2", "--out", "my demo")
    rows = json.loads(Path("my demo/results.json").read_text())["methods"]
    assert [row["method"] for row in rows] == ["wm", "am", "ste"]
    line = next(line for line in result.output.splitlines() if line.startswith("Next: lmc-fast "))
    assert run(*shlex.split(line.removeprefix("Next: lmc-fast "))).exit_code == 0
    assert load_checkpoint("aligned.safetensors").keys() == load_checkpoint("my demo/mlp_seed6.safetensors").keys()


@pytest.mark.slow
def test_the_demo_compares_the_methods_that_are_named(quick_demo: tuple[Path, Result]) -> None:
    rows = json.loads((quick_demo[0] / "lmc-fast-demo" / "results.json").read_text())["methods"]
    assert [(row["model"], row["method"]) for row in rows] == [
        (model, method) for model in ("mlp", "resnet") for method in ("am", "ste", "wm")
    ]
    assert all(row["others_barrier"] is not None and row["seeds"] == [0, 1, 2] for row in rows)


def test_the_demo_refuses_an_unknown_method_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lmc_fast.experiments.demo.train", lambda *_, **__: pytest.fail("it has begun"))
    result = CliRunner().invoke(cli, ["demo", "--quick", "--methods", "wm,best"])
    assert result.exit_code == 2
    assert result.stderr == "lmc-fast: methods must be some of wm, am, ste, sinkhorn, cosine, fisher, got 'best'\n"
    assert list(tmp_path.iterdir()) == []


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
for name in [{module!r}, *sys.modules]:
    if name.split(".")[0] == {module!r}:
        sys.modules[name] = None
# What has been imported with it comes again.
for name in [name for name in sys.modules if name.startswith("lmc_fast.cli")]:
    del sys.modules[name]
sys.argv = ["lmc-fast", "demo"]
from lmc_fast.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("click", f"lmc-fast needs click: {install_line('cli')}"),
        ("rich", f"lmc-fast needs rich: {install_line('cli')}"),
        ("sklearn", f"sklearn, which is not installed: {install_line('demo')}"),
        ("safetensors", f"safetensors, which is not installed: {install_line('cli')}"),
    ],
    ids=["click", "rich", "sklearn", "safetensors"],
)
def test_a_missing_extra_is_named(tmp_path: Path, module: str, message: str) -> None:
    done = forked.run(["-c", BLOCKED.format(module=module)], cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []

"""`lmc-fast align` with its methods and what the search may be told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import architectures
from lmc_fast.checkpoints import load_checkpoint, save_checkpoint
from lmc_fast.cli import cli

CODE = """
import torch
from benchmarks import models

net = models.ConvNet
inputs = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(5))


def batches():
    return list(inputs.split(20))


three = batches()
"""
ALIGN = ("align", "a.safetensors", "b.safetensors", "--spec", "spec.json", "-o", "out.safetensors", "--force")
AM = (*ALIGN, "--method", "am", "--model", "mine_to_align:net")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two unrelated models, their spec, and a file that makes the module and has data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("mine_to_align.py").write_text(CODE)
    for name, seed in (("a", 1), ("b", 2)):
        save_checkpoint(f"{name}.safetensors", models.randomise(models.ConvNet(), seed=seed).state_dict())
    architectures.vgg(models.ConvNet()).to_json("spec.json")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def pair() -> list[models.ConvNet]:
    made = [models.ConvNet().eval() for _ in range(2)]
    for model, name in zip(made, "ab", strict=True):
        model.load_state_dict(load_checkpoint(f"{name}.safetensors"))
    return made


def written_is(match: lmc.Matching) -> bool:
    out, expected = load_checkpoint("out.safetensors"), match.apply(load_checkpoint("b.safetensors"))
    return all(torch.equal(out[name], tensor) for name, tensor in expected.items())


OPTIONS = {
    "descent": (("--search", "coordinate_descent"), {"search": "coordinate_descent"}),
    "frank-wolfe": (("--search", "frank_wolfe"), {"search": "frank_wolfe"}),
    "restarts": (("--restarts", "3", "--seed", "4"), {"restarts": 3, "seed": 4}),
    "freeze": (("--freeze", "features.0"), {"freeze": ["features.0"]}),
    "sweeps": (("--max-sweeps", "1", "--init", "random"), {"max_sweeps": 1, "init": "random"}),
}


@pytest.mark.parametrize(("flags", "options"), OPTIONS.values(), ids=OPTIONS.keys())
def test_the_search_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], options: dict[str, Any]
) -> None:
    told: dict[str, Any] = {}
    search = lmc.weight_matching

    def matched(*models: Any, **given: Any) -> lmc.Matching:
        told.update(given)
        return search(*models, **given)

    monkeypatch.setattr("lmc_fast.matching.weight_matching", matched)
    result = run(*ALIGN, *flags)
    assert result.exit_code == 0, result.output
    spec = lmc.PermutationSpec.from_json("spec.json")
    a, b = (load_checkpoint(f"{name}.safetensors") for name in "ab")
    assert {name: list(told[name]) if name == "freeze" else told[name] for name in options} == options
    assert written_is(search(a, b, spec, **options))


def save_inputs() -> None:
    from mine_to_align import inputs  # type: ignore[import-not-found]

    save_checkpoint("inputs.safetensors", {"anything": inputs})


def save_named_inputs() -> None:
    from mine_to_align import inputs

    # What forward does not take are targets.
    save_checkpoint("inputs.safetensors", {"x": inputs, "labels": torch.arange(40)})


DATA = {
    "function": ("mine_to_align:batches", lambda: None),
    "list": ("mine_to_align:three", lambda: None),
    "file": ("inputs.safetensors", save_inputs),
    "file-by-name": ("inputs.safetensors", save_named_inputs),
}


@pytest.mark.parametrize(("data", "prepare"), DATA.values(), ids=DATA.keys())
def test_activations_are_matched(folder: Path, data: str, prepare: object) -> None:
    prepare()  # type: ignore[operator]
    result = run(*AM, "--data", data, "--batch-size", "20")
    assert result.exit_code == 0, result.output
    assert "activation matching, correlation" in result.output and "spec verified" in result.output
    from mine_to_align import batches

    match = lmc.activation_matching(*pair(), batches(), lmc.PermutationSpec.from_json("spec.json"))
    assert match.permutations.moved and written_is(match)


def test_activations_on_image_files(folder: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez("images.npz", images=images, labels=np.arange(60) % 5)
    assert run(*AM, "--data", "images.npz", "--batch-size", "20").exit_code == 0
    from lmc_fast.experiments.datasets import load_dataset

    spec = lmc.PermutationSpec.from_json("spec.json")
    assert written_is(lmc.activation_matching(*pair(), load_dataset("images.npz").train_batches(20), spec))


REFUSED = {
    "no-data": (AM, "--method am runs the models: --data is needed"),
    "no-model": ((*ALIGN, "--method", "am", "--data", "digits"), "--model is needed"),
    "data-for-weights": ((*ALIGN, "--data", "digits"), "--data is of no use with --method wm"),
    "restarts-of-activations": ((*AM, "--data", "digits", "--restarts", "2"), "--restarts is of no use"),
    "no-such-group": ((*ALIGN, "--freeze", "zz"), "freeze names group 'zz', which the spec lacks"),
    "no-such-module": ((*AM[:-1], "mine_to_align:zz", "--data", "digits"), "mine_to_align has no 'zz'"),
    "no-such-data": ((*AM, "--data", "mine_to_align:zz"), "mine_to_align has no 'zz'"),
    "no-rows": ((*AM, "--data", "a.safetensors"), "must hold tensors with one row for each example, but"),
    "one-batch": ((*AM, "--data", "mine_to_align:inputs"), "batches must be"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_fit_is_one_line(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert message in result.stderr
    assert not Path("out.safetensors").exists()


def test_a_spec_that_changes_the_function_is_found_out(folder: Path) -> None:
    spec = architectures.vgg(models.ConvNet())
    axes = {name: list(entries) for name, entries in spec.axes.items()}
    # The last layer's outputs, as if they were free.
    wrong = lmc.PermutationSpec.from_axes(
        {"classifier.3.weight": ("out", None), "classifier.3.bias": ("out",)}
        | {name: (None,) * len(entries) for name, entries in axes.items() if not name.startswith("classifier.3")}
    )
    wrong.to_json("spec.json")
    result = run(*AM, "--data", "mine_to_align:batches")
    assert result.exit_code == 2 and "out" in result.stderr and not Path("out.safetensors").exists()

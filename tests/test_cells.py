"""Every public function by every kind of model that people have, in every mode of the caller's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import lmc_fast as lmc
from benchmarks import cells
from benchmarks.run import main

# Those that differ most from each other, and for all kinds but the plain one the mode that touches it most: what it
# computes, how its weights are made, how it was. The others are tried with --slow.
FEW = {
    "plain": ("inference_mode", "autocast", "default device"),
    "BatchNorm": ("autocast",),
    "weight_norm": ("default device",),
    "made in inference": ("inference_mode",),
}


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    with cells.process_group():
        yield


@pytest.mark.parametrize("call", cells.CALLS)
def test_the_callers_modes_change_nothing(call: str) -> None:
    for kind, modes in FEW.items():
        found = cells.outcomes(call, kind, modes)
        assert found.is_right, (kind, found.usual, found.wrong)


@pytest.mark.slow
@pytest.mark.parametrize("kind", cells.KINDS)
@pytest.mark.parametrize("call", cells.CALLS)
def test_every_cell_works_or_is_refused_by_name(call: str, kind: str) -> None:
    found = cells.outcomes(call, kind)
    assert found.is_right, (found.usual, found.wrong)


def test_every_function_is_there() -> None:
    named = " ".join(cells.CALLS)
    lowercase = [name for name in lmc.__all__ if name[0].islower() and callable(getattr(lmc, name))]
    # What takes matrices or folders, and no models.
    others = {"backends", *(name for name in lowercase if "assignment" in name or "checkpoints" in name)}
    assert [name for name in lowercase if name not in others and name not in named] == []


def test_a_wrong_cell_is_seen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls = {
        "asks for the mode": lambda case: torch.is_grad_enabled(),
        "fails": lambda case: 1 / 0,
        "names nothing": lambda case: int("x"),
        "changes a model": lambda case: case.models[0].fc1.weight.data.zero_(),
    }
    monkeypatch.setattr(cells, "CALLS", calls)
    wrong = {call: cells.outcomes(call, "plain", ["no_grad"]) for call in calls}
    assert not any(found.is_right for found in wrong.values())
    assert wrong["asks for the mode"].wrong == {"no_grad": "another result"}
    assert "ZeroDivisionError" in wrong["fails"].usual and "without a name" in wrong["names nothing"].usual
    assert "changed" in wrong["changes a model"].usual
    assert main(["cells", "--kinds", "plain"]) == 1
    assert "0 of" in capsys.readouterr().out

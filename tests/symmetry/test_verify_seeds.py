"""Verification leaves the generators alone that it has nothing to do with."""

from __future__ import annotations

import pytest
import torch

import lmc_fast as lmc

from .test_verify import Shuffled, X, spec_of


@pytest.mark.parametrize("started", [False, True], ids=["on a CPU", "beside devices that have started"])
def test_only_devices_that_have_started_are_seeded(started: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that starts later would be seeded then, over the caller's own seed."""
    seeded: list[str] = []
    for devices in (torch.cuda, torch.xpu, torch.mps):
        named = devices.__name__
        for seed in {"manual_seed", "manual_seed_all"} & set(dir(devices)):
            monkeypatch.setattr(devices, seed, lambda value, named=named: seeded.append(named))
    for devices in (torch.cuda, torch.xpu):
        monkeypatch.setattr(devices, "is_initialized", lambda: started)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: started)
    spec = spec_of()
    lmc.verify_spec(Shuffled(), spec, X)
    assert spec.verified is not None and "was seeded" in spec.verified.note
    assert set(seeded) == ({"torch.cuda", "torch.xpu", "torch.mps"} if started else set())

"""Which backend overlaps of singular vectors take unasked."""

from __future__ import annotations

import pytest
import torch

from lmc_fast.ops.spectral_overlap import op, spectral_overlap


@pytest.mark.parametrize(("most", "backend", "asks"), [(1 << 28, "auto", False), (8, "auto", True), (9, "torch", True)])
def test_small_ones_are_left_to_torch(most: int, backend: str, asks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    u, s = torch.linalg.qr(torch.randn(5, 3)).Q, torch.tensor([3.0, 2.0, 1.0])
    asked = []
    choose = op.choose

    def asking(*args: object, **keywords: object) -> str:
        asked.append(args)
        return choose(*args, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(op, "MOST_PAIRS", most)
    monkeypatch.setattr(op, "choose", asking)
    found = spectral_overlap(u, s, u, u, s, u, backend=backend)
    assert bool(asked) == asks
    assert found[0] == pytest.approx(1.0)

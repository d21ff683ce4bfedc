"""The demo's tables: what stands in them, and in what shape."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from rich.table import Table

from lmc_fast.experiments.demo_methods import ByMethod
from lmc_fast.experiments.demo_tables import merged_table, method_table, pair_table, show
from lmc_fast.report.tables import stacked


def curve(middle: float, barrier: float) -> Any:
    return SimpleNamespace(
        loss=[0.5, middle, 0.5],
        accuracy=[0.984, 0.5, 0.984],
        midpoint_loss=middle,
        midpoint_accuracy=0.5,
        barrier=barrier,
    )


def tables() -> list[Table]:
    """All three, of made-up results."""
    match = SimpleNamespace(l2_before=12.5, l2_after=10.0, l2_reduction=0.2, seconds=0.25)
    before, after = curve(1.0, 0.5), curve(0.75, 0.25)
    pair: Any = SimpleNamespace(
        model="mlp",
        seeds=(0, 1),
        match=match,
        before=before,
        after=after,
        before_reestimated=before,
        after_reestimated=after,
    )
    merged: Any = SimpleNamespace(
        model="mlp", seeds=(0, 1, 2), loss=0.25, accuracy=0.9, loss_unpermuted=1.75, accuracy_unpermuted=0.6
    )
    rows = [ByMethod("mlp", name, (0, 1, 2), 0.25, 0.9, 0.125, 0.375, 10.0, 0.5) for name in ("wm", "sinkhorn")]
    return [pair_table([pair]), merged_table([merged]), method_table(rows)]


def test_what_is_no_terminal_gets_the_full_width(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("COLUMNS", "20")
    for table in tables():
        show(table)
    assert "…" not in out.getvalue() and "→ 10.00 -20%" in out.getvalue()


def test_paragraphs_fit_and_lose_nothing() -> None:
    text = stacked(("model", "loss", "a long heading"), [["mlp", "1.5", "x" * 30], ["", "2.5", "y"]], 32)
    assert text.splitlines() == [
        "mlp",
        "  loss                    1.5",
        "  a long heading",
        "    " + "x" * 30,
        "  loss                    2.5",
        "  a long heading            y",
    ]

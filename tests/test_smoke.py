"""What each wheel is tried with works on the tree, and sees a core that was built without optimisation."""

from __future__ import annotations

import pytest

from lmc_fast import _native

from . import smoke


def test_what_wheels_are_tried_with_passes_here(capsys: pytest.CaptureFixture[str]) -> None:
    smoke.main()
    assert "all as it should be" in capsys.readouterr().out


def test_a_core_without_optimisation_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "build", lambda: ("GCC 1", False, "SSE2"))
    with pytest.raises(SystemExit, match="NOT OPTIMISED"):
        smoke.main()

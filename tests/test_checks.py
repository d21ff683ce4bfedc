"""What the checks say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmc_fast import _checks
from lmc_fast._extras import require
from lmc_fast._progress import tracking


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        ("x" * 100, "a str of length 102"),
        (np.zeros((2, 3)), r"a ndarray of shape (2, 3) and dtype float64"),
        (torch.zeros(4), r"a Tensor of shape (4,) and dtype torch.float32"),
        ([1], "a list"),
    ],
)
def test_describe(value: object, text: str) -> None:
    assert _checks.describe(value) == text


def test_whole_numbers() -> None:
    assert _checks.check_int("n", np.int32(4), 0) == 4
    with pytest.raises(TypeError, match="n must be a whole number of at least 0, got True"):
        _checks.check_int("n", True, 0)


def test_finite_numbers() -> None:
    assert _checks.check_finite("x", np.float32(0.5)) == 0.5
    with pytest.raises(ValueError, match="x must be a finite number, got inf"):
        _checks.check_finite("x", float("inf"))
    with pytest.raises(TypeError, match="x must be a finite number, got False"):
        _checks.check_finite("x", False)


def test_a_module_inside_an_extra_that_breaks_is_not_called_missing(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "brittle.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        require("brittle", "demo")
    with pytest.raises(ImportError, match=r"needs no_such_package, .* pip install .*\[demo\]'"):
        require("no_such_package.part", "demo")


def test_a_bar_is_drawn_and_goes_away(capsys: pytest.CaptureFixture[str]) -> None:
    with tracking(True, "work", 2) as advance:
        advance("one")
        advance("two")
    assert capsys.readouterr().out == ""

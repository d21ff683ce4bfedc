"""The command that compares methods runs, small, and its tables hold what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.run import main


@pytest.mark.slow
def test_every_table_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(400, dtype=np.uint8) % 3
    images = rng.integers(0, 60, (400, 8, 8), dtype=np.uint8) + 60 * labels[:, None, None]
    np.savez(tmp_path / "tiny.npz", images=images, labels=labels)
    small = ["--pairs", "1", "--epochs", "1", "--width", "9", "--channels", "2", "--cache", str(tmp_path / "cache")]
    assert main(["methods", "--data", str(tmp_path / "tiny.npz"), *small]) == 0
    printed = capsys.readouterr().out
    for title in ("pairs: tiny", "many: tiny", "projection: tiny", "repair: tiny"):
        assert title in printed
    for column in ("wm", "am", "ste", "ste_mm", "c2m3", "textbook", "repaired"):
        assert column in printed
    # Trained once, and kept.
    assert main(["methods", "--data", str(tmp_path / "tiny.npz"), "--tables", "pairs", *small]) == 0
    assert "training" not in capsys.readouterr().out


def test_bad_options_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "--pairs", "0"]) == 2
    assert capsys.readouterr().err == "benchmarks: --pairs must be 1 at least, got 0\n"
    assert main(["methods", "--data", "missing.npz"]) == 2

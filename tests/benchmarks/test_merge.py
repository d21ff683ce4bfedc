"""The benchmark of merging on disk, on a small pair."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import run


def test_a_planted_pair_is_recovered_and_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["merge", "--sizes", "1m", "--folder", str(tmp_path)]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["size", "seconds", "products", "ratio", "TFLOP/s", "own", "MiB", "groups"]
    size, _, _, ratio, *_, groups = row.split()
    assert (size, groups) == ("1m", "9/9")
    assert float(ratio) > 1
    assert list(tmp_path.iterdir()) == []

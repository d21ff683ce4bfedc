"""`turning` times matchings with rotations, and counts every polar factor that they take."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

import lmc_fast as lmc
from benchmarks import turning
from benchmarks.run import main
from lmc_fast.symmetry.kinds import orthogonal

SMALL = ["--layers", "1", "--width", "8", "--heads", "2", "--threads", "1", "--by", "weights"]


def test_rows_tell_times_and_shares(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        code = main(["turning", *SMALL, "--out", str(tmp_path)])
    finally:
        torch.set_num_threads(threads)
    (path,) = tmp_path.glob("turning*.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["pair"] for row in rows] == ["apart", "noisy"]
    for row in rows:
        solution = float(row["solution_seconds"])
        assert float(row["polar_share"]) == pytest.approx(float(row["polar_seconds"]) / solution, rel=1e-4)
        # By weights nothing is looked at first.
        assert solution == pytest.approx(float(row["seconds"]))
        assert 0 < float(row["polar_share"]) < 1
    assert code == int(any(row["status"] != "ok" for row in rows))


def test_heads_divide_the_width(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["turning", "--width", "8", "--heads", "3"]) == 2
    assert "--heads must divide --width" in capsys.readouterr().err


def test_polar_factors_are_counted_and_left_as_they_were() -> None:
    before = orthogonal.polar_factor
    with turning.polar_seconds() as taken:
        lmc.symmetry.kinds.KINDS["orthogonal"].best(torch.eye(3)[:, None, :, None])
    assert len(taken) == 1 and taken[0] > 0
    assert orthogonal.polar_factor is before


def test_what_models_show_is_no_part_of_the_solution() -> None:
    a, b, spec = turning.made((1, 8, 4, 32), 0.0)
    with turning.statistics_seconds() as taken, turning.polar_seconds() as polar:
        match = turning.matched("activations", a, b, spec)
    # The check of the spec, and the moments; of 4 x 4 pairs of heads twice the values, then twice what is chosen; the
    # stream.
    assert len(taken) == 2 and len(polar) == 5
    assert 0 < sum(polar) < match.seconds - sum(taken) < match.seconds


def test_the_spec_keeps_the_function() -> None:
    torch.manual_seed(0)
    model = turning.ViT(2, 8, 2, 11, inputs=5).eval()
    images = torch.randn(3, turning.PATCHES, 5)
    moved = lmc.Transforms.random(turning.vit_spec(model), 1).apply(model)
    assert torch.allclose(moved(images), model(images), atol=1e-5)
    a, b, _ = turning.made((2, 8, 2, 32), 0.0)
    images = torch.randn(3, turning.PATCHES, 48)
    assert torch.allclose(a(images), b(images), atol=1e-5)
    assert not torch.allclose(*(model(images) for model in turning.made((2, 8, 2, 32), None)[:2]), atol=1e-2)

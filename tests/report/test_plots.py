"""Figures show the numbers that they are given."""

from __future__ import annotations

import itertools

import matplotlib
import numpy as np
import pytest

import lmc_fast as lmc
from lmc_fast.report.plots import alignment_figure, barrier_figure


def curve(accuracy: bool = True) -> lmc.BarrierCurve:
    return lmc.BarrierCurve(
        lambdas=np.array([0.0, 0.5, 1.0]),
        loss=np.array([0.1, 2.0, 0.3]),
        accuracy=np.array([0.9, 0.2, 0.7]) if accuracy else None,
        batchnorm=None,
    )


def test_loss_and_accuracy_are_drawn_in_their_own_panels() -> None:
    backend = matplotlib.get_backend()
    figure = barrier_figure("title", {"not permuted": [curve(), curve()], "permuted": [curve()]})
    loss, accuracy = figure.axes
    assert [line.get_ydata().tolist() for line in loss.lines] == [[0.1, 2.0, 0.3]] * 3
    assert [line.get_ydata().tolist() for line in accuracy.lines] == [[90.0, 20.0, 70.0]] * 3
    assert "loss" in loss.get_ylabel() and "accuracy" in accuracy.get_ylabel()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["not permuted", "permuted"]
    assert matplotlib.get_backend() == backend


def test_without_accuracy_there_is_one_panel() -> None:
    assert len(barrier_figure("title", {"permuted": [curve(accuracy=False)]}).axes) == 1


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ValueError, match=r"curves must be labelled by some of .*, got 'mine'"):
        barrier_figure("title", {"mine": [curve()]})


def alignment(*r: float, gammas: tuple[float, ...] = (0.0, 0.3)) -> lmc.SpectralAlignment:
    layers = tuple(
        lmc.analysis.LayerAlignment(f"fc{i}.weight", (4, 4), (0.0,) * (len(gammas) - 1) + (value,), (4, 2), (4, 2))
        for i, value in enumerate(r)
    )
    return lmc.SpectralAlignment(gammas, layers, "svd")


def test_barriers_stand_beside_alignment_by_layer() -> None:
    figure = alignment_figure(
        "title",
        {"not permuted": [curve()], "permuted": [curve(), curve()]},
        {"not permuted": [alignment(0.0, 0.1)], "permuted": [alignment(0.4, 0.6), alignment(0.6, 0.8)]},
    )
    left, right = figure.axes
    assert [line.get_ydata().tolist() for line in left.lines] == [[0.1, 2.0, 0.3]] * 3
    assert [bar.get_width() for bar in right.patches] == pytest.approx([0.0, 0.1, 0.5, 0.7])
    assert [label.get_text() for label in right.get_yticklabels()] == ["fc0", "fc1"]
    assert "R(0.3)" in right.get_xlabel()


def test_bars_lie_beside_their_own_names_however_many_there_are() -> None:
    layers = tuple(
        lmc.analysis.spectral.LayerAlignment(
            f"layer{i}.block.conv_with_a_long_name.weight", (4, 4), (i / 54,), (4,), (4,)
        )
        for i in range(54)
    )
    many = lmc.SpectralAlignment((0.3,), layers, "svd")
    figure = alignment_figure("title", {}, {"not permuted": [many], "permuted": [many]})
    figure.canvas.draw()
    right = figure.axes[1]
    labels = right.get_yticklabels()
    # The first layer on top, no name over another one, and none outside of the figure.
    boxes = [label.get_window_extent() for label in labels]
    assert labels[0].get_text() == "layer0.block.conv_with_a_long_name"
    assert all(upper.y0 >= lower.y1 - 1 for upper, lower in itertools.pairwise(boxes))
    assert min(box.x0 for box in boxes) > figure.axes[0].get_window_extent().x1
    for place, label in enumerate(labels):
        bars = [bar for bar in right.patches if abs(bar.get_y() + bar.get_height() / 2 - place) < 0.5]
        assert [bar.get_width() for bar in bars] == pytest.approx([place / 54] * 2), label.get_text()


def test_alignments_must_have_the_threshold() -> None:
    with pytest.raises(ValueError, match=r"must have R at gamma 0\.3"):
        alignment_figure("t", {}, {"permuted": [alignment(0.1, gammas=(0.0, 0.5))]})
    with pytest.raises(ValueError, match="there must be one at least"):
        alignment_figure("t", {}, {})
    with pytest.raises(ValueError, match="got 'mine'"):
        alignment_figure("t", {}, {"mine": [alignment(0.1)]})

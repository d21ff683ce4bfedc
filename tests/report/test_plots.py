"""Figures show the numbers that they are given."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest

import lmc_fast as lmc
from lmc_fast.report.plots import barrier_figure


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

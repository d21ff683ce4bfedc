"""Results as plain data, as tables, in notebooks and as drawings: they show the numbers that they hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from torch import nn

import lmc_fast as lmc
from lmc_fast._results import plain

mpl.use("Agg")
import matplotlib.pyplot as plt


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))


BATCHES = [(torch.randn(12, 5, generator=torch.Generator().manual_seed(9)), torch.arange(12) % 3)]


@cache
def results() -> dict[str, Any]:
    a, b, c = net(0), net(1), net(2)
    match = lmc.weight_matching(a, b, lmc.architectures.mlp(a))
    return {
        "curve": lmc.loss_barrier(a, b, BATCHES, match, lambdas=5),
        "taylor": lmc.taylor_barrier(a, b, BATCHES, match, lambdas=5),
        "alignment": lmc.spectral_alignment(a, b, match),
        "distances": lmc.distance_decomposition(a, b, match),
        "inputs": lmc.input_alignment(a, BATCHES),
        "landscape": lmc.loss_landscape([a, b, c], BATCHES, points=4),
    }


NAMES = ("curve", "taylor", "alignment", "distances", "inputs", "landscape")


@pytest.fixture(autouse=True)
def no_figures() -> Any:
    yield
    plt.close("all")


@pytest.mark.parametrize("name", NAMES)
def test_results_are_plain_data_and_shown_in_notebooks(name: str) -> None:
    found = results()[name]
    data = json.loads(json.dumps(found.to_dict()))
    assert set(found.derived) < set(data)
    first = found.derived[0] if found.derived else None
    if first is not None:
        assert data[first] == pytest.approx(getattr(found, first))
    assert found._repr_html_().startswith("<pre>")


def test_what_stands_for_markup_is_escaped() -> None:
    assert "R(0.3)" in results()["alignment"]._repr_html_()
    assert plain({"a": np.float64(1.5), 2: torch.tensor([1, 2])}) == {"a": 1.5, "2": [1, 2]}


@pytest.mark.parametrize("name", NAMES)
def test_results_draw_themselves_on_axes_that_they_are_given_or_new_ones(name: str) -> None:
    found = results()[name]
    _, axes = plt.subplots()
    assert found.plot(axes) is axes
    assert axes.has_data()
    made = found.plot()
    assert made is not axes and made.get_xlabel()


def test_a_curve_shows_its_loss_and_the_line_between_its_ends() -> None:
    curve = results()["curve"]
    axes = curve.plot(label="mine")
    loss, chord = axes.lines
    assert loss.get_ydata().tolist() == curve.loss.tolist()
    assert list(chord.get_ydata()) == [curve.loss[0], curve.loss[-1]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["mine"]


def test_bars_are_as_long_as_r_is() -> None:
    found = results()["alignment"]
    axes = found.plot(gamma=0.0, label="permuted")
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([layer.r[0] for layer in found.layers])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "2", "4"]
    with pytest.raises(ValueError, match=r"gamma must be one of \(0\.0, 0\.3\), got 0\.5"):
        found.plot(gamma=0.5)


def test_tables_have_a_row_for_each_weight() -> None:
    rows = results()["alignment"].rows()
    assert len(rows) == 6 and {row["gamma"] for row in rows} == {0.0, 0.3}
    assert rows[1]["r"] == results()["alignment"].layers[0].r[1]
    rows = results()["distances"].rows()
    assert [row["weight"] for row in rows] == ["0.weight", "2.weight", "4.weight", "over all"]
    assert rows[-1]["after"] == results()["distances"].overall.after


def test_distances_are_drawn_before_and_after() -> None:
    found = results()["distances"]
    widths = [bar.get_width() for bar in found.plot().patches]
    assert widths == pytest.approx([row.before for row in found.layers] + [row.after for row in found.layers])


@pytest.mark.parametrize("draw", [lambda: results()["curve"].plot()], ids=["curve"])
def test_a_missing_matplotlib_names_its_extra(draw: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"matplotlib.*\[demo\]"):
        draw()

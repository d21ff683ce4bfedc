"""Matchings as plain data, as tables, in notebooks and as figures."""

from __future__ import annotations

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest

import lmc_fast as lmc
from benchmarks import models
from lmc_fast.large import MergeResult


@pytest.fixture(autouse=True)
def no_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def three() -> list[lmc.Permutations]:
    return [models.randomise(models.small_mlp(), seed) for seed in range(3)]


@pytest.fixture(scope="module")
def match(three) -> lmc.Matching:
    return lmc.weight_matching(three[0], three[1], lmc.architectures.mlp(three[0]))


@pytest.fixture(scope="module")
def many(three) -> lmc.ManyMatching:
    return lmc.match_many(three, lmc.architectures.mlp(three[0]))


def test_a_matching_is_plain_data(match: lmc.Matching) -> None:
    data = json.loads(json.dumps(match.to_dict()))
    assert data["l2_reduction"] == pytest.approx(match.l2_reduction)
    assert data["choice"] == {name: order.tolist() for name, order in match.permutations.items()}
    assert [row["objective"] for row in match.rows()] == [sweep.objective for sweep in match.history]
    assert [row["sweep"] for row in match.rows()] == list(range(1, len(match.history) + 1))


def test_several_are_plain_data(many: lmc.ManyMatching) -> None:
    data = json.loads(json.dumps(many.to_dict()))
    np.testing.assert_array_equal(data["l2_after"], many.l2_after)
    assert len(data["permutations"]) == 3


def test_notebooks_show_what_is_printed(match: lmc.Matching, many: lmc.ManyMatching, tmp_path) -> None:
    merged = MergeResult(tmp_path, (match,), (), {}, 1.5)
    for shown in (match, many, merged, match.choice.spec.explain()):
        html = shown._repr_html_()
        assert html.startswith("<pre>")
        assert str(shown).splitlines()[0].replace(">", "&gt;") in html


def test_a_matching_draws_its_objective(match: lmc.Matching) -> None:
    _, axes = plt.subplots()
    assert match.plot(axes, label="ours") is axes
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [sweep.objective for sweep in match.history])
    assert axes.get_legend().get_texts()[0].get_text() == "ours"
    assert match.plot().get_xlabel() == "sweep"


def test_several_draw_their_distances_before_and_after(many: lmc.ManyMatching) -> None:
    axes = many.plot(names=["x", "y", "z"])
    shown = {tuple(map(int, text.get_position())): text.get_text() for text in axes.texts}
    # Positions are (column, row).
    assert shown[2, 0] == f"{many.l2_before[0, 2]:.3g}"
    assert shown[0, 2] == f"{many.l2_after[2, 0]:.3g}"
    assert len(shown) == 6
    assert [label.get_text() for label in axes.get_xticklabels()] == ["x", "y", "z"]
    with pytest.raises(ValueError, match="names must be one for each of the 3 models"):
        many.plot(names=["x"])

"""Colours: told from their ground in both schemes, one for one method, and taken from the page by figures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lmc_fast.report.colours import LAYERS, PALETTE, Colour, colour_of, declared, themed
from lmc_fast.report.figures import Line, Panel, Series, intervals_figure, lines_figure, save_figure, svg_text
from lmc_fast.report.tables import Stat

SCHEMES = ("light", "dark")
BY_NAME = {colour.name: colour for colour in PALETTE}
TEXTS = ("ink", "soft", "yes", "no", "open", "link")
MARKS = [colour for colour in PALETTE if colour.name.startswith(("line-", "layer-"))]


def luminance(colour: str) -> float:
    """Relative, as WCAG 2.1 has it."""
    parts = (int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5))
    r, g, b = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_measured_as_the_standard_has_it() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", TEXTS)
def test_text_is_told_from_every_ground(name: str, scheme: str) -> None:
    for ground in ("paper", "shade"):
        assert contrast(getattr(BY_NAME[name], scheme), getattr(BY_NAME[ground], scheme)) >= 4.5


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("mark", MARKS, ids=lambda mark: mark.name)
def test_lines_are_told_from_the_page(mark: Colour, scheme: str) -> None:
    assert contrast(getattr(mark, scheme), getattr(BY_NAME["paper"], scheme)) >= 3.0


def test_names_and_light_colours_are_each_one_thing() -> None:
    assert len(BY_NAME) == len(PALETTE) == len({colour.light for colour in PALETTE})


def test_methods_have_colours_of_their_own() -> None:
    methods = ("none", "wm", "am", "ste", "ste_wm", "sinkhorn")
    assert len({colour_of(method) for method in methods}) == len(methods)
    assert colour_of("none") == colour_of("not permuted") == colour_of("nothing") == colour_of("as they are")
    assert colour_of("wm") == colour_of("permuted") == colour_of("b permuted")
    assert not {colour_of(method) for method in methods} & set(LAYERS)
    with pytest.raises(KeyError):
        colour_of("mine")


def test_an_element_takes_its_colours_from_the_page() -> None:
    assert themed("stroke: #1f5f99; fill: #123456") == "stroke: var(--line-blue, #1f5f99); fill: #123456"


def one_figure() -> str:
    stats = [Stat.of([0.1, 0.2]), Stat.of([0.5])]
    figure = intervals_figure(
        ["g\nlong", "h"], [Series("first", stats), Series("second", stats, colour_of("ste"))], "R"
    )
    return svg_text(figure, "one")


def test_no_colour_of_a_figure_stays_as_it_is_in_the_dark() -> None:
    few = [Line("few", [1, 2], [3, 4], [0.0, 0.5], colour=colour_of("am"))]
    many = [Line("many", range(50), range(50), colour=2)]
    for text in (one_figure(), svg_text(lines_figure([Panel("t", "x", "y", few), Panel("u", "x", "y", many)]), "two")):
        assert "var(--ink, " in text
        fixed = re.findall(r"(?:fill|stroke|color):\s*(#[0-9a-fA-F]{3,6}|white|black)", text)
        assert fixed == []


def test_points_say_what_they_are() -> None:
    titles = re.findall(r"<title>(.*?)</title>", one_figure())
    assert titles == [
        "g long, first: 0.150 ± 0.071",
        "h, first: 0.5",
        "g long, second: 0.150 ± 0.071",
        "h, second: 0.5",
    ]
    few = Line("a & b", [1, 2], [3.25, 4], [0.0, 0.5])
    titles = re.findall(r"<title>(.*?)</title>", svg_text(lines_figure([Panel("t", "x", "y", [few])]), "two"))
    assert titles == ["a &amp; b at 1: 3.25", "a &amp; b at 2: 4 ± 0.5"]


def test_a_long_line_says_its_name() -> None:
    text = svg_text(lines_figure([Panel("t", "x", "y", [Line("many", range(50), range(50))])]), "one")
    assert re.findall(r"<title>(.*?)</title>", text) == ["many"]


def test_a_file_brings_both_schemes_along(tmp_path: Path) -> None:
    figure = lines_figure([Panel("t", "x", "y", [Line("a", [1, 2], [3, 4])])])
    inside = save_figure(figure, tmp_path, "mine")
    text = (tmp_path / "mine.svg").read_text(encoding="utf-8")
    assert declared() in text and "background: var(--paper)" in text
    # The page has them itself.
    assert "<style>:root" not in inside and "prefers-color-scheme" not in inside
    assert text.replace(text[text.index("<style>:root") : text.index("</style>") + 8], "", 1) == inside


def test_groups_with_colours_share_markers() -> None:
    stats = [Stat.of([0.1, 0.2]), Stat.of([0.5, 0.4])]
    figure = intervals_figure(
        ["g", "h"], [Series("first", stats), Series("second", stats)], "R", [colour_of("wm"), colour_of("am")]
    )
    drawn = [line for line in figure.axes[0].lines if line.get_marker() in "os" and len(line.get_xdata())]
    shown = [line for line in drawn if line.get_alpha() != 0]
    assert [line.get_color() for line in shown] == [colour_of("wm"), colour_of("am")] * 2
    assert [line.get_marker() for line in shown] == ["o", "o", "s", "s"]
    assert [line.get_fillstyle() for line in shown] == ["full", "full", "none", "none"]

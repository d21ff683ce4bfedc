"""The page as a screen reader and a phone have it: order of headings, texts for pictures, headings of stacked cells."""

from __future__ import annotations

import itertools

from .test_page import Reader, text, wide

__all__ = ["text"]


def test_headings_come_in_order(text: str) -> None:
    levels = [int(tag[1]) for tag, _ in Reader(text).attributes if tag in {"h1", "h2", "h3", "h4", "h5", "h6"}]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_numbers_come_before_all_sections_and_are_explained(text: str) -> None:
    places = [text.index(part) for part in ("<h1>", 'class="summary"', "Words.", "<nav", "<main>")]
    assert places == sorted(places)
    assert "<b>1 → 0</b> <small>&lt;all&gt; gone</small>" in text
    # They and what is said of them leave room for no scrolling: nothing long stands before.
    assert places[1] - places[0] < 200


def test_links_carry_the_verdicts(text: str) -> None:
    nav = text[text.index("<nav") : text.index("</nav>")]
    assert '<a href="#claims">Claims</a> <span class="badge yes">MLP holds</span>' in nav
    assert 'badge open">ResNet is not settled here' in nav and 'badge no">ViT does not hold here' in nav


def test_a_quote_stands_beside_the_claim_with_its_source(text: str) -> None:
    beside = text[text.index('<div class="beside">') : text.index("</aside>")]
    assert "First &lt;b&gt;." in beside and "<cite>section 3</cite>" in beside and "MLP" in beside


def test_tables_are_tables_where_their_rows_stand_as_blocks(text: str) -> None:
    attributes = Reader(text).attributes
    boxes = [found for tag, found in attributes if tag == "div" and found.get("class") == "box"]
    assert len(boxes) == 2 and all(box["role"] == "region" and box["tabindex"] == "0" for box in boxes)
    cells = [found for tag, found in attributes if tag == "td" and found.get("role") == "cell"]
    assert [cell["data-head"] for cell in cells] == ["name", "value"] * 2 + list(wide().columns) * 2
    roles = {found.get("role") for tag, found in attributes if tag in {"table", "tr", "thead", "tbody", "th"}}
    assert {"table", "row", "rowgroup", "columnheader"} <= roles


def test_every_list_and_row_of_terms_is_whole(text: str) -> None:
    tags = [tag for tag, _ in Reader(text).attributes]
    assert tags.count("dt") == tags.count("dd") == 2

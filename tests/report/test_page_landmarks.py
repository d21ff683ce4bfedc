"""The report page by landmarks and tables: all text is in a landmark, and each of them has a name of its own."""

from __future__ import annotations

import re
from html import escape

from .test_page import Reader, text

__all__ = ["text"]


def test_numbers_and_what_they_mean_are_a_region_of_their_own(text: str) -> None:
    region = text[text.index('<section class="summary"') : text.index("<nav")]
    assert region.startswith('<section class="summary" aria-label="Before &amp; after">')
    assert "Words." in region and region.rstrip().endswith("</section>")


def test_quotes_have_names_of_their_own(text: str) -> None:
    labels = [found["aria-label"] for tag, found in Reader(text).attributes if tag == "aside"]
    assert labels and len(set(labels)) == len(labels)
    assert all(label is not None and label.startswith("The paper on: ") for label in labels)


def test_a_table_holds_rows_alone_and_bears_its_title(text: str) -> None:
    for table in re.findall(r'<table role="table".*?</table>', text, re.S):
        assert "<caption" not in table and "<a " not in table
    titles = [found["aria-label"] for tag, found in Reader(text).attributes if found.get("role") == "table"]
    boxes = [found["aria-label"] for _, found in Reader(text).attributes if found.get("class") == "box"]
    assert len(titles) == 2 and titles == boxes
    assert all(f'<p class="caption">{escape(title or "")}' in text for title in titles)

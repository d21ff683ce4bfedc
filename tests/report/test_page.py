"""The report page: whole in itself, every figure there, sound HTML; and, where there is one, a browser's view of it."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lmc_fast.report.figures import (
    Line,
    Panel,
    Series,
    intervals_figure,
    lines_figure,
    plane_figure,
    save_figure,
    svg_text,
)
from lmc_fast.report.page import Check, Picture, Quote, Section, Summary, page
from lmc_fast.report.tables import Stat, Table

VOID = {"meta", "link", "br", "img", "hr", "input"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Reader(HTMLParser):
    """Collects what a test asks for, and fails on tags that do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[tuple[str, str, str]] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                self.addresses.append((tag, name, value or ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag


def figures() -> dict[str, str]:
    stats = [Stat.of([0.1, 0.2]), Stat.of([0.5])]
    plane = {"x": [0.0, 1.0], "y": [0.0, 1.0], "loss": [[0.1, 1.0], [2.0, 3.0]], "positions": [[0, 0], [1, 0], [0, 1]]}
    drawn = {
        "one": intervals_figure(["g", "h"], [Series("a", stats), Series("b", stats)], "R"),
        "two": lines_figure([Panel("t", "x", "y", [Line("a", [1, 2], [3, 4]), Line("b", [1, 2], [3, 4], [0.1, 0.1])])]),
        "three": plane_figure([("WM", plane), ("STE", plane)], "abc"),
    }
    return {name: svg_text(figure, name) for name, figure in drawn.items()}


@pytest.fixture(scope="module")
def text() -> str:
    table = Table("numbers", "Numbers <all>", ("name", "value"), (("a & b", Stat.of([1.0, 2.0])), ("c", 3)))
    sections = [
        Section(
            "claims",
            "Claims",
            ("First <b>.",),
            checks=[
                Check("MLP", "holds", "yes", "p = 0.01", ["x > 1"]),
                Check("ResNet", "is not settled here", "open"),
                Check("ViT", "does not hold here", "no"),
            ],
            note="Why.",
            pictures=[
                Picture(f"figure-{name}", svg, f'Caption of "{name}"', [("SVG", f"figures/{name}.svg")])
                for name, svg in figures().items()
            ],
            tables=(table,),
            quote=Quote("It <says> so.", "section 3"),
            terms={"R": "how <far>"},
        ),
        Section("wide", "Wide", (), tables=[wide()]),
    ]
    summary = Summary("Before & after", ("barrier",), [("MLP", [("1 → 0", "<all> gone")])], "Words.")
    sources = (("Paper", "https://arxiv.org/abs/1"),)
    return page("Title & more", "Lead", sections, {"torch": "2.x <y>"}, sources, summary=summary, csv="tables")


def wide() -> Table:
    """As many columns as the widest of a report, of its widest cells."""
    heads = ("network", "changed", *(f"L2 distance, share removed {k}" for k in range(7)))
    row = ("ResNet", "learning rate", *(Stat.of([0.1234 + k, 0.1236 + k]) for k in range(7)))
    return Table("wide", "Wide", heads, (row, row))


def test_tags_close_in_order_and_ids_are_unique(text: str) -> None:
    reader = Reader(text)
    assert len(reader.ids) == len(set(reader.ids)) > 30
    assert {"html", "main", "nav", "h1", "h2", "footer"} <= set(reader.tags) and reader.tags.count("h1") == 1


def test_it_needs_no_network_and_no_scripts(text: str) -> None:
    reader = Reader(text)
    assert "script" not in reader.tags and "@import" not in text and not re.search(r"url\((?!#)", text)
    outside = [found for found in reader.addresses if not found[2].startswith(("#", "data:"))]
    files = [("a", "href", f"figures/{name}.svg") for name in ("one", "two", "three")]
    files += [("a", "href", f"tables/{name}.csv") for name in ("numbers", "wide")]
    assert sorted(outside) == sorted([*files, ("a", "href", "https://arxiv.org/abs/1")])


def test_links_inside_lead_somewhere(text: str) -> None:
    reader = Reader(text)
    inside = [address[1:] for _, _, address in reader.addresses if address.startswith("#")]
    inside += re.findall(r"url\(#([^)]+)\)", text)
    assert inside and set(inside) <= set(reader.ids)


def test_every_figure_is_there_and_says_what_it_is(text: str) -> None:
    found = [attributes for tag, attributes in Reader(text).attributes if tag == "svg"]
    assert [svg["aria-label"] for svg in found] == [f'Caption of "{name}"' for name in ("one", "two", "three")]
    assert all(svg["role"] == "img" and svg["viewbox"] for svg in found)
    assert text.count("<figcaption>") == 3


def test_it_is_readable_on_a_phone_and_said_to_be_english(text: str) -> None:
    assert '<html lang="en">' in text and 'name="viewport" content="width=device-width, initial-scale=1"' in text
    assert '<div class="box"' in text and "prefers-color-scheme: dark" in text


def test_text_is_escaped_and_verdicts_marked(text: str) -> None:
    assert "a &amp; b" in text and "Numbers &lt;all&gt;" in text and "First &lt;b&gt;." in text
    assert '<div class="verdict yes">MLP: <b>holds</b> (p = 0.01)<ul><li>x &gt; 1</li></ul>' in text
    assert '<div class="verdict open">ResNet: <b>is not settled here</b></div>' in text
    assert '<div class="verdict no">ViT: <b>does not hold here</b>' in text
    assert "It &lt;says&gt; so." in text and "how &lt;far&gt;" in text and "&lt;all&gt; gone" in text


def test_one_name_for_two_things_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'x' twice"):
        page("t", "l", [Section("x", "X", ("",)), Section("x", "Y", ("",))], {})


def test_figures_are_the_same_every_time_and_carry_no_date() -> None:
    first, again = figures(), figures()
    assert first == again
    assert not any("<metadata" in svg or "dc:date" in svg for svg in first.values())


def test_a_figure_is_written_as_svg_and_png(tmp_path: Path) -> None:
    svg = save_figure(intervals_figure(["g"], [Series("a", [Stat.of([1.0, 2.0])])], "R"), tmp_path, "mine")
    assert (tmp_path / "mine.svg").read_text().endswith(svg[svg.index(">") + 1 :]) and svg.startswith("<svg")
    assert (tmp_path / "mine.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [500, 1280])
def test_a_browser_shows_it_without_a_complaint(tmp_path: Path, text: str, width: int) -> None:
    file = tmp_path / "page.html"
    # The page itself has no scripts: this one, for the test alone, tells what is wider than a phone or not to be seen.
    probe = (
        "<script>addEventListener('load', () => { const w = document.documentElement.scrollWidth;"
        "const seen = [...document.querySelectorAll('figure svg')].map(s => s.getBoundingClientRect())"
        ".filter(r => r.width > 100 && r.height > 50 && r.right <= innerWidth).length;"
        "const cut = [...document.querySelectorAll('.box')].filter(b => b.scrollWidth > b.clientWidth).length;"
        "document.title = `wide=${w <= innerWidth} seen=${seen} cut=${cut}`; });</script></body>"
    )
    file.write_text(text.replace("</body>", probe), encoding="utf-8")
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0"]
    command += [f"--window-size={width},900"]
    done = subprocess.run(
        [*command, "--dump-dom", file.as_uri()], capture_output=True, text=True, check=False, timeout=120
    )
    assert "<title>wide=true seen=3 cut=0</title>" in done.stdout, done.stdout[:500]
    assert "CONSOLE" not in done.stderr

"""The report page: one HTML file that needs no network and no scripts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from .tables import Cell, Stat, Table

__all__ = ["Check", "Picture", "Section", "page"]

CSS = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #55595f; --line: #d9dce0; --paper: #fff; --shade: #f5f6f7;
  --yes: #1a6b3c; --no: #9c3412; --link: #1f5f99; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e7e9; --soft: #a9adb3; --line: #3a3e44; --paper: #16181b;
  --shade: #1f2226; --yes: #7fd1a0; --no: #f0a27f; --link: #8fc1f0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 46rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 1.0625rem/1.6 Charter, "Bitstream Charter", "Source Serif 4", Georgia, serif; overflow-wrap: break-word; }
h1, h2, h3, table, figcaption, .verdict, nav, footer { font-family: system-ui, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 3rem 0 .5rem; padding-top: 1rem; border-top: 1px solid var(--line); }
p { margin: .6rem 0; } a { color: var(--link); } .soft { color: var(--soft); }
.verdict { margin: .6rem 0; padding: .5rem .8rem; border-left: 4px solid var(--no); background: var(--shade);
  font-size: .94rem; }
.verdict.yes { border-color: var(--yes); } .verdict b { color: var(--no); } .verdict.yes b { color: var(--yes); }
.verdict ul { margin: .3rem 0 0; padding-left: 1.1rem; }
.box { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: .4rem; }
th, td { padding: .3rem .7rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
td.number { white-space: nowrap; text-align: right; }
figure { margin: 1.5rem 0; } figure svg { display: block; max-width: 100%; height: auto; background: #fff;
  border-radius: 4px; margin: 0 auto; }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; font-size: .92rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
"""


@dataclass(frozen=True)
class Picture:
    """An svg element (`svg_text`), and its caption, which is also what a screen reader says."""

    name: str
    svg: str
    caption: str


@dataclass(frozen=True)
class Check:
    """A verdict's line, whether it is a good one, and the comparisons behind it."""

    line: str
    holds: bool
    parts: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """One section of the page.

    Attributes:
        name: its id.
        title: its heading.
        paragraphs: plain text.
        checks, pictures, tables: shown in this order behind the first paragraph.
        note: plain text behind the checks.
    """

    name: str
    title: str
    paragraphs: Sequence[str]
    checks: Sequence[Check] = ()
    note: str = ""
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = field(default=())


def page(
    title: str,
    lead: str,
    sections: Sequence[Section],
    environment: Mapping[str, str],
    sources: Sequence[tuple[str, str]] = (),
) -> str:
    """The page as text.

    Args:
        title: its heading.
        lead: a paragraph below it; plain text, as everything here but the pictures is.
        sections: in order.
        environment: what it was run on, by name.
        sources: (citation, address) of what the page rests on: its only links that lead elsewhere.

    Raises:
        ValueError: two sections, pictures or tables of one name.
    """
    names = [s.name for s in sections] + [p.name for s in sections for p in s.pictures]
    names += [f"table-{t.name}" for s in sections for t in s.tables]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"sections, pictures and tables must have names of their own, got {name!r} twice")
    links = " · ".join(f'<a href="#{escape(s.name)}">{escape(s.title)}</a>' for s in sections)
    body = [
        f"<header><h1>{escape(title)}</h1>",
        f"<p>{escape(lead)}</p></header>",
        f'<nav aria-label="Sections"><p>{links}</p></nav>',
        "<main>",
        *(_section(section) for section in sections),
        "</main>",
        "<footer>",
        '<h2 id="environment">Environment</h2><dl>',
        *(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in environment.items()),
        "</dl>",
        _sources(sources),
        "</footer>",
    ]
    head = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # No icon: browsers would ask a server for one.
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
    )
    return head + "\n".join(body) + "\n</body>\n</html>\n"


def _section(section: Section) -> str:
    first, *others = [f"<p>{escape(text)}</p>" for text in section.paragraphs] or [""]
    return "\n".join(
        [
            f'<section aria-labelledby="{escape(section.name)}">',
            f'<h2 id="{escape(section.name)}">{escape(section.title)}</h2>',
            first,
            *(_check(check) for check in section.checks),
            f'<p class="soft">{escape(section.note)}</p>' if section.note else "",
            *others,
            *(_picture(picture) for picture in section.pictures),
            *(_table(table) for table in section.tables),
            "</section>",
        ]
    )


def _check(check: Check) -> str:
    parts = "".join(f"<li>{escape(part)}</li>" for part in check.parts)
    line = re.sub(r"(holds|does not hold here)", r"<b>\1</b>", escape(check.line), count=1)
    return f'<div class="verdict{" yes" if check.holds else ""}">{line}{f"<ul>{parts}</ul>" if parts else ""}</div>'


def _picture(picture: Picture) -> str:
    label = f'<svg role="img" aria-label="{escape(picture.caption)}" '
    return (
        f'<figure id="{escape(picture.name)}">{picture.svg.replace("<svg ", label, 1)}'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    heads = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    rows = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in table.rows)
    # Scrolls in itself, by keyboard too.
    return (
        f'<div class="box" id="table-{escape(table.name)}" tabindex="0" role="region" '
        f'aria-label="{escape(table.title)}"><table><caption>{escape(table.title)}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return f"<td>{escape(cell)}</td>"
    if not isinstance(cell, Stat):
        return f'<td class="number">{cell:g}</td>'
    spread = "" if cell.n == 1 else f' title="standard deviation {cell.deviation:.3g}, n = {cell.n}"'
    return f'<td class="number"{spread}>{escape(str(cell))}</td>'


def _sources(sources: Sequence[tuple[str, str]]) -> str:
    if not sources:
        return ""
    entries = "".join(f'<li><a href="{escape(address)}">{escape(text)}</a></li>' for text, address in sources)
    return f'<h2 id="sources">Sources</h2><ul>{entries}</ul>'

"""The report page: one HTML file that needs no network and no scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from .colours import declared
from .tables import Cell, Stat, Table

__all__ = ["Check", "Picture", "Quote", "Section", "Summary", "page"]

CSS = (
    declared()
    + """
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 1.0625rem/1.6 Charter, "Bitstream Charter", "Source Serif 4", Georgia, serif; overflow-wrap: break-word; }
h1, h2, table, figcaption, .caption, .verdict, nav, footer, aside {
  font-family: system-ui, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 3rem 0 .5rem; padding-top: 1rem; border-top: 1px solid var(--line); }
p, .verdict, ol, dl { max-width: 46rem; }
p { margin: .6rem 0; } a { color: var(--link); } .soft { color: var(--soft); }
.lead { font-size: 1rem; line-height: 1.5; }
.summary table { font-size: 1rem; width: auto; } .summary td, .summary th { padding: .45rem 2.2rem .45rem 0; }
.summary b { font-size: 1.2rem; white-space: nowrap; font-weight: 650; }
.summary small { display: block; color: var(--soft); font-size: .82rem; }
nav ol { list-style: none; padding: 0; font-size: .94rem; } nav li { padding: .15rem 0; }
.badge { white-space: nowrap; font-size: .86rem; color: var(--no); } .badge.yes { color: var(--yes); }
.badge.open { color: var(--open); }
.verdict { margin: .6rem 0; padding: .5rem .8rem; border-left: 4px solid var(--no); background: var(--shade);
  font-size: .94rem; } .verdict b { color: var(--no); }
.verdict.yes { border-color: var(--yes); } .verdict.yes b { color: var(--yes); }
.verdict.open { border-color: var(--open); } .verdict.open b { color: var(--open); }
.verdict ul { margin: .3rem 0 0; padding-left: 1.1rem; }
aside { max-width: 46rem; margin: .8rem 0; padding: .1rem 0 .1rem .8rem; border-left: 4px solid var(--line);
  font-size: .9rem; line-height: 1.5; color: var(--soft); } aside p { margin: .2rem 0; }
cite { font-style: normal; font-weight: 600; }
@media (min-width: 68rem) { .beside { display: grid; grid-template-columns: 46rem minmax(0, 1fr); column-gap: 2rem; }
  .beside aside { margin-top: .6rem; align-self: start; } }
.box { overflow-x: auto; margin: 1.2rem 0;
  background: linear-gradient(to right, var(--paper) 30%, transparent) 0 0 / 2rem 100% no-repeat local,
    linear-gradient(to left, var(--paper) 30%, transparent) 100% 0 / 2rem 100% no-repeat local,
    linear-gradient(to right, var(--soft), transparent) 0 0 / .5rem 100% no-repeat scroll,
    linear-gradient(to left, var(--soft), transparent) 100% 0 / .5rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
caption, .caption { text-align: left; font-weight: 600; padding-bottom: .4rem; }
.caption { position: sticky; left: 0; margin: 0; font-size: .86rem; max-width: none; }
.caption a { font-weight: 400; margin-left: .6rem; }
th, td { padding: .3rem 1rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
figure { margin: 1.5rem 0; max-width: 38rem; } figure svg { display: block; width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .5rem; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .2rem 1rem; font-size: .92rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 44rem) {
  h1 { font-size: 1.45rem; } .lead { font-size: .94rem; line-height: 1.4; }
  .summary table, .summary caption, .summary thead, .summary tbody { display: block; }
  .summary tr { display: grid; grid-template-columns: repeat(3, 1fr); border-bottom: 1px solid var(--line); }
  .summary td, .summary th { padding: .2rem .4rem .2rem 0; border: 0; font-size: .84rem; }
  .summary b { font-size: .92rem; } .summary thead th:first-child { display: none; }
  .summary tbody th { grid-column: 1 / -1; padding-bottom: 0; }
  dl { display: block; } dd { margin: 0 0 .5rem; }
  .box table, .box tbody, .box tr, .box td { display: block; }
  .box thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .box tr { padding: .5rem 0; border-bottom: 1px solid var(--line); }
  .box td { display: flex; justify-content: space-between; gap: 1rem; padding: .1rem 0; border: 0; text-align: right; }
  .box td::before { content: attr(data-head); color: var(--soft); text-align: left; }
  .box td:empty { display: none; }
}
"""
)


@dataclass(frozen=True)
class Picture:
    """An svg element (`svg_text`), and its caption, which is also what a screen reader says.

    `files` are (text, address) of what it can be had as.
    """

    name: str
    svg: str
    caption: str
    files: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Check:
    """A verdict.

    Attributes:
        of: what it is about, in a word.
        word: what it comes to, "holds" say.
        state: "yes", "no" or "open".
        detail: how surely, in brackets.
        parts: the comparisons behind it.
    """

    of: str
    word: str
    state: str
    detail: str = ""
    parts: Sequence[str] = ()


@dataclass(frozen=True)
class Quote:
    """What a source says, and where."""

    text: str
    where: str


@dataclass(frozen=True)
class Summary:
    """The numbers that come first.

    Attributes:
        title: what they are.
        heads: of the columns behind the first.
        rows: a name, and (number, note) for each of them.
        note: what the words in it mean.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[tuple[str, Sequence[tuple[str, str]]]]
    note: str


@dataclass(frozen=True)
class Section:
    """One section of the page.

    Attributes:
        name: its id.
        title: its heading.
        paragraphs: plain text.
        checks, pictures, tables: shown in this order behind the first paragraph; the checks beside the links, too.
        note: plain text behind the checks.
        quote: beside the first paragraph and the checks.
        terms: words and what they mean, behind the paragraphs.
    """

    name: str
    title: str
    paragraphs: Sequence[str]
    checks: Sequence[Check] = ()
    note: str = ""
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = field(default=())
    quote: Quote | None = None
    terms: Mapping[str, str] = field(default_factory=dict)


def page(
    title: str,
    lead: str,
    sections: Sequence[Section],
    environment: Mapping[str, str],
    sources: Sequence[tuple[str, str]] = (),
    *,
    summary: Summary | None = None,
    csv: str | None = None,
) -> str:
    """The page as text.

    Args:
        title: its heading.
        lead: a paragraph below it; plain text, as everything here but the pictures is.
        sections: in order.
        environment: what it was run on, by name.
        sources: (citation, address) of what the page rests on: its only links that lead elsewhere.
        summary: what stands above all sections.
        csv: the folder beside the page where each table lies as ``name.csv``; None: it lies nowhere.

    Raises:
        ValueError: two sections, pictures or tables of one name.
    """
    names = [s.name for s in sections] + [p.name for s in sections for p in s.pictures]
    names += [f"table-{t.name}" for s in sections for t in s.tables]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"sections, pictures and tables must have names of their own, got {name!r} twice")
    body = [
        f"<header><h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(lead)}</p></header>',
        "" if summary is None else _summary(summary),
        '<nav aria-label="Sections"><ol>',
        *(_link(section) for section in sections),
        "</ol></nav>",
        "<main>",
        *(_section(section, csv) for section in sections),
        "</main>",
        "<footer>",
        '<h2 id="environment">Environment</h2>',
        _terms(environment),
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


def _summary(summary: Summary) -> str:
    heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in ("network", *summary.heads))
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td><b>{escape(number)}</b> <small>{escape(note)}</small></td>" for number, note in cells)
        + "</tr>"
        for name, cells in summary.rows
    )
    return (
        f'<section class="summary" aria-label="{escape(summary.title)}">'
        f"<table><caption>{escape(summary.title)}</caption><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        f'<p class="soft lead">{escape(summary.note)}</p></section>'
    )


def _link(section: Section) -> str:
    badges = "".join(
        f' <span class="badge {check.state}">{escape(check.of)} {escape(check.word)}</span>' for check in section.checks
    )
    return f'<li><a href="#{escape(section.name)}">{escape(section.title)}</a>{badges}</li>'


def _section(section: Section, csv: str | None) -> str:
    first, *others = [f"<p>{escape(text)}</p>" for text in section.paragraphs] or [""]
    claim = "\n".join(
        [
            first,
            *(_check(check) for check in section.checks),
            f'<p class="soft">{escape(section.note)}</p>' if section.note else "",
        ]
    )
    if section.quote is not None:
        quote = f"<p><cite>{escape(section.quote.where)}</cite></p><p>{escape(section.quote.text)}</p>"
        label = f"The paper on: {escape(section.title)}"
        claim = f'<div class="beside"><div>{claim}</div><aside aria-label="{label}">{quote}</aside></div>'
    return "\n".join(
        [
            f'<section aria-labelledby="{escape(section.name)}">',
            f'<h2 id="{escape(section.name)}">{escape(section.title)}</h2>',
            claim,
            *others,
            _terms(section.terms) if section.terms else "",
            *(_picture(picture) for picture in section.pictures),
            *(_table(table, csv) for table in section.tables),
            "</section>",
        ]
    )


def _terms(terms: Mapping[str, str]) -> str:
    entries = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in terms.items())
    return f"<dl>{entries}</dl>"


def _check(check: Check) -> str:
    parts = "".join(f"<li>{escape(part)}</li>" for part in check.parts)
    detail = f" ({escape(check.detail)})" if check.detail else ""
    line = f"{escape(check.of)}: <b>{escape(check.word)}</b>{detail}"
    return f'<div class="verdict {check.state}">{line}{f"<ul>{parts}</ul>" if parts else ""}</div>'


def _picture(picture: Picture) -> str:
    label = f'<svg role="img" aria-label="{escape(picture.caption)}" '
    files = " · ".join(f'<a href="{escape(address)}">{escape(text)}</a>' for text, address in picture.files)
    return (
        f'<figure id="{escape(picture.name)}">{picture.svg.replace("<svg ", label, 1)}'
        f"<figcaption>{escape(picture.caption)} {files}</figcaption></figure>"
    )


def _table(table: Table, csv: str | None) -> str:
    link = "" if csv is None else f'<a href="{escape(csv)}/{escape(table.name)}.csv">CSV</a>'
    heads = "".join(f'<th scope="col" role="columnheader">{escape(column)}</th>' for column in table.columns)
    rows = "".join(
        f'<tr role="row">{"".join(_cell(head, cell) for head, cell in zip(table.columns, row, strict=True))}</tr>'
        for row in table.rows
    )
    # Scrolls in itself, by keyboard too; on a phone, where rows stand as blocks, roles keep it a table.
    # A table with a role may hold rows alone: its title, with a link in it, stands in front.
    title = f'aria-label="{escape(table.title)}"'
    return (
        f'<div class="box" id="table-{escape(table.name)}" tabindex="0" role="region" {title}>'
        f'<p class="caption">{escape(table.title)}{link}</p><table role="table" {title}>'
        f'<thead role="rowgroup"><tr role="row">{heads}</tr></thead><tbody role="rowgroup">{rows}</tbody></table></div>'
    )


def _cell(head: str, cell: Cell) -> str:
    about = f' role="cell" data-head="{escape(head)}"'
    if isinstance(cell, str):
        return f"<td{about}>{escape(cell)}</td>"
    if not isinstance(cell, Stat):
        return f'<td class="number"{about}>{cell:g}</td>'
    spread = "" if cell.n == 1 else f' title="mean ± standard deviation, {cell.n} trials"'
    return f'<td class="number"{about}{spread}>{escape(str(cell))}</td>'


def _sources(sources: Sequence[tuple[str, str]]) -> str:
    if not sources:
        return ""
    entries = "".join(f'<li><a href="{escape(address)}">{escape(text)}</a></li>' for text, address in sources)
    return f'<h2 id="sources">Sources</h2><ul>{entries}</ul>'

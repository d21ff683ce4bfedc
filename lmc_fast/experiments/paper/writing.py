"""The report of a run: tables and figures as files, and the page that holds them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ...report.figures import save_figure
from ...report.page import Check, Picture, Quote, Section, Summary, page
from ...report.tables import Stat, Table
from .claims import BEYOND, CLAIMS, Claim, judge
from .figures import Drawn, figures_of, transformer_figures
from .results import Results, Trials
from .store import ResultsFolder
from .tables import tables_of, transformer_tables, verdict_table
from .verdicts import LEVEL, Verdict

__all__ = ["write_report"]

SOURCES = (
    (
        "Ito, Yamada, Kumagai: Analysis of Linear Mode Connectivity via Permutation-Based Weight Matching (ICLR 2025)",
        "https://arxiv.org/abs/2402.04051",
    ),
    ("Ainsworth, Hayase, Srinivasa: Git Re-Basin (ICLR 2023)", "https://arxiv.org/abs/2209.04836"),
    ("Pena et al.: Re-basin via implicit Sinkhorn differentiation (CVPR 2023)", "https://arxiv.org/abs/2212.12042"),
    ("Jordan et al.: REPAIR (ICLR 2023)", "https://arxiv.org/abs/2211.08403"),
    (
        "Theus et al.: Generalized Linear Mode Connectivity for Transformers (NeurIPS 2025)",
        "https://arxiv.org/abs/2506.22712",
    ),
)
WORDS = {
    "barrier": "how far the test loss on the line between two models rises at most above the line between their losses",
    "WM": "weight matching: the permutations that bring the weights of b nearest to those of a",
    "AM": "activation matching: the permutations that put together units which fire together on data",
    "STE": "straight-through estimation: permutations learned by the loss half-way between a and b",
    "Sinkhorn": "permutations relaxed to doubly stochastic matrices, learned, and rounded",
    "R(g)": "how far the singular vectors of two models coincide, over singular values of at least g times the largest "
    "of their weight: 1 where they are the same, about 0 where they are unrelated",
    "Taylor estimate": "the barrier that second-order expansions of the loss around both models foretell",
    "a, b, c": "three models that differ in their seeds alone; b and c are laid over a",
    "±": "one standard deviation over independent trials, in every table and figure",
}


def write_report(
    store: ResultsFolder, results: Results, about: dict[str, str]
) -> tuple[dict[int, list[Verdict]], list[Table]]:
    """Write ``report.html``, ``claims.json``, ``tables/`` and ``figures/``.

    Args:
        store: the folder.
        results: all that was measured.
        about: what it was measured on.

    Returns:
        The verdicts by number of the claim, and all tables.
    """
    verdicts = judge(results)
    tables: dict[int, list[Table]] = tables_of(results)
    figures: dict[int, list[Drawn]] = figures_of(results)
    claims: tuple[Claim, ...] = CLAIMS
    if results.transformers is not None:
        gammas = results.settings.gammas
        claims = (*CLAIMS, BEYOND)
        tables[BEYOND.number] = transformer_tables(results.transformers, gammas)
        figures[BEYOND.number] = transformer_figures(results.transformers, gammas[-1])
    comparisons = verdict_table(verdicts)
    for inside in ("tables", "figures"):
        (store.path / inside).mkdir(exist_ok=True)
    written = [comparisons, *(table for group in tables.values() for table in group)]
    for table in written:
        store.write(f"tables/{table.name}.csv", table.csv())
    sections = [
        _section(claim, verdicts[claim.number], results, _pictures(store, figures.get(claim.number, ())), tables)
        for claim in claims
    ]
    sections.append(Section("words", "Words", (), terms=WORDS))
    sections.append(
        Section(
            "comparisons",
            "Every comparison",
            (
                "A part of a claim passes where a mean beyond its threshold by so much would come about by chance in "
                f"less than {100 * LEVEL:g} % of all cases (Student's t-test of one sample, on one side). A claim "
                "holds where every part passes; it is not settled where every mean is on its side and some by too "
                "little for so few trials.",
            ),
            tables=[comparisons],
        )
    )
    about = {**about, "seconds of all stages": f"{results.seconds:.0f}"}
    text = page(
        "Why weight matching works",
        _lead(results),
        sections,
        about,
        SOURCES,
        summary=_summary(results),
        csv="tables",
    )
    store.write("report.html", text)
    store.write("claims.json", json.dumps(_plain(verdicts), indent=1) + "\n")
    return verdicts, written


def _lead(results: Results) -> str:
    counts = ", ".join(_count(trials, "triple") for trials in results.networks)
    if results.transformers is not None:
        counts += f", {_count(results.transformers, 'pair')}"
    return (
        f"Networks trained apart on {results.data}, and what laying one over another does: {counts}. Numbers are means "
        "± one standard deviation; verdicts are by Student's t."
    )


def _count(trials: Trials, what: str) -> str:
    n = len(trials.trials)
    return f"{n} {what if n == 1 else what + 's'} of {trials.name}"


def _summary(results: Results) -> Summary:
    gamma = results.settings.gammas[-1]
    rows = []
    for trials in results.networks:
        methods = [trial["methods"] for trial in trials.trials]
        rows.append(
            (
                f"{trials.name}, weight matching",
                _before_and_after(
                    [(m["none"]["barrier"], m["wm"]["barrier"]) for m in methods],
                    [(m["wm"]["l2"][0], m["wm"]["l2"][1]) for m in methods],
                    [(m["none"]["r"]["overall"][-1], m["wm"]["r"]["overall"][-1]) for m in methods],
                ),
            )
        )
    if results.transformers is not None:
        pairs = [(trial["ways"]["nothing"], trial["ways"]["learned"]) for trial in results.transformers.trials]
        numbers = ([(a["barrier"], b["barrier"]) for a, b in pairs], [(a["distance"], b["distance"]) for a, b in pairs])
        r = [(a["r"][-1], b["r"][-1]) for a, b in pairs]
        rows.append((f"{results.transformers.name}, learned rotations", _before_and_after(*numbers, r)))
    return Summary(
        "Before and after",
        ("loss barrier", "L2 distance", f"R({gamma:g})"),
        rows,
        "Barrier: how far the test loss rises between two models. Distance: of all their weights. "
        f"R({gamma:g}): how far their singular vectors coincide, from 0 (unrelated) to 1 (the same), over singular "
        f"values of at least {gamma:g} times the largest.",
    )


Pairs = Sequence[tuple[float, float]]


def _before_and_after(barriers: Pairs, distances: Pairs, r: Pairs) -> list[tuple[str, str]]:
    """Means of what was before and after, and what that comes to."""

    def means(pairs: Pairs) -> tuple[float, float]:
        before, after = zip(*pairs, strict=True)
        return Stat.of(before).mean, Stat.of(after).mean

    barrier, distance, aligned = means(barriers), means(distances), means(r)
    gone, shorter = 1 - barrier[1] / barrier[0], 1 - distance[1] / distance[0]
    return [
        (f"{barrier[0]:.2f} → {_short(barrier[1])}", f"{100 * gone:.0f} % gone" if gone >= 0 else "larger"),
        (f"{distance[0]:.1f} → {distance[1]:.1f}", f"{100 * shorter:.0f} % shorter" if shorter >= 0 else "longer"),
        (f"{aligned[0]:.2f} → {aligned[1]:.2f}", "of 1"),
    ]


def _short(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


def _pictures(store: ResultsFolder, figures: Sequence[Drawn]) -> list[Picture]:
    pictures = []
    for drawn in figures:
        svg = save_figure(drawn.figure, store.path / "figures", drawn.name)
        files = [(kind.upper(), f"figures/{drawn.name}.{kind}") for kind in ("svg", "png")]
        pictures.append(Picture(f"figure-{drawn.name}", svg, drawn.caption, files))
    return pictures


def _section(
    claim: Claim, verdicts: Sequence[Verdict], results: Results, pictures: list[Picture], tables: dict[int, list[Table]]
) -> Section:
    why = "" if all(verdict.holds for verdict in verdicts) else claim.why
    return Section(
        name=f"claim-{claim.number}",
        title=f"{claim.number}. {claim.title}",
        paragraphs=(claim.statement,),
        checks=[
            Check(verdict.network, verdict.word, verdict.state, verdict.detail, [str(part) for part in verdict.parts])
            for verdict in verdicts
        ],
        note=" ".join(filter(None, (why, claim.remark(results)))),
        pictures=pictures,
        tables=tables.get(claim.number, ()),
        quote=Quote(claim.paper, claim.where),
    )


def _plain(verdicts: dict[int, list[Verdict]]) -> list[dict[str, Any]]:
    return [
        {
            "claim": number,
            "network": verdict.network,
            "state": verdict.state,
            "holds": verdict.holds,
            "line": verdict.line,
            "parts": [str(part) for part in verdict.parts],
        }
        for number, found in verdicts.items()
        for verdict in found
    ]

"""`lmc-fast paper`: every stage, then tables, figures, verdicts and the page."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..._extras import require
from ..._progress import Progress
from ...report.figures import save_figure
from ...report.page import Check, Picture, Section, page
from ...report.tables import Table
from ..datasets import load_dataset
from ..processes import one_thread, side_by_side
from .claims import CLAIMS, Verdict, judge
from .environment import environment
from .figures import figures_of
from .results import Results, Trials
from .settings import Settings
from .stages import Hook, Stage, Workshop, work
from .store import ResultsFolder
from .tables import tables_of, verdict_table

__all__ = ["PaperResult", "run_paper"]

SOURCES = (
    (
        "Ito, Yamada, Kumagai: Analysis of Linear Mode Connectivity via Permutation-Based Weight Matching (ICLR 2025)",
        "https://arxiv.org/abs/2402.04051",
    ),
    ("Ainsworth, Hayase, Srinivasa: Git Re-Basin (ICLR 2023)", "https://arxiv.org/abs/2209.04836"),
    ("Pena et al.: Re-basin via implicit Sinkhorn differentiation (CVPR 2023)", "https://arxiv.org/abs/2212.12042"),
    ("Jordan et al.: REPAIR (ICLR 2023)", "https://arxiv.org/abs/2211.08403"),
)
# Called with a stage and all stages that are not done, it included: a list that they leave as they are done, this one
# just before its context ends. Gives the progress hooks for its work. Where several processes work, several are open.
Watcher = Callable[[Stage, Sequence[Stage]], AbstractContextManager[Hook]]


@dataclass(frozen=True, eq=False)
class PaperResult:
    """What a run found and where it wrote it.

    Attributes:
        folder: results; `page` is in it.
        verdicts: by number of the claim, one for each network.
        tables: all that were written.
        seconds: of all stages, earlier runs' in this folder included.
    """

    folder: Path
    verdicts: dict[int, list[Verdict]]
    tables: list[Table]
    seconds: float

    @property
    def page(self) -> Path:
        """The report page."""
        return self.folder / "report.html"


def run_paper(
    folder: Path,
    settings: Settings,
    *,
    data: str | Path = "digits",
    cache: Path | None = None,
    processes: int = 1,
    watch: Watcher = lambda stage, left: nullcontext(lambda work: False),
    say: Callable[[str], None] = lambda note: None,
) -> PaperResult:
    """Train, measure and judge; write ``report.html``, ``tables/*.csv``, ``figures/*.svg`` and ``.png``.

    Every stage leaves a file in ``stages/``, and every model one in the cache: a run that was interrupted goes on where
    it was, with the same settings in the same folder. The models are small: a stage works on one thread.

    Args:
        folder: for the results: new, or of an earlier run with these settings.
        settings: what to run.
        data: for `load_dataset`.
        cache: folder of trained models; None: ``models/`` in `folder`.
        processes: how many stages are worked on side by side; the numbers are the same for any number.
        watch: shows progress.
        say: told what was found damaged and is done again.

    Raises:
        FileNotFoundError: no such data, or no folder to put the results in.
        FileExistsError: `folder` holds other things, or results of other settings.
        ImportError: an optional package is missing; the message names the extra.
    """
    for module, extra in (("matplotlib", "demo"), ("safetensors", "cli")):
        require(module, extra)
    images = load_dataset(data)
    folder = Path(folder)
    store = ResultsFolder(folder, {**settings.described(), "data": [images.name, images.fingerprint]}, say)
    models = (folder / "models" if cache is None else cache).absolute()
    workshop = Workshop(settings, images, models)
    done: dict[str, dict[str, Any]] = {}
    for name in workshop.stages:
        content = store.read(name)
        if content is not None:
            done[name] = content
    _work(workshop, store, done, processes, watch, say)
    results = _collect(settings, images.name, done)
    with one_thread():
        return _write(store, results, environment(settings, images))


def _work(
    workshop: Workshop,
    store: ResultsFolder,
    done: dict[str, dict[str, Any]],
    processes: int,
    watch: Watcher,
    say: Callable[[str], None],
) -> None:
    """Do all stages that are not in `done`, and keep what they leave there and in the store."""
    todo = [stage for name, stage in workshop.stages.items() if name not in done]
    left = list(todo)
    watched: dict[int, ExitStack] = {}
    hooks: dict[int, Hook] = {}
    steps: dict[int, Progress] = {}

    def begin(place: int) -> None:
        watched[place] = ExitStack()
        hooks[place] = watched[place].enter_context(watch(todo[place], left))

    def hear(place: int, message: tuple[str, Any]) -> None:
        kind, what = message
        if kind == "note":
            say(what)
        elif kind == "work":
            steps[place] = hooks[place](what)
        else:
            hook = steps[place]
            if callable(hook):
                hook(*what)

    def leave(*error: Any) -> None:
        for stack in watched.values():
            stack.__exit__(*error)

    with ExitStack() as stack:
        # What was begun and is not done sees the error that ends it.
        stack.push(leave)
        names = [stage.name for stage in todo]
        worked = side_by_side(work, workshop, names, processes=processes, begin=begin, hear=hear)
        stack.callback(worked.close)
        for place, (numbers, seconds) in worked:
            done[names[place]] = store.keep(names[place], numbers, seconds)
            left.remove(todo[place])
            watched.pop(place).close()


def _collect(settings: Settings, data: str, done: dict[str, dict[str, Any]]) -> Results:
    networks = [
        Trials(
            network.name,
            [done[f"{network.name.lower()}-{trial}"]["numbers"] for trial in range(network.trials)],
            ("none", *network.methods),
        )
        for network in settings.networks
    ]
    sweeps: dict[str, dict[float, Sequence[dict[str, Any]]]] = {
        sweep.name: {
            value: [done[f"{sweep.name}-{value:g}-{trial}"]["numbers"] for trial in range(sweep.trials)]
            for value in sweep.values
        }
        for sweep in settings.sweeps
    }
    return Results(settings, data, networks, sweeps, sum(content["seconds"] for content in done.values()))


def _write(store: ResultsFolder, results: Results, about: dict[str, str]) -> PaperResult:
    verdicts = judge(results)
    tables, figures = tables_of(results), figures_of(results)
    summary = verdict_table(verdicts)
    for inside in ("tables", "figures"):
        (store.path / inside).mkdir(exist_ok=True)
    written = [summary, *(table for group in tables.values() for table in group)]
    for table in written:
        store.write(f"tables/{table.name}.csv", table.csv())
    sections = [_summary(verdicts)]
    for claim in CLAIMS:
        found = verdicts[claim.number]
        pictures = [
            Picture(
                f"figure-{drawn.name}", save_figure(drawn.figure, store.path / "figures", drawn.name), drawn.caption
            )
            for drawn in figures.get(claim.number, ())
        ]
        why = "" if all(verdict.holds for verdict in found) else claim.why
        sections.append(
            Section(
                name=f"claim-{claim.number}",
                title=f"{claim.number}. {claim.title}",
                paragraphs=(claim.statement,),
                checks=[Check(verdict.line, verdict.holds, [str(part) for part in verdict.parts]) for verdict in found],
                note=" ".join(filter(None, (why, claim.remark(results)))),
                pictures=pictures,
                tables=tables.get(claim.number, ()),
            )
        )
    about = {**about, "seconds of all stages": f"{results.seconds:.0f}"}
    counts = ", ".join(f"{len(trials.trials)} triples of {trials.name}" for trials in results.networks)
    lead = (
        f"What permutations of hidden units do to networks trained apart on {results.data}: {counts}, every trial from "
        "seeds of its own. Values are means with one standard error; a claim holds where each of its comparisons "
        "passes its threshold by more than two standard errors."
    )
    store.write("report.html", page("Why weight matching works", lead, sections, about, SOURCES))
    store.write("claims.json", json.dumps(_plain(verdicts), indent=1) + "\n")
    return PaperResult(store.path, verdicts, written, results.seconds)


def _summary(verdicts: dict[int, list[Verdict]]) -> Section:
    titles = {claim.number: claim.title for claim in CLAIMS}
    checks = [
        Check(f"{number}. {titles[number]} — {verdict.line}", verdict.holds)
        for number, found in verdicts.items()
        for verdict in found
    ]
    return Section(
        "verdicts",
        "Verdicts",
        ("Each computed from the numbers below; every comparison is in tables/claims.csv.",),
        checks,
    )


def _plain(verdicts: dict[int, list[Verdict]]) -> list[dict[str, Any]]:
    return [
        {
            "claim": number,
            "network": verdict.network,
            "holds": verdict.holds,
            "line": verdict.line,
            "parts": [str(part) for part in verdict.parts],
        }
        for number, found in verdicts.items()
        for verdict in found
    ]

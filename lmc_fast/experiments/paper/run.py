"""`lmc-fast paper`: every stage, then tables, figures, verdicts and the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..._extras import require
from ..._progress import Progress
from ...report.tables import Table
from ..datasets import load_dataset
from ..processes import one_thread, side_by_side
from .environment import environment
from .results import Results, Trials
from .settings import Settings
from .stages import Hook, Stage, Workshop, work
from .store import ResultsFolder
from .transformers import check_images
from .verdicts import Verdict
from .writing import write_report

__all__ = ["PaperResult", "run_paper"]

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
        ValueError: data that cannot be read, or that are not for transformers where these are asked for.
        ImportError: an optional package is missing; the message names the extra.
    """
    for module, extra in (("matplotlib", "demo"), ("scipy", "demo"), ("safetensors", "cli")):
        require(module, extra)
    images = load_dataset(data).thinned(settings.examples, settings.test_examples)
    if settings.transformers is not None:
        check_images(settings.transformers, images)
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
        verdicts, tables = write_report(store, results, environment(settings, images))
    return PaperResult(store.path, verdicts, tables, results.seconds)


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
        sweep.key: {
            value: [done[f"{sweep.key}-{value:g}-{trial}"]["numbers"] for trial in range(sweep.trials)]
            for value in sweep.values
        }
        for sweep in settings.sweeps
    }
    part = settings.transformers
    pairs = None
    if part is not None:
        pairs = Trials("ViT", [done[f"vit-{pair}"]["numbers"] for pair in range(part.pairs)], part.ways)
    return Results(settings, data, networks, sweeps, sum(content["seconds"] for content in done.values()), pairs)

"""The command line: `lmc-fast demo`, `align`, `merge`, `paper` and `analyze`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ._files import next_free_name
from ._signals import stop_of, tell
from ._terminal import make_readable, width_of
from ._version import __version__
from .large_commands import register

if TYPE_CHECKING:
    from torch import Tensor

    from .experiments.demo import DemoResult
    from .symmetry import PermutationSpec

__all__ = ["cli"]


@contextmanager
def _one_line_errors(if_stopped: str = "") -> Iterator[None]:
    """Turn what bad input raises into one line on stderr and exit code 2, and a signal to stop into another.

    Args:
        if_stopped: what is said in addition where the command was stopped.
    """
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        click.echo(f"lmc-fast: {_line(error)}", err=True)
        sys.exit(2)
    except KeyboardInterrupt as error:
        sys.exit(tell(stop_of(error), if_stopped))


def _line(error: Exception) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.filename!r}: {error.strerror}"
    return " ".join(text.split())


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lmc-fast")
def cli() -> None:
    """Lay trained networks over each other by permuting hidden units, and merge them."""
    make_readable(sys.stdout, sys.stderr)


@cli.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the results; must not exist.  [default: lmc-fast-demo, or the next free name]",
)
@click.option("--models", type=click.IntRange(2), default=3, show_default=True, help="Models of each kind.")
@click.option(
    "--methods",
    default="wm,am,ste",
    show_default=True,
    help="What to compare, of wm (weights), am (activations), ste (straight-through) and sinkhorn.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the first model.")
@click.option("--quick", is_flag=True, help="Narrow models, few epochs: a look in seconds.")
def demo(out: Path | None, models: int, methods: str, seed: int, quick: bool) -> None:
    """Train networks on handwritten digits from different seeds, match and merge them, show what it did.

    Prints tables; writes the barrier plots (PNG), results.json, the specs and the models (safetensors).
    """
    with _one_line_errors():
        from .experiments.demo import run_demo, standard_cases
        from .experiments.processes import cores

        names = [name.strip() for name in methods.split(",")]
        folder = next_free_name(Path("lmc-fast-demo")) if out is None else out
        with _Stages() as stages:
            result = run_demo(
                folder,
                cases=standard_cases(quick),
                models=models,
                seed=seed,
                methods=names,
                # Quick models are trained before another process has begun.
                processes=1 if quick else cores(),
                stage=stages.begin,
            )
        from .experiments.demo_tables import merged_table, method_table, pair_table, show

        show(pair_table(result.pairs))
        show(merged_table(result.merged))
        show(method_table(result.methods))
        where = click.format_filename(result.folder)
        click.echo(f"{result.seconds:.0f} s; plots, numbers and models are in {where}/")
        click.echo(f"Next: {_align_line(result)}")


@cli.command()
@click.option("--data", default="digits", show_default=True, help="digits, a folder of MNIST or CIFAR-10, or .npz.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("lmc-fast-paper"),
    show_default=True,
    help="Folder for the results; one of an earlier run with the same settings goes on.",
)
@click.option("--cache", type=click.Path(path_type=Path), help="Folder of trained models.  [default: OUT/models]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the first model.")
@click.option("--quick", is_flag=True, help="Fewer and narrower models: under three minutes on two cores.")
@click.option("--processes", type=click.IntRange(1), help="How many work side by side.  [default: one a core]")
def paper(data: str, out: Path, cache: Path | None, seed: int, quick: bool, processes: int | None) -> None:
    """Measure every claim of the paper on models trained here, and write a report page.

    Writes report.html, tables as CSV and figures as SVG and PNG. What is done is kept: after an interruption the same
    command goes on where it was.
    """
    with _one_line_errors(if_stopped="; the same command goes on from here"):
        from .experiments.paper import quick_settings, run_paper, standard_settings
        from .experiments.paper.terminal import Watch
        from .experiments.processes import cores

        settings = quick_settings(seed) if quick else standard_settings(seed)
        with Watch() as watch:
            result = run_paper(
                out,
                settings,
                data=data,
                cache=cache,
                processes=processes or cores(),
                watch=watch.stage,
                say=watch.say,
            )
        for number, verdicts in result.verdicts.items():
            for verdict in verdicts:
                click.echo(f"claim {number}, {verdict.line}")
        click.echo(f"{result.seconds:.0f} s; the report is {click.format_filename(result.page)}")


@cli.command()
@click.argument("model_a", metavar="A", type=click.Path(path_type=Path))
@click.argument("model_b", metavar="B", type=click.Path(path_type=Path))
@click.option("--match", "match_path", type=click.Path(path_type=Path), help="A saved matching for B (safetensors).")
@click.option("--spec", "spec_path", type=click.Path(path_type=Path), help="A spec (JSON): match B by weights first.")
@click.option("--gamma", type=click.FloatRange(0, 1), default=0.3, show_default=True, help="Threshold of R, beside 0.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for tables and figures; must not exist.")
@click.option("--key", help="Where in a torch file its state dict is (model, or state.model), if that is not clear.")
def analyze(
    model_a: Path,
    model_b: Path,
    match_path: Path | None,
    spec_path: Path | None,
    gamma: float,
    out: Path | None,
    key: str | None,
) -> None:
    """Compare singular values and vectors of checkpoints A and B, layer by layer.

    With a matching or a spec also after permuting B. Prints the table; --out writes it with the spectra and figures.
    """
    with _one_line_errors():
        from .experiments.analyze import analyze_checkpoints

        analysis = analyze_checkpoints(
            model_a, model_b, match=match_path, spec=spec_path, gamma=gamma, out=out, key=key
        )
        click.echo(analysis.text(width_of(sys.stdout)))
        if analysis.folder is not None:
            click.echo(f"wrote {click.format_filename(analysis.folder)}/")


@cli.command()
@click.argument("model_a", metavar="A", type=click.Path(path_type=Path))
@click.argument("model_b", metavar="B", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Safetensors file for the aligned B.")
@click.option("--spec", "spec_path", required=True, type=click.Path(path_type=Path), help="Permutation spec (JSON).")
@click.option("--init", type=click.Choice(["anchored", "identity", "random"]), default="anchored", show_default=True)
@click.option("--max-sweeps", type=click.IntRange(1), default=100, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--device", help="Where gain matrices are computed, as torch names it.  [default: cpu]")
@click.option("--force", is_flag=True, help="Replace the output file if it exists.")
@click.option("--key", help="Where in a torch file its state dict is (model, or state.model), if that is not clear.")
def align(
    model_a: Path,
    model_b: Path,
    out: Path,
    spec_path: Path,
    init: str,
    max_sweeps: int,
    seed: int,
    device: str | None,
    force: bool,
    key: str | None,
) -> None:
    """Permute the hidden units of checkpoint B to lie over those of checkpoint A.

    A and B are safetensors files, or torch files that hold tensors only. The aligned model can be averaged with A. It
    computes the same function as B if the spec is right, which files cannot show: nothing is verified here. Check a
    spec with lmc_fast.verify_spec(model, spec, example_inputs) in Python.
    """
    with _one_line_errors():
        from ._safetensors import check_storable
        from .checkpoints import save_checkpoint
        from .checkpoints.aligned import aligned_tensors, matched_part
        from .checkpoints.files import check_writable, left_out_note, read_checkpoint
        from .matching import weight_matching
        from .symmetry import PermutationSpec

        check_writable(out, overwrite=force, flag="--force")
        spec = PermutationSpec.from_json(spec_path)
        file_a, file_b = read_checkpoint(model_a, key=key), read_checkpoint(model_b, key=key)
        # Before the work: what b's file has and the new one cannot hold.
        check_storable(repr(str(model_b)), file_b.tensors)
        part = matched_part(spec, file_a.tensors, file_b.tensors)
        with _Stages() as stages, _naming_the_spec(spec_path, part.spec, part.tensors_a):
            match = weight_matching(
                part.tensors_a,
                part.tensors_b,
                part.spec,
                init=init,
                max_sweeps=max_sweeps,
                seed=seed,
                device=device,
                progress=stages.begin("align", "match"),
            )
        metadata = {
            **file_b.metadata,
            "lmc_fast.version": __version__,
            "lmc_fast.method": match.method,
            "lmc_fast.l2_before": repr(match.l2_before),
            "lmc_fast.l2_after": repr(match.l2_after),
        }
        tensors = aligned_tensors(file_b, match.apply(part.tensors_b))
        save_checkpoint(out, tensors, metadata=metadata, overwrite=force)
        click.echo(str(match))
        click.echo(f"wrote {click.format_filename(out)}")
        if file_b.left_out:
            click.echo(f"lmc-fast: {left_out_note(model_b, file_b.left_out)}", err=True)


register(cli, _one_line_errors)


@contextmanager
def _naming_the_spec(path: Path, spec: PermutationSpec, tensors: dict[str, Tensor]) -> Iterator[None]:
    """Have an error that is the spec's name its file."""
    try:
        yield
    except ValueError as error:
        try:
            spec.bind(tensors)
        except ValueError as of_spec:
            if str(of_spec) == str(error):
                raise ValueError(f"spec {str(path)!r}: {error}") from None
        raise


class _Stages:
    """One progress bar a piece of work, on stderr; finished ones go away."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            # Lines of a log file are no place for a bar.
            disable=not sys.stderr.isatty(),
        )

    def __enter__(self) -> _Stages:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, case: str, work: str) -> Callable[[str, int, int], None]:
        """A hook that shows one piece of work."""
        for task in self._bar.task_ids:
            self._bar.remove_task(task)
        task = self._bar.add_task(f"{case}: {work}", total=None)

        def hook(description: str, done: int, total: int) -> None:
            self._bar.update(task, completed=done, total=total or None, description=f"{case}: {work}: {description}")

        return hook


def _align_line(result: DemoResult) -> str:
    """The command that does on the written files what the demo did in memory."""
    pair, folder = result.pairs[0], result.folder
    models = [str(folder / f"{pair.model}_seed{seed}.safetensors") for seed in pair.seeds]
    spec = str(folder / f"{pair.model}_spec.json")
    return shlex.join(["lmc-fast", "align", *models, "--spec", spec, "-o", "aligned.safetensors"])

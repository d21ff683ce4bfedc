"""`lmc-fast paper`."""

from __future__ import annotations

from pathlib import Path

import click

from .shared import one_line_errors

__all__ = ["paper"]


@click.command()
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
@click.option(
    "--quick",
    is_flag=True,
    help="Fewer and narrower models of 5,000 images at most: under three minutes on two cores.",
)
@click.option("--transformers", is_flag=True, help="A part on vision transformers and rotations as well: minutes more.")
@click.option("--processes", type=click.IntRange(1), help="How many work side by side.  [default: one a core]")
def paper(
    data: str, out: Path, cache: Path | None, seed: int, quick: bool, transformers: bool, processes: int | None
) -> None:
    """Measure every claim of the paper on models trained here, and write a report page.

    Writes report.html, tables as CSV and figures as SVG and PNG. What is done is kept: after an interruption the same
    command goes on where it was.
    """
    with one_line_errors(if_stopped="; the same command goes on from here"):
        from ..experiments.paper import quick_settings, run_paper, standard_settings
        from ..experiments.paper.terminal import Watch
        from ..experiments.processes import cores

        settings = quick_settings(seed, transformers) if quick else standard_settings(seed, transformers)
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

"""`lmc-fast demo`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .._files import next_free_name
from .shared import Stages, one_line_errors

if TYPE_CHECKING:
    from ..experiments.demo import DemoResult

__all__ = ["demo"]


@click.command()
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
    help="What to compare, of wm (weights), am (activations), ste (straight-through), sinkhorn, cosine (weights by "
    "their directions) and fisher (weights by Fisher information).",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the first model.")
@click.option("--quick", is_flag=True, help="Narrow models, few epochs: a look in seconds.")
@click.option("--transformers", is_flag=True, help="Two vision transformers, and what turning them does: a minute.")
def demo(out: Path | None, models: int, methods: str, seed: int, quick: bool, transformers: bool) -> None:
    """Train networks on handwritten digits from different seeds, match and merge them, show what it did.

    Prints tables; writes the barrier plots (PNG), results.json, the specs and the models (safetensors).

    With --transformers there are two models, and --models and --methods say nothing.
    """
    if transformers:
        _transformers(out, seed, quick)
        return
    with one_line_errors():
        from ..experiments.demo import run_demo, standard_cases
        from ..experiments.processes import cores

        names = [name.strip() for name in methods.split(",")]
        folder = next_free_name(Path("lmc-fast-demo")) if out is None else out
        with Stages() as stages:
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
        from ..experiments.demo_tables import merged_table, method_table, pair_table, show

        show(pair_table(result.pairs))
        show(merged_table(result.merged))
        show(method_table(result.methods))
        where = click.format_filename(result.folder)
        click.echo(f"{result.seconds:.0f} s; plots, numbers and models are in {where}/")
        click.echo(f"Next: {_align_line(result)}")


def _transformers(out: Path | None, seed: int, quick: bool) -> None:
    with one_line_errors():
        from dataclasses import replace

        from ..experiments.demo_transformers import RECIPE, run_transformers
        from ..experiments.processes import cores

        folder = next_free_name(Path("lmc-fast-demo")) if out is None else out
        recipe = replace(RECIPE, width=16, layers=1, passes=1) if quick else RECIPE
        with Stages() as stages:
            result = run_transformers(
                folder,
                recipe=recipe,
                seed=seed,
                steps=10 if quick else 300,
                processes=1 if quick else cores(),
                stage=stages.begin,
            )
        from ..experiments.demo_tables import show, ways_table

        show(ways_table(result))
        click.echo(f"{result.seconds:.0f} s; plot, numbers and models are in {click.format_filename(result.folder)}/")


def _align_line(result: DemoResult) -> str:
    """The command that does on the written files what the demo did in memory."""
    pair, folder = result.pairs[0], result.folder
    models = [str(folder / f"{pair.model}_seed{seed}.safetensors") for seed in pair.seeds]
    spec = str(folder / f"{pair.model}_spec.json")
    return shlex.join(["lmc-fast", "align", *models, "--spec", spec, "-o", "aligned.safetensors"])

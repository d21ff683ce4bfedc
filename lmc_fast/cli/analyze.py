"""`lmc-fast analyze`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .._terminal import width_of
from .shared import one_line_errors

__all__ = ["analyze"]


@click.command()
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
    with one_line_errors():
        from ..experiments.analyze import analyze_checkpoints

        analysis = analyze_checkpoints(
            model_a, model_b, match=match_path, spec=spec_path, gamma=gamma, out=out, key=key
        )
        click.echo(analysis.text(width_of(sys.stdout)))
        if analysis.folder is not None:
            click.echo(f"wrote {click.format_filename(analysis.folder)}/")

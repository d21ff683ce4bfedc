"""`lmc-fast verify`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .merge import PATH
from .shared import one_line_errors

__all__ = ["verify"]


@click.command()
@click.argument("aligned", metavar="OUT", type=PATH)
@click.option("--against", "original", required=True, metavar="B", type=PATH, help="The model that OUT was made of.")
@click.option("--inputs", type=click.IntRange(1), default=3, show_default=True, help="Random inputs to try.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--trust-remote-code", is_flag=True, help="Run code that lies in OUT to build its module.")
def verify(aligned: Path, original: Path, inputs: int, seed: int, trust_remote_code: bool) -> None:
    """Run an aligned model directory (merge --align-only) and its original on random inputs, and compare outputs.

    Exit code 1 where they differ by more than rounding.
    """
    with one_line_errors():
        from ..large.verify import verify_aligned

        found = verify_aligned(aligned, original, inputs=inputs, seed=seed, trust_remote_code=trust_remote_code)
        click.echo(str(found))
    sys.exit(0 if found.holds else 1)

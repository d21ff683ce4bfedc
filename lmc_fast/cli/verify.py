"""`lmc-fast verify`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .models import given_model, model_options
from .shared import one_line_errors

__all__ = ["verify"]


@click.command()
@click.argument("model", metavar="MODEL")
@click.option("--spec", "spec_path", required=True, type=click.Path(path_type=Path), help="Permutation spec (JSON).")
@model_options
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the weights and permutations.")
def verify(
    model: str,
    spec_path: Path,
    given: tuple[str, ...],
    architecture: str | None,
    trust_remote_code: bool,
    seed: int,
) -> None:
    """Try a spec on MODEL: whether every group may be permuted without changing what it computes.

    MODEL is a model directory or what can be imported and called, as for inspect. Weights are drawn at random. Exit
    code 0: the spec holds; 1: a group changes the outputs, and is named; 2: it could not be tried.
    """
    with one_line_errors():
        from ..symmetry import PermutationSpec, SymmetryError, verify_spec

        spec = PermutationSpec.from_json(spec_path)
        found = given_model(model, given, architecture, trust_remote_code)
        module, why_not = found.with_weights()
        if module is None:
            raise ValueError(why_not)
        try:
            verify_spec(module, spec, found.inputs, seed=seed)
        except SymmetryError as error:
            click.echo(f"lmc-fast: {' '.join(str(error).split())}", err=True)
            sys.exit(1)
        click.echo(f"{found.told}\n{spec.verified}")

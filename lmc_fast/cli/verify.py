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
@click.option("--spec", "spec_path", type=click.Path(path_type=Path), help="Permutation spec (JSON) to try.")
@click.option("--against", metavar="B", type=click.Path(path_type=Path), help="The directory that MODEL was made of.")
@model_options
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all that is drawn.")
def verify(
    model: str,
    spec_path: Path | None,
    against: Path | None,
    given: tuple[str, ...],
    architecture: str | None,
    trust_remote_code: bool,
    seed: int,
) -> None:
    """Try a spec on MODEL: whether every group may be permuted without changing what it computes.

    MODEL is a model directory or what can be imported and called, as for inspect. Weights are drawn at random. With
    --against in place of --spec, MODEL is the directory of an aligned model (merge --align-only): its outputs are
    compared with those of B on random inputs, the weights of one layer at a time in memory. Exit code 0: the spec, or
    the function, holds; 1: it does not; 2: it could not be tried.
    """
    with one_line_errors():
        if (spec_path is None) == (against is None):
            raise ValueError("verify takes one of --spec and --against")
        if against is not None:
            _verify_against(model, against, seed, trust_remote_code)
        elif spec_path is not None:
            _verify_spec(model, spec_path, given, architecture, trust_remote_code, seed)


def _verify_against(model: str, against: Path, seed: int, trust_remote_code: bool) -> None:
    from ..large.verify import verify_aligned

    found = verify_aligned(model, against, seed=seed, trust_remote_code=trust_remote_code)
    click.echo(str(found))
    if not found.holds:
        sys.exit(1)


def _verify_spec(
    model: str, spec_path: Path, given: tuple[str, ...], architecture: str | None, trust_remote_code: bool, seed: int
) -> None:
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

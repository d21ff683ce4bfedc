"""`lmc-fast inspect`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .models import given_model, model_options
from .shared import one_line_errors

if TYPE_CHECKING:
    from ..symmetry import PermutationSpec

__all__ = ["inspect"]


@click.command()
@click.argument("model", metavar="MODEL")
@model_options
@click.option(
    "--spec", "spec_path", type=click.Path(path_type=Path), help="A spec (JSON) to explain, in place of one derived."
)
@click.option("--no-verify", is_flag=True, help="Leave out the trial of every group on the model.")
@click.option("--rotations", is_flag=True, help="Tell what may turn as well, with the norms that are folded for it.")
@click.option("--no-strict", is_flag=True, help="Leave weights as they are that code uses which cannot be traced.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the spec (JSON) to this file.")
@click.option("--force", is_flag=True, help="Replace the output file if it exists.")
def inspect(
    model: str,
    given: tuple[str, ...],
    architecture: str | None,
    trust_remote_code: bool,
    spec_path: Path | None,
    no_verify: bool,
    rotations: bool,
    no_strict: bool,
    as_json: bool,
    out: Path | None,
    force: bool,
) -> None:
    """Tell which units of MODEL may be permuted, or turn (--rotations), and of the rest which operation holds it.

    MODEL is a model directory (config.json), what can be imported and called (torchvision.models:resnet18), or, with
    --spec, a file of weights. Of a directory nothing is run but the library's own code, and nothing is downloaded.
    """
    with one_line_errors():
        from .._files import check_writable

        if out is not None:
            check_writable(out, overwrite=force, flag="--force", ending=".json")
        if spec_path is not None:
            told, spec = _of_file(model, given, architecture, trust_remote_code, spec_path)
        else:
            told, spec = _derived(
                model,
                given,
                architecture,
                trust_remote_code,
                verify=not no_verify,
                strict=not no_strict,
                rotations=rotations,
            )
        explanation = spec.explain()
        if out is not None:
            spec.to_json(out)
        verified = None if spec.verified is None else str(spec.verified)
        if as_json:
            click.echo(json.dumps({"model": told, **explanation.to_dict(), "verified": verified}, indent=1))
            return
        click.echo(told)
        click.echo(str(explanation))
        click.echo(verified or "not verified")
        if out is not None:
            click.echo(f"wrote {click.format_filename(out)}")


def _derived(
    model: str,
    given: tuple[str, ...],
    architecture: str | None,
    trust_remote_code: bool,
    *,
    verify: bool,
    strict: bool,
    rotations: bool,
) -> tuple[str, PermutationSpec]:
    from ..symmetry import derive_spec

    found = given_model(model, given, architecture, trust_remote_code)
    module, why_not = found.with_weights() if verify else (found.module, "")
    module = found.module if module is None else module
    spec = derive_spec(module, found.inputs, strict=strict, verify=verify, rotations=rotations)
    if why_not and spec.origin is not None:
        spec = spec.with_origin(replace(spec.origin, notes=(*spec.origin.notes, why_not)))
    return found.told, spec


def _of_file(
    model: str, given: tuple[str, ...], architecture: str | None, trust_remote_code: bool, spec_path: Path
) -> tuple[str, PermutationSpec]:
    """A spec that there is, bound to a file of weights or to a model."""
    from ..checkpoints.files import read_checkpoint
    from ..symmetry import PermutationSpec

    spec = PermutationSpec.from_json(spec_path)
    if Path(model).is_file():
        tensors = read_checkpoint(model).tensors
        bound, told = spec.bind(tensors), f"{model}: {len(tensors)} tensors"
    else:
        found = given_model(model, given, architecture, trust_remote_code)
        bound, told = spec.bind(found.module), found.told
    return told, bound

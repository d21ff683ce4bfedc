"""`lmc-fast align`."""

from __future__ import annotations

from pathlib import Path

import click

from .._version import __version__
from .shared import Stages, naming_the_spec, one_line_errors

__all__ = ["align"]


@click.command()
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
    with one_line_errors():
        from .._safetensors import check_storable
        from ..checkpoints import save_checkpoint
        from ..checkpoints.aligned import aligned_tensors, matched_part
        from ..checkpoints.files import check_writable, left_out_note, read_checkpoint
        from ..matching import weight_matching
        from ..symmetry import PermutationSpec

        check_writable(out, overwrite=force, flag="--force")
        spec = PermutationSpec.from_json(spec_path)
        file_a, file_b = read_checkpoint(model_a, key=key), read_checkpoint(model_b, key=key)
        # Before the work: what b's file has and the new one cannot hold.
        check_storable(repr(str(model_b)), file_b.tensors)
        part = matched_part(spec, file_a.tensors, file_b.tensors)
        with Stages() as stages, naming_the_spec(spec_path, part.spec, part.tensors_a):
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

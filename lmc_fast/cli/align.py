"""`lmc-fast align`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .._version import __version__
from .data import batches_of
from .models import imported_module
from .shared import Stages, naming_the_spec, one_line_errors

if TYPE_CHECKING:
    from torch import nn

    from ..checkpoints.aligned import MatchedPart
    from ..matching import Matching

__all__ = ["align"]

# Options that only one of the methods takes, by what click calls them.
OF_WEIGHTS = {"init": "--init", "search": "--search", "restarts": "--restarts", "freeze": "--freeze"}
OF_WEIGHTS |= {"max_sweeps": "--max-sweeps", "seed": "--seed"}
OF_ACTIVATIONS = {"model": "--model", "data": "--data", "batch_size": "--batch-size"}


@click.command()
@click.argument("model_a", metavar="A", type=click.Path(path_type=Path))
@click.argument("model_b", metavar="B", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Safetensors file for the aligned B.")
@click.option("--spec", "spec_path", required=True, type=click.Path(path_type=Path), help="Permutation spec (JSON).")
@click.option(
    "--method", type=click.Choice(["wm", "am"]), default="wm", show_default=True, help="By weights or by activations."
)
@click.option("--init", type=click.Choice(["anchored", "identity", "random"]), default="anchored", show_default=True)
@click.option(
    "--search",
    type=click.Choice(["spectral", "coordinate_descent", "frank_wolfe", "leading"]),
    default="spectral",
    show_default=True,
)
@click.option(
    "--restarts", type=click.IntRange(1), default=1, show_default=True, help="Searches; later ones start at random."
)
@click.option("--freeze", multiple=True, metavar="GROUP", help="A group that stays as --init has it; again for more.")
@click.option("--max-sweeps", type=click.IntRange(1), default=100, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--model",
    metavar="MODULE:CALLABLE",
    help="For am: what makes the module that the weights of A and B go into; the current folder can be imported from.",
)
@click.option(
    "--data",
    help="For am: digits, image files as paper takes them (their training part), a safetensors file of inputs by the "
    "names of forward's arguments, or MODULE:CALLABLE that gives batches.",
)
@click.option(
    "--batch-size", type=click.IntRange(1), default=256, show_default=True, help="For am: examples that run at a time."
)
@click.option("--device", help="Where gain matrices are computed, as torch names it.  [default: cpu]")
@click.option("--force", is_flag=True, help="Replace the output file if it exists.")
@click.option("--key", help="Where in a torch file its state dict is (model, or state.model), if that is not clear.")
def align(
    model_a: Path, model_b: Path, out: Path, spec_path: Path, method: str, force: bool, key: str | None, **options: Any
) -> None:
    """Permute the hidden units of checkpoint B to lie over those of checkpoint A.

    A and B are safetensors files, or torch files that hold tensors only. The aligned model can be averaged with A. It
    computes the same function as B if the spec is right, which files cannot show: with --method wm nothing is verified
    here. Check a spec with lmc_fast.verify_spec(model, spec, example_inputs) in Python. With --method am the spec is
    tried on --model and the first of --data before.
    """
    with one_line_errors():
        from .._safetensors import check_storable
        from ..checkpoints import save_checkpoint
        from ..checkpoints.aligned import aligned_tensors, matched_part
        from ..checkpoints.files import check_writable, left_out_note, read_checkpoint
        from ..symmetry import PermutationSpec

        _check_options(method, options)
        check_writable(out, overwrite=force, flag="--force")
        spec = PermutationSpec.from_json(spec_path)
        module = imported_module(options["model"]) if method == "am" else None
        batches = batches_of(options["data"], options["batch_size"]) if method == "am" else ()
        file_a, file_b = read_checkpoint(model_a, key=key), read_checkpoint(model_b, key=key)
        # Before the work: what b's file has and the new one cannot hold.
        check_storable(repr(str(model_b)), file_b.tensors)
        part = matched_part(spec, file_a.tensors, file_b.tensors)
        with Stages() as stages, naming_the_spec(spec_path, part.spec, part.tensors_a):
            progress = stages.begin("align", "match")
            if module is None:
                match = _by_weights(part, options, progress)
            else:
                match = _by_activations(part, module, batches, options["device"], progress)
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


def _check_options(method: str, options: dict[str, Any]) -> None:
    """ValueError for an option that the method does not take, or lacks."""
    context = click.get_current_context()
    given = click.core.ParameterSource.COMMANDLINE
    foreign = OF_WEIGHTS if method == "am" else OF_ACTIVATIONS
    for name, flag in foreign.items():
        if context.get_parameter_source(name) == given:
            raise ValueError(f"{flag} is of no use with --method {method}")
    if method == "am":
        for name in ("model", "data"):
            if options[name] is None:
                raise ValueError(f"--method am runs the models: {OF_ACTIVATIONS[name]} is needed")


def _by_weights(part: MatchedPart, options: dict[str, Any], progress: Any) -> Matching:
    from ..matching import weight_matching

    taken = {name: options[name] for name in (*OF_WEIGHTS, "device")}
    return weight_matching(part.tensors_a, part.tensors_b, part.spec, progress=progress, **taken)


def _by_activations(
    part: MatchedPart, module: nn.Module, batches: Iterable[Any], device: str | None, progress: Any
) -> Matching:
    from .._models import with_tensors
    from ..matching import activation_matching

    model_a, model_b = (with_tensors(module, tensors) for tensors in (part.tensors_a, part.tensors_b))
    return activation_matching(model_a, model_b, batches, part.spec, device=device, progress=progress)

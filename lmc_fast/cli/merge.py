"""`lmc-fast merge`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .shared import one_line_errors

if TYPE_CHECKING:
    from ..large import MergeResult

__all__ = ["PATH", "RESUME", "merge", "size_in", "tell_of"]

PATH = click.Path(path_type=Path)
RESUME = "; with --resume the same command goes on from here"
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30}


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="A B [C ...]", type=PATH)
@click.option("-o", "--out", type=PATH, help="Directory to write; for files a safetensors file.")
@click.option("--spec", type=PATH, help="Permutation spec (JSON).  [default: derived from A's configuration]")
@click.option("--rotations", is_flag=True, help="Look for what may turn as well, where the spec is derived.")
@click.option("--lambda", "lam", type=float, help="Weight of B, of two models.  [default: 0.5]")
@click.option("--weights", help="Weights of all models, with commas between; they sum to 1.  [default: equal ones]")
@click.option(
    "--method",
    default="wm",
    show_default=True,
    help="wm (each over A), merge_many or c2m3 (together), none (no units move).",
)
@click.option("--search", default="auto", show_default=True, help="auto, spectral, coordinate_descent or frank_wolfe.")
@click.option("--freeze", multiple=True, metavar="GROUP", help="A group that stays in place; again for more.")
@click.option("--max-sweeps", type=click.IntRange(1), default=100, show_default=True)
@click.option("--dtype", help="bfloat16, float16, float32 or float64.  [default: A's own]")
@click.option("--device", help="Where gain matrices are computed, as torch names it.  [default: cpu]")
@click.option("--align-only", is_flag=True, help="Write B with its units permuted, and merge nothing.")
@click.option("--shard-size", metavar="SIZE", help="Most bytes of a file of weights, as 5GB.  [default: A's files]")
@click.option("--resume", is_flag=True, help="Go on with what an interrupted run left.")
@click.option("--force", is_flag=True, help="Replace OUT, and throw away what an interrupted run left.")
@click.option("--dry-run", is_flag=True, help="Print the plan alone: groups, memory, time. Needs no weights.")
@click.option("--ranks", type=click.IntRange(1), default=1, help="With --dry-run: how it is shared out over so many.")
@click.option("--key", help="Where in a torch file its state dict is, if that is not clear.")
@click.option("--trust-remote-code", is_flag=True, help="Run code that lies in A's directory to build its module.")
@click.option("--log", type=click.Choice(["text", "json", "off"]), default="text", show_default=True)
def merge(models: tuple[Path, ...], out: Path | None, dry_run: bool, ranks: int, log: str, **options: Any) -> None:
    """Lay models over A by permuting their units, and write the weighted mean.

    A, B, ... are model directories (config.json and safetensors), or all single files. Memory is set by the largest
    group of units, not by the models. OUT comes to be whole or not at all.

    Under torchrun (torchrun --nproc-per-node 8 -m -- lmc_fast merge ...) all ranks work on it, on one machine or many
    that share a file system, and the bytes of OUT are those that one process writes.
    """
    with one_line_errors(RESUME):
        from ..large import Options, merge_checkpoints, plan_merge
        from ..large.joining import is_first_rank
        from ..large.reports import reporter

        if len(models) < 2:
            raise ValueError(f"two models at least are merged, got {len(models)}")
        options["weights"] = numbers_in(options["weights"])
        options["shard_size"] = size_in(options["shard_size"])
        spec, key, trusted = options.pop("spec"), options.pop("key"), options.pop("trust_remote_code")
        rotations = options.pop("rotations")
        if dry_run:
            for name in ("resume", "force", "device"):
                options.pop(name)
            plan = plan_merge(
                *models,
                spec=spec,
                rotations=rotations,
                options=Options(**options),
                ranks=ranks,
                key=key,
                trust_remote_code=trusted,
            )
            if is_first_rank():
                click.echo(str(plan))
            return
        if out is None:
            raise ValueError("an output is needed (-o OUT), unless with --dry-run")
        result = merge_checkpoints(
            *models,
            out=out,
            spec=spec,
            rotations=rotations,
            key=key,
            trust_remote_code=trusted,
            listener=reporter(log, sys.stderr),
            **options,
        )
        tell_of(result)


def tell_of(result: MergeResult) -> None:
    """Print what was done; of several ranks the first speaks."""
    from ..large.joining import is_first_rank

    if not is_first_rank():
        return
    for note in result.notes:
        click.echo(f"lmc-fast: {note}", err=True)
    click.echo(str(result))


def numbers_in(text: str | None) -> list[float] | None:
    """Numbers with commas between."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--weights takes numbers with commas between, got {text!r}") from None


def size_in(text: str | None) -> int | None:
    """Bytes: 500MB, 5GB, 2GiB, or a plain number."""
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?I?)B?\s*", text, re.IGNORECASE)
    if found is None or found[2].upper() not in UNITS:
        raise ValueError(f"--shard-size takes bytes, as 500MB or 5GB, got {text!r}")
    return int(float(found[1]) * UNITS[found[2].upper()])

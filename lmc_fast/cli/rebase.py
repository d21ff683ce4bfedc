"""`lmc-fast rebase`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .merge import PATH, RESUME, size_in, tell_of
from .shared import one_line_errors

__all__ = ["rebase"]


@click.command()
@click.argument("tuned", type=PATH)
@click.argument("base", type=PATH)
@click.argument("new", type=PATH)
@click.option("-o", "--out", required=True, type=PATH, help="Directory to write; for files a safetensors file.")
@click.option("--spec", type=PATH, help="Permutation spec (JSON).  [default: derived from NEW's configuration]")
@click.option("--rotations", is_flag=True, help="Look for what may turn as well, where the spec is derived.")
@click.option("--alpha", type=float, default=1.0, show_default=True, help="How much of the fine-tune.")
@click.option("--search", default="auto", show_default=True, help="auto, spectral, coordinate_descent or frank_wolfe.")
@click.option("--freeze", multiple=True, metavar="GROUP", help="A group that stays in place; again for more.")
@click.option("--max-sweeps", type=click.IntRange(1), default=100, show_default=True)
@click.option("--dtype", help="bfloat16, float16, float32 or float64.  [default: NEW's own]")
@click.option("--device", help="Where gain matrices are computed, as torch names it.  [default: cpu]")
@click.option("--shard-size", metavar="SIZE", help="Most bytes of a file of weights, as 5GB.  [default: NEW's files]")
@click.option("--resume", is_flag=True, help="Go on with what an interrupted run left.")
@click.option("--force", is_flag=True, help="Replace OUT, and throw away what an interrupted run left.")
@click.option("--key", help="Where in a torch file its state dict is, if that is not clear.")
@click.option("--trust-remote-code", is_flag=True, help="Run code that lies in NEW's directory to build its module.")
@click.option("--log", type=click.Choice(["text", "json", "off"]), default="text", show_default=True)
def rebase(tuned: Path, base: Path, new: Path, out: Path, shard_size: str | None, log: str, **options: Any) -> None:
    """Carry the fine-tune TUNED of BASE over to NEW: NEW + alpha * pi(TUNED - BASE).

    pi brings the units of BASE onto those of NEW. TUNED is a whole model, or a LoRA adapter as PEFT writes it, which
    comes out as one. Under torchrun all ranks work on it, as for merge.
    """
    with one_line_errors(RESUME):
        from ..large import rebase_checkpoints
        from ..large.reports import reporter

        size = size_in(shard_size)
        result = rebase_checkpoints(
            tuned, base, new, out=out, shard_size=size, listener=reporter(log, sys.stderr), **options
        )
        tell_of(result)

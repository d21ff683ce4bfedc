"""`python -m benchmarks.run COMMAND`. To add a command: a module with `register(commands)`, named below."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import (
    architectures,
    cells,
    derive,
    eta,
    fuzz,
    gpu,
    kernels,
    lap,
    lap_batch,
    lap_candidates,
    lap_memory,
    lap_sequence,
    merge,
    methods,
    planted,
    plot,
    searches,
    spectral,
    startup,
    transformers,
    turning,
    wm,
)
from . import compile as compile_kernels

__all__ = ["main"]

COMMANDS = (
    *(lap, lap_sequence, lap_candidates, lap_batch, lap_memory, fuzz, wm, planted, methods),
    *(kernels, gpu, spectral, turning, compile_kernels, plot, cells, architectures, derive, merge, eta),
    *(startup, transformers, searches),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; bad options and files are one line on stderr and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.register(commands)
    parsed = parser.parse_args(arguments)
    try:
        return int(parsed.run(parsed))
    except (OSError, ValueError, ImportError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

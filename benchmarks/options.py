"""Options that the commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

from .cases import FAMILIES
from .gains import DEFAULT_CACHE, GainStore
from .solvers import OURS, SOLVERS

__all__ = ["add_data", "add_families", "add_out", "add_solvers", "gains_of"]


def add_out(parser: argparse.ArgumentParser) -> None:
    """--out."""
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the CSV file")


def add_data(parser: argparse.ArgumentParser) -> None:
    """--data, --cache."""
    parser.add_argument("--data", type=Path, help=".npz with images and labels to train on (default: digits)")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help=f"captured gains (default {DEFAULT_CACHE})")


def add_families(parser: argparse.ArgumentParser, default: list[str] | None = None) -> None:
    """--families."""
    names = list(FAMILIES)
    parser.add_argument("--families", nargs="+", choices=names, metavar="FAMILY", default=default or names)
    parser.epilog = "Families: " + "; ".join(f"{name}: {FAMILIES[name].description}" for name in names) + "."


def add_solvers(parser: argparse.ArgumentParser, default: list[str] | None = None) -> None:
    """--solvers; ours is always one of them."""
    names = list(SOLVERS)
    help_text = f"of {', '.join(repr(name) for name in names)}; {OURS} always runs"
    parser.add_argument(
        "--solvers", nargs="+", choices=names, metavar="SOLVER", default=default or names, help=help_text
    )


def gains_of(arguments: argparse.Namespace) -> GainStore:
    """The store that --data and --cache name; FileNotFoundError if the data is not there."""
    if arguments.data is not None and not arguments.data.is_file():
        raise FileNotFoundError(f"--data must be an .npz file, got {str(arguments.data)!r}")
    return GainStore(arguments.data, arguments.cache)

"""The command line: `lmc-fast` and its commands."""

from __future__ import annotations

import sys

import click

from .._terminal import make_readable
from .._version import __version__
from .align import align
from .analyze import analyze
from .demo import demo
from .inspect import inspect
from .merge import merge
from .paper import paper
from .rebase import rebase
from .verify import verify

__all__ = ["cli"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lmc-fast")
def cli() -> None:
    """Lay trained networks over each other by permuting hidden units, and merge them."""
    make_readable(sys.stdout, sys.stderr)


for _command in (demo, paper, analyze, align, merge, rebase, inspect, verify):
    cli.add_command(_command)

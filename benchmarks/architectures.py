"""`architectures`: what `derive_spec` finds in models of torch and transformers, small and with random weights.

Of every model the spec is tried by `verify_spec`, and the row says what that gave. Models of packages that are not
installed are left out.
"""

from __future__ import annotations

import argparse
import importlib
import time
import warnings
from typing import Any

import torch

import lmc_fast as lmc

from .options import add_out
from .report import Report, table
from .solvers import version_of
from .zoo import MODELS, Known

__all__ = ["register"]

_COLUMNS = (
    "model",
    "package",
    "groups",
    "by_hand",
    "owned",
    "units",
    "log10_permutations",
    "error",
    "precision",
    "seconds",
    "reason",
    "status",
)
COLUMNS = ("command", *_COLUMNS, "version", "commit", "python", "torch", "cpu", "cores", "threads", "numpy")
# Of the float64 of right specs.
MOST_ERROR = 1e-10
# Of a model that does not run in float64: so many times what rounds in its own precision.
ROUNDINGS = 100


def register(commands: argparse._SubParsersAction) -> None:
    """Add `architectures`."""
    parser = commands.add_parser("architectures", help="what derive_spec finds in models that people use")
    parser.add_argument("--only", default="", help="models whose name holds this")
    add_out(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `architectures`; 1 if a spec is wrong, or cannot be had."""
    wrong = 0
    with Report(arguments.out, "architectures", COLUMNS) as report:
        for package, known in MODELS.items():
            try:
                importlib.import_module(package)
            except (ImportError, RuntimeError) as error:
                # torchvision beside another torch fails with a RuntimeError.
                print(f"{package} cannot be imported, and its models are left out: {error}")
                continue
            for name, model in known.items():
                if arguments.only in name:
                    row = row_of(model)
                    report.add(model=name, package=package, version=version_of(package), **row)
                    wrong += row["status"] != "ok"
        print(table(report.rows, _COLUMNS))
        print(f"rows: {report.path}")
    return int(wrong > 0)


def row_of(known: Known) -> dict[str, Any]:
    """Derive the spec of one model and try it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model, inputs = known.make()
        model.eval()
        began = time.perf_counter()
        try:
            spec = lmc.derive_spec(model, inputs, verify=False)
        except ValueError as error:
            return {"status": f"not traced: {' '.join(str(error).split())[:160]}"}
        seconds = time.perf_counter() - began
        told = spec.explain()
        row: dict[str, Any] = {
            "groups": len(told.groups),
            "by_hand": "" if known.groups is None else known.groups,
            "owned": sum(group.owner is not None for group in told.groups),
            "units": sum(group.units for group in told.groups),
            "log10_permutations": told.log10_permutations,
            "seconds": seconds,
            "reason": "; ".join([known.why] * bool(known.why) + list(told.notes)),
        }
        try:
            error = lmc.verify_spec(model, spec, inputs) if spec.groups else 0.0
        except ValueError as problem:
            return {**row, "status": f"wrong or not tried: {' '.join(str(problem).split())[:160]}"}
    precision = "float64" if spec.verified is None else spec.verified.precision
    most = MOST_ERROR if precision == "float64" else ROUNDINGS * torch.finfo(getattr(torch, precision)).eps
    status = "ok" if error <= most else "wrong"
    if status == "ok" and known.groups is not None and len(told.groups) < known.groups and not known.why:
        status = "fewer than there are"
    return {**row, "error": error, "precision": precision, "status": status}

"""`architectures`: what `derive_spec` finds in models that people use, small and with random weights.

Of every model the spec is tried by `verify_spec`, and compared with what there is by hand analysis (`zoo`): groups,
units, and how many permutations they have. Models of packages that are not installed are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import time
import warnings
from collections import Counter
from typing import Any

import torch

import lmc_fast as lmc
from lmc_fast.symmetry.explain import Explanation

from .options import add_out
from .report import Report, table
from .solvers import version_of
from .zoo import MODELS, Known, with_operators

__all__ = ["register"]

_COLUMNS = (
    "model",
    "package",
    "groups",
    "by_hand",
    "owned",
    "units",
    "units_by_hand",
    "log10_permutations",
    "log10_by_hand",
    "turn",
    "folds",
    "error",
    "precision",
    "seconds",
    "reason",
    "status",
)
COLUMNS = ("command", *_COLUMNS, "analysis", "version", "commit", "python", "torch", "cpu", "cores", "threads", "numpy")
# Of the float64 of right specs.
MOST_ERROR = 1e-10
# Of a model that does not run in float64: so many times what rounds in its own precision.
ROUNDINGS = 100
# Relative, of the number of permutations' logarithm.
CLOSE = 1e-9


def register(commands: argparse._SubParsersAction) -> None:
    """Add `architectures`."""
    parser = commands.add_parser("architectures", help="what derive_spec finds in models that people use")
    parser.add_argument("--only", default="", help="models whose name holds this")
    parser.add_argument("--rotations", action="store_true", help="find what turns as well, and which norms are folded")
    parser.add_argument("--packages", nargs="+", choices=list(MODELS), default=list(MODELS), metavar="PACKAGE")
    parser.add_argument("--append", action="store_true", help="keep the rows that the file has")
    add_out(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `architectures`; 1 if a spec is wrong, or cannot be had."""
    wrong = 0
    with contextlib.suppress(ImportError):
        # Others import torchvision where it is installed.
        with_operators()
    name = "architectures-turning" if arguments.rotations else "architectures"
    with Report(arguments.out, name, COLUMNS, append=arguments.append) as report:
        for package in arguments.packages:
            try:
                importlib.import_module(package)
            except (ImportError, RuntimeError) as error:
                # torchvision beside a torch that it does not fit at all fails with a RuntimeError.
                print(f"{package} cannot be imported, and its models are left out: {error}")
                continue
            for name, model in MODELS[package].items():
                if arguments.only in name:
                    row = row_of(model, arguments.rotations)
                    report.add(model=name, package=package, version=version_of(package), **row)
                    print(f"{package} {name}: {row['status']}", flush=True)
                    wrong += row["status"] != "ok"
        print(table(report.rows, _COLUMNS))
        print(f"rows: {report.path}")
    return int(wrong > 0)


def _turning(told: lmc.Explanation) -> str:
    """What turns, by size and kind: "24 keeping ones, 2 x 6 orthogonal"."""
    names = {"orthogonal": "orthogonal", "orthogonal_keeping_ones": "keeping ones", "phases": "planes"}
    found = Counter((group.size, names[group.kind]) for group in told.groups if group.kind in names)
    counted = sorted(found.items(), reverse=True)
    return ", ".join(f"{f'{times} x ' if times > 1 else ''}{size} {kind}" for (size, kind), times in counted)


def row_of(known: Known, rotations: bool = False) -> dict[str, Any]:
    """Derive the spec of one model and try it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model, inputs = known.make()
        model.eval()
        began = time.perf_counter()
        try:
            spec = lmc.derive_spec(model, inputs, verify=False, rotations=rotations)
        except ValueError as error:
            return {"status": f"not traced: {' '.join(str(error).split())[:160]}"}
        seconds = time.perf_counter() - began
        told = spec.explain()
        row: dict[str, Any] = {
            "groups": len(told.groups),
            "by_hand": known.hand.groups,
            "owned": sum(group.owner is not None for group in told.groups),
            "units": sum(group.units for group in told.groups),
            "units_by_hand": known.hand.units,
            "log10_permutations": told.log10_permutations,
            "log10_by_hand": known.hand.log10,
            "analysis": known.hand.text,
            "turn": _turning(told),
            "folds": sum(isinstance(fold, lmc.symmetry.Fold) for fold in spec.folds),
            "seconds": seconds,
            "reason": "; ".join([known.why] * bool(known.why) + list(told.notes)),
        }
        try:
            error = lmc.verify_spec(model, spec, inputs) if spec.groups else 0.0
        except ValueError as problem:
            return {**row, "status": f"wrong or not tried: {' '.join(str(problem).split())[:160]}"}
    precision = "float64" if spec.verified is None else spec.verified.precision
    most = MOST_ERROR if precision == "float64" else ROUNDINGS * torch.finfo(getattr(torch, precision)).eps
    # What turns has no count to be compared.
    status = "wrong" if error > most else "ok" if rotations else _compared(known, told)
    return {**row, "error": error, "precision": precision, "status": status}


def _compared(known: Known, told: Explanation) -> str:
    """Whether what was found is what there is by hand, or less for a reason that the zoo gives."""
    hand, found = known.hand, told.log10_permutations
    most = CLOSE * max(1.0, hand.log10)
    if found > hand.log10 + most:
        return "more than by hand"
    same = len(told.groups) == hand.groups and found > hand.log10 - most
    if same == bool(known.why):
        return "all found, with a reason why not" if same else "fewer than by hand"
    return "ok"

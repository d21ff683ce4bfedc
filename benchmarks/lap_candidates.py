"""`lap-candidates`: restarted solves of weight matching runs, given candidates of every row and without."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable
from copy import copy

import numpy as np
import torch

from lmc_fast.assignment import AssignmentSolver, Candidates, assignment_gap
from lmc_fast.ops.gain_matrix import naive

from .checking import TOLERANCE, optimum_of, relative_error
from .options import add_data, add_out, gains_of
from .report import Report, table
from .solvers import OURS
from .timing import alternate

__all__ = ["register"]

PLAIN = f"{OURS} warm"


def register(commands: argparse._SubParsersAction) -> None:
    """Add `lap-candidates`."""
    parser = commands.add_parser("lap-candidates", help="restarted solves with candidates of each row and without")
    parser.add_argument("--widths", type=int, nargs="+", default=[2048, 4096])
    parser.add_argument("--columns", type=int, nargs="+", default=[8, 16, 32], help="listed of each row")
    parser.add_argument("--first", type=int, help="only so many problems of each run")
    add_data(parser)
    add_out(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `lap-candidates`; AssertionError if an answer was wrong."""
    store = gains_of(arguments)
    with Report(arguments.out, "lap-candidates") as report:
        for width in arguments.widths:
            solvers: dict[str, AssignmentSolver] = defaultdict(lambda: AssignmentSolver(maximize=True))
            problems = store.run(width)[: arguments.first]
            for position, (label, path) in enumerate(problems):
                cost = np.load(path)
                before = copy(solvers[label])
                solvers[label].solve(cost)
                # The first problem of a group has nothing to go on from.
                if "nothing" not in repr(before):
                    _measure(cost, before, arguments.columns, report, label=label, position=position)
                print(f"\r{width}: {position + 1}/{len(problems)}", end="", flush=True)
            print()
        print(table(_summary(report.rows), ("n", "solver", "problems", "total_s", "ratio", "late_ratio")))
        print(f"rows: {report.path}")
    return 0


def _measure(cost: np.ndarray, before: AssignmentSolver, columns: list[int], report: Report, **row: object) -> None:
    """Solve one problem from where the solver stood before it, in turns; candidates are made outside of the time."""
    contenders: dict[str, Callable[[], object]] = {PLAIN: lambda: copy(before).solve(cost)}
    optimum = optimum_of(cost, True)
    duals = torch.from_numpy(before.duals[1])
    for k in columns:
        # As a GPU would leave them, but in the CPU's memory.
        found = naive.gain_candidates(torch.from_numpy(cost), duals, k)
        candidates = Candidates(*(part.numpy() for part in found))
        name = f"{PLAIN}, {k} candidates"
        contenders[name] = lambda candidates=candidates: copy(before).solve(cost, candidates=candidates)
        solver = copy(before)
        error = relative_error(cost, solver.solve(cost, candidates=candidates), optimum)
        gap = assignment_gap(cost, solver.solve(cost), solver.duals, True) / optimum.scale
        if not max(error, gap) <= TOLERANCE:
            raise AssertionError(f"{name} is wrong at {row}: relative error {error:.2g}, gap {gap:.2g}")
    times = alternate(contenders, seconds=0.2, least=3, most=9)
    for name, timing in times.items():
        report.add(
            **row,
            family="gains",
            n=len(cost),
            dtype="float32",
            status="ok",
            solver=name,
            **{f"p{p}_ms": 1e3 * timing.percentile(p) for p in (20, 50, 80)},
            calls=len(timing.samples),
            ratio=times[PLAIN].percentile(50) / timing.percentile(50),
            relative_gap=optimum.gap,
        )


def _summary(rows: list[dict]) -> list[dict]:
    """By width and contender: all problems' medians together, against those without; that of the later half alone."""
    lines = []
    for n, name in dict.fromkeys((row["n"], row["solver"]) for row in rows):
        mine, plain = ([r for r in rows if r["n"] == n and r["solver"] == solver] for solver in (name, PLAIN))
        late = len(mine) // 2
        ratios = [
            sum(r["p50_ms"] for r in plain[k:]) / max(sum(r["p50_ms"] for r in mine[k:]), 1e-9) for k in (0, late)
        ]
        total = sum(r["p50_ms"] for r in mine) / 1e3
        lines.append(
            {
                "n": n,
                "solver": name,
                "problems": len(mine),
                "total_s": total,
                "ratio": ratios[0],
                "late_ratio": ratios[1],
            }
        )
    return lines

"""`lap-sequence`: all assignment problems of one weight matching run, in order: restarted against from nothing."""

from __future__ import annotations

import argparse
from collections import defaultdict
from copy import copy

import numpy as np

from lmc_fast import linear_sum_assignment
from lmc_fast.assignment import AssignmentSolver

from .checking import TOLERANCE, optimum_of, relative_error
from .options import add_data, add_out, gains_of
from .report import Report, table
from .solvers import OURS, SOLVERS
from .timing import Timing, alternate

__all__ = ["register"]

WARM, COLD, PEER = f"{OURS} warm", f"{OURS} cold", "scipy"


def register(commands: argparse._SubParsersAction) -> None:
    """Add `lap-sequence`."""
    parser = commands.add_parser("lap-sequence", help="a whole weight matching run's problems, warm against scipy")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--first", type=int, help="only so many problems of the run")
    add_data(parser)
    add_out(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `lap-sequence`; AssertionError if an answer was wrong."""
    problems = gains_of(arguments).run(arguments.width)[: arguments.first]
    solvers: dict[str, AssignmentSolver] = defaultdict(lambda: AssignmentSolver(maximize=True))
    common = {"family": "gains", "n": arguments.width, "dtype": "float32", "status": "ok"}
    with Report(arguments.out, "lap-sequence") as report:
        for position, (label, path) in enumerate(problems):
            cost = np.load(path)
            found, times = measure(cost, solvers[label])
            optimum = optimum_of(cost, True)
            for name, columns in found.items():
                error = relative_error(cost, columns, optimum)
                if not error <= TOLERANCE:
                    raise AssertionError(f"{name} is wrong at position {position}: relative error {error:.2g}")
                timing = times[name]
                report.add(
                    **common,
                    solver=name,
                    **{f"p{p}_ms": 1e3 * timing.percentile(p) for p in (20, 50, 80)},
                    calls=len(timing.samples),
                    reads=timing.percentile(50) / times["sum"].percentile(50),
                    relative_error=error,
                    relative_gap=optimum.gap,
                    label=label,
                    position=position,
                )
            print(
                f"{position + 1}/{len(problems)} solver {label}: "
                + ", ".join(f"{name} {1e3 * times[name].percentile(50):.2f} ms" for name in times),
                flush=True,
            )
        print(summary(report.rows, len(problems)))
        print(f"rows: {report.path}")
    return 0


def measure(cost: np.ndarray, solver: AssignmentSolver) -> tuple[dict[str, np.ndarray], dict[str, Timing]]:
    """Solve one problem restarted, from nothing and by scipy, and sum its matrix; `solver` goes on to it.

    The restarted solve starts from the same state each time: a copy of the solver as it was before this problem.
    """
    before = copy(solver)
    scipy = SOLVERS[PEER](cost, True)
    found = {WARM: solver.solve(cost), COLD: linear_sum_assignment(cost, True)[1], PEER: scipy()}
    contenders = {
        WARM: lambda: copy(before).solve(cost),
        COLD: lambda: linear_sum_assignment(cost, True),
        PEER: scipy,
        "sum": lambda: cost.sum(),
    }
    return found, alternate(contenders, seconds=0.2, least=1, most=9)


def summary(rows: list[dict], count: int) -> str:
    """Totals over the run, and the second half of it in sums over the matrix."""
    lines = []
    for name in (WARM, COLD, PEER):
        mine = [row for row in rows if row["solver"] == name]
        late = [row["reads"] for row in mine if row["position"] >= count // 2]
        lines.append(
            {
                "solver": name,
                "total_s": sum(row["p50_ms"] for row in mine) / 1e3,
                "late_reads_p50": float(np.percentile(late, 50)),
                "late_reads_p80": float(np.percentile(late, 80)),
            }
        )
    for line in lines:
        line["times_scipy"] = lines[-1]["total_s"] / line["total_s"]
    return table(lines, ("solver", "total_s", "times_scipy", "late_reads_p50", "late_reads_p80"))

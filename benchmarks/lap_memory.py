"""`lap-memory`: time and peak memory of large problems, each in a process of its own."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from .cases import Case, build
from .checking import TOLERANCE, optimum_of, relative_error
from .options import add_data, add_families, add_out, add_solvers, gains_of
from .report import Report, table
from .solvers import OURS, SOLVERS, Unavailable
from .timing import forget_peak, peak_bytes, resident_bytes

__all__ = ["measure", "register"]

_SIZES = (2048, 4096, 8192, 16384)


def register(commands: argparse._SubParsersAction) -> None:
    """Add `lap-memory`."""
    parser = commands.add_parser("lap-memory", help="time and peak memory over the matrix's size, to n = 16384")
    parser.add_argument("--sizes", nargs="+", type=int, metavar="N", default=_SIZES)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    add_families(parser, ["planted", "uniform"])
    add_solvers(parser, [OURS])
    add_data(parser)
    add_out(parser)
    # What the command starts for one case; the answer is a line of JSON.
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `lap-memory`; 1 if a case failed."""
    if arguments.one:
        case = Case(arguments.families[0], arguments.sizes[0], arguments.dtype)
        print(json.dumps(measure(case, arguments.solvers[0], arguments)))
        return 0
    failed = False
    with Report(arguments.out, "lap-memory") as report:
        for family in arguments.families:
            for n in sorted(arguments.sizes):
                for solver in arguments.solvers:
                    row = _in_a_process(Case(family, n, arguments.dtype), solver, arguments)
                    failed = failed or row["status"].startswith(("failed", "wrong"))
                    report.add(family=family, n=n, dtype=arguments.dtype, solver=solver, **row)
                    print(f"{family} n={n} {solver}: {row['status']}", flush=True)
        columns = ("family", "n", "solver", "p50_ms", "reads", "peak_over_matrix", "relative_gap", "status")
        print(table(report.rows, columns))
        print(f"rows: {report.path}")
    return int(failed)


def _in_a_process(case: Case, solver: str, arguments: argparse.Namespace) -> dict:
    command = [sys.executable, "-m", "benchmarks.run", "lap-memory", "--one"]
    command += ["--families", case.family, "--sizes", str(case.n), "--dtype", case.dtype, "--solvers", solver]
    command += ["--cache", str(arguments.cache), *(["--data", str(arguments.data)] if arguments.data else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent)
    if done.returncode:
        return {"status": f"failed: {(done.stderr.strip().splitlines() or [f'exit {done.returncode}'])[-1]}"}
    return json.loads(done.stdout.splitlines()[-1])


def measure(case: Case, solver: str, arguments: argparse.Namespace) -> dict:
    """Build a case, solve it once, and say how long it took and how much memory it had at most.

    The peak counts the matrix and all that came on top of it during the solve, over the matrix's size.
    """
    problem = build(case, gains_of(arguments))
    cost = problem.cost
    begin = time.perf_counter()
    cost.sum()
    read = time.perf_counter() - begin
    try:
        solve = SOLVERS[solver](cost, problem.maximize)
    except Unavailable as reason:
        return {"status": f"skipped: {reason}"}
    forget_peak()
    before = resident_bytes()
    begin = time.perf_counter()
    columns = solve()
    seconds = time.perf_counter() - begin
    peak = (peak_bytes() - before + cost.nbytes) / cost.nbytes
    optimum = optimum_of(cost, problem.maximize)
    error = relative_error(cost, columns, optimum)
    if not error <= TOLERANCE:
        return {"status": f"wrong: relative error {error:.2g}", "relative_error": error}
    return {
        "p50_ms": 1e3 * seconds,
        "calls": 1,
        "reads": seconds / read,
        "peak_over_matrix": peak,
        "relative_error": error,
        "relative_gap": optimum.gap,
        "status": "ok",
    }

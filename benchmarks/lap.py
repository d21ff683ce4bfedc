"""`lap`: every family and size, solved from nothing by every solver that is here."""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .cases import Case, Problem, build
from .checking import TOLERANCE, optimum_of, relative_error
from .options import add_data, add_families, add_out, add_solvers, gains_of
from .report import Report, table
from .solvers import OURS, SOLVERS, Solve, Unavailable
from .timing import alternate

__all__ = ["compare", "register", "summary"]

_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
_QUICK_SIZES = (32, 128, 512)
_QUICK_FAMILIES = ("uniform", "ties", "planted")


def register(commands: argparse._SubParsersAction) -> None:
    """Add `lap`."""
    parser = commands.add_parser("lap", help="all families and sizes from nothing, against the peers")
    parser.add_argument("--quick", action="store_true", help="few sizes and families, short times: a look")
    parser.add_argument("--sizes", nargs="+", type=int, metavar="N")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each solver and case (default 2)")
    parser.add_argument(
        "--limit", type=float, default=30.0, help="a solver that took longer than this (seconds) skips larger sizes"
    )
    add_families(parser)
    add_solvers(parser)
    add_data(parser)
    add_out(parser)
    parser.add_argument("--append", action="store_true", help="keep the rows that the CSV file has: a run in pieces")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `lap`; 1 if our answer was wrong somewhere."""
    gains = gains_of(arguments)
    families, sizes, seconds = arguments.families, arguments.sizes or _SIZES, arguments.seconds
    if arguments.quick:
        families = [name for name in families if name in _QUICK_FAMILIES] or families
        sizes, seconds = arguments.sizes or _QUICK_SIZES, min(seconds, 0.2)
    with Report(arguments.out, "lap", append=arguments.append) as report:
        for family in families:
            # Solvers that are out for this family, and why.
            out: dict[str, str] = {}
            for n in sorted(sizes):
                begin = time.perf_counter()
                problem = build(Case(family, n, arguments.dtype), gains)
                for row in compare(problem, dict.fromkeys([OURS, *arguments.solvers]), out, seconds, arguments.limit):
                    report.add(**row)
                print(f"{family} n={n}: {time.perf_counter() - begin:.1f} s", flush=True)
        missing = (f"{row['solver']} {row['status']}" for row in report.rows if row["status"] != "ok")
        print("\n".join(dict.fromkeys(missing)))
        print(table(summary(report.rows), ("family", "n", "ours_ms", "fastest_peer", "peer_ms", "times_faster")))
        print(f"rows: {report.path}")
        return int(any(row["status"].startswith("wrong") for row in report.rows if row["solver"].startswith(OURS)))


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For every family and size our median and that of the fastest peer, in ms."""
    medians: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
    for row in rows:
        if row["status"] == "ok":
            medians[row["family"], row["n"]][row["solver"]] = row["p50_ms"]
    lines = []
    for (family, n), times in medians.items():
        peers = {name: time for name, time in times.items() if not name.startswith(OURS)}
        if OURS in times and peers:
            peer = min(peers, key=peers.__getitem__)
            line = {"family": family, "n": n, "ours_ms": times[OURS], "fastest_peer": peer, "peer_ms": peers[peer]}
            lines.append({**line, "times_faster": peers[peer] / times[OURS]})
    return lines


def compare(
    problem: Problem, names: dict[str, None], out: dict[str, str], seconds: float, limit: float
) -> Iterator[dict[str, Any]]:
    """Check, then time the named solvers on one problem; yield a row for each.

    Args:
        out: solvers that skip this one, and why; those that take more than `limit` seconds are added.

    A row's ratio is our median time over the solver's, so that above 1 it is faster than we are.
    """
    optimum = optimum_of(problem.cost, problem.maximize)
    ready: dict[str, Solve] = {}
    errors: dict[str, float] = {}
    status: dict[str, str] = {name: f"skipped: {reason}" for name, reason in out.items()}
    for name in names:
        if name in out:
            continue
        try:
            solve = SOLVERS[name](problem.cost, problem.maximize)
        except Unavailable as reason:
            out[name] = str(reason)
            status[name] = f"skipped: {reason}"
            continue
        begin = time.perf_counter()
        errors[name] = relative_error(problem.cost, solve(), optimum)
        took = time.perf_counter() - begin
        if errors[name] <= TOLERANCE:
            ready[name], status[name] = solve, "ok"
        else:
            status[name] = f"wrong on {problem.case.family} n = {problem.case.n}: relative error {errors[name]:.2g}"
        if took > limit and name != OURS:
            out[name] = f"took {took:.0f} s on {problem.case.family} n = {problem.case.n}"
    timings = alternate(ready, seconds=seconds)
    case = problem.case
    for name in names:
        row = {"family": case.family, "n": case.n, "dtype": case.dtype, "solver": name, "status": status[name]}
        if name in errors:
            row |= {"relative_error": errors[name], "relative_gap": optimum.gap}
        if name in timings:
            timing = timings[name]
            row |= {f"p{p}_ms": 1e3 * timing.percentile(p) for p in (20, 50, 80)} | {"calls": len(timing.samples)}
            ours = timings[OURS].percentile(50) if OURS in timings else math.nan
            row["ratio"] = ours / timing.percentile(50)
        yield row

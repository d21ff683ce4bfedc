"""`lap-fuzz`: random problems, each against scipy's cost and with its own certificate, cold and restarted."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections import Counter

import numpy as np

from lmc_fast.assignment import AssignmentSolver, linear_sum_assignment

from .problems import Problem, assert_certified, assert_optimal, candidates_of, random_problem

__all__ = ["check", "check_seed", "register"]

_BLOCK = 1000


def check(problem: Problem, warm: AssignmentSolver | None = None) -> str:
    """Solve one problem in every way and compare; return its kind, or "infeasible".

    Raises:
        AssertionError: an answer is wrong.
    """
    from scipy.optimize import linear_sum_assignment as scipy_assignment

    cost, maximize = problem.cost, problem.maximize
    before = cost.tobytes()
    solver = AssignmentSolver(maximize)
    try:
        columns = solver.solve(cost)
    except ValueError as error:
        assert "infeasible" in str(error), str(error)
        try:
            scipy_assignment(cost.astype(np.float64), maximize=maximize)
        except ValueError:
            return "infeasible"
        raise AssertionError("scipy finds an assignment") from None
    assert_certified(cost, columns, solver.duals, maximize)
    rows, chosen = linear_sum_assignment(cost, maximize)
    assert_optimal(cost, rows, chosen, maximize)
    assert (columns[rows] == chosen).all(), "solver and function differ"
    # Restarted: from the duals of the same rows in another order, and from whatever came before in this shape.
    turned = np.roll(cost, 1, axis=0)
    assert_certified(turned, solver.solve(turned), solver.duals, maximize)
    if cost.shape[0] <= cost.shape[1]:
        # With candidates: under the duals of what came before, rounded as a GPU has them, and from nothing.
        for start, duals in ((solver, solver.duals[1]), (AssignmentSolver(maximize), np.zeros(cost.shape[1]))):
            rounded = np.clip(duals, -3e38, 3e38).astype(np.float32).astype(np.float64)
            listed = candidates_of(cost, rounded, min(12, cost.shape[1]), maximize)
            assert_certified(cost, start.solve(cost, candidates=listed), start.duals, maximize)
    if warm is not None and warm.maximize == maximize:
        assert_certified(cost, warm.solve(cost), warm.duals, maximize)
    assert cost.tobytes() == before, "the caller's matrix was changed"
    return problem.kind


def check_seed(seed: tuple[int, int], count: int = _BLOCK) -> Counter[str]:
    """Check `count` problems drawn from one seed; return how many of each kind there were."""
    rng = np.random.default_rng(seed)
    warm = {sense: AssignmentSolver(sense) for sense in (False, True)}
    seen: Counter[str] = Counter()
    for k in range(count):
        problem = random_problem(rng)
        try:
            seen[check(problem, warm[problem.maximize])] += 1
        except AssertionError as error:
            raise AssertionError(
                f"seed {seed}, problem {k}: {problem.kind}, {problem.cost.shape} {problem.cost.dtype}, "
                f"maximize={problem.maximize}: {error}\n{problem.cost!r}"
            ) from error
    return seen


def register(commands: argparse._SubParsersAction) -> None:
    """Add `lap-fuzz`."""
    parser = commands.add_parser("lap-fuzz", help="random problems against scipy, with certificates")
    parser.add_argument("--count", type=int, default=300_000, help="problems (default 300000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `lap-fuzz`; 0 if every problem was right."""
    blocks = [(arguments.seed, k) for k in range(-(-arguments.count // _BLOCK))]
    seen: Counter[str] = Counter()
    began = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        try:
            for done, counted in enumerate(pool.imap_unordered(check_seed, blocks), start=1):
                seen += counted
                print(f"\r{done * _BLOCK} problems", end="", flush=True)
        except AssertionError as error:
            print(f"\nwrong: {error}")
            return 1
    print(f"\r{sum(seen.values())} problems right in {time.perf_counter() - began:.0f} s")
    for kind, number in sorted(seen.items()):
        print(f"  {kind:18} {number}")
    return 0

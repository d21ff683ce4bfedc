"""`lap-batch`: thousands of small problems at once, against a loop over scipy and the peers' batches."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from lmc_fast.assignment import linear_sum_assignment_batched

from .checking import TOLERANCE
from .options import add_out
from .report import Report, table
from .solvers import OURS, Unavailable
from .timing import alternate

__all__ = ["register"]

Batch = Callable[[np.ndarray], Callable[[], np.ndarray]]


def _lmc_fast(costs: np.ndarray) -> Callable[[], np.ndarray]:
    return lambda: linear_sum_assignment_batched(costs)[1]


def _scipy_loop(costs: np.ndarray) -> Callable[[], np.ndarray]:
    from scipy.optimize import linear_sum_assignment

    return lambda: np.stack([linear_sum_assignment(cost)[1] for cost in costs])


def _lapcpp(costs: np.ndarray) -> Callable[[], np.ndarray]:
    from lapcpp import lapjv_batch

    return lambda: np.stack(lapjv_batch(costs, return_cost=False)[1])


def _lapx(costs: np.ndarray) -> Callable[[], np.ndarray]:
    from lap import lapjvs_batch

    return lambda: np.stack(lapjvs_batch(costs, return_cost=False)[1])


def _torch_linear_assignment(costs: np.ndarray) -> Callable[[], np.ndarray]:
    import torch
    from torch_linear_assignment import batch_linear_assignment

    if not torch.cuda.is_available():
        raise Unavailable("torch-linear-assignment calls scipy where there is no GPU")
    on_device = torch.from_numpy(costs).cuda()
    return lambda: batch_linear_assignment(on_device).cpu().numpy()


SOLVERS: dict[str, Batch] = {
    OURS: _lmc_fast,
    "scipy loop": _scipy_loop,
    "lapcpp lapjv_batch": _lapcpp,
    "lapx lapjvs_batch": _lapx,
    "torch-linear-assignment": _torch_linear_assignment,
}


def register(commands: argparse._SubParsersAction) -> None:
    """Add `lap-batch`."""
    parser = commands.add_parser("lap-batch", help="many small problems at once, against a scipy loop")
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each solver (default 5)")
    add_out(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `lap-batch`; 1 if our answers were wrong."""
    batch, n = arguments.batch, arguments.size
    # Gains of heads: 32 weights a unit, and a noisy copy; negated, as all can minimise.
    rng = np.random.default_rng(0)
    a, noise = rng.standard_normal((2, batch, n, 32), dtype=np.float32)
    costs = -(a @ (a[:, rng.permutation(n)] + noise).swapaxes(1, 2))
    ready: dict[str, Callable[[], np.ndarray]] = {}
    status: dict[str, str] = {}
    optimum = _totals(costs, _scipy_loop(costs)())
    for name, prepare in SOLVERS.items():
        try:
            solve = prepare(costs)
        except (ImportError, Unavailable) as reason:
            status[name] = f"skipped: {reason}"
            continue
        error = float((np.abs(_totals(costs, solve()) - optimum) / np.abs(optimum)).max())
        if error <= TOLERANCE:
            ready[name], status[name] = solve, "ok"
        else:
            status[name] = f"wrong: relative error {error:.2g}"
    timings = alternate(ready, seconds=arguments.seconds)
    with Report(arguments.out, "lap-batch") as report:
        for name in SOLVERS:
            row = {"family": "planted", "n": n, "dtype": "float32", "solver": name, "batch": batch}
            if name in timings:
                row |= {f"p{p}_ms": 1e3 * timings[name].percentile(p) for p in (20, 50, 80)}
                row |= {"ratio": timings[OURS].percentile(50) / timings[name].percentile(50)}
                row |= {"calls": len(timings[name].samples)}
            report.add(**row, status=status[name])
        print(table(report.rows, ("solver", "batch", "n", "p20_ms", "p50_ms", "p80_ms", "ratio", "status")))
        print(f"rows: {report.path}")
    return int(status[OURS] != "ok")


def _totals(costs: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Total of every problem, float64 [batch]; nan where the columns [batch, n] are no permutation."""
    totals = np.take_along_axis(costs, columns[:, :, None], 2).sum(axis=(1, 2), dtype=np.float64)
    totals[(np.sort(columns, axis=1) != np.arange(columns.shape[1])).any(axis=1)] = np.nan
    return totals

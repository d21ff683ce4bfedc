"""The solvers that are compared. To add one: a function (cost, maximize) -> what solves it, under `@solver`.

What is done before the returned function is called is not timed; every peer gets the matrix in the form that it
likes best, negated where it can only minimise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

import numpy as np

__all__ = ["OURS", "SOLVERS", "Solve", "Unavailable", "solver", "version_of"]

OURS = "lmc_fast"

# Returns the column of each row, [n].
Solve = Callable[[], np.ndarray]
Prepare = Callable[[np.ndarray, bool], Solve]


class Unavailable(Exception):
    """A solver that cannot run here, and why."""


@dataclass(frozen=True)
class Solver:
    """A solver under the name of its table column, and the distribution that it is from."""

    name: str
    distribution: str
    prepare: Prepare

    def __call__(self, cost: np.ndarray, maximize: bool) -> Solve:
        """Make ready for one matrix; Unavailable if the package is missing or does not take it."""
        try:
            return self.prepare(cost, maximize)
        except ImportError as error:
            raise Unavailable(f"{self.distribution} is not installed ({error})") from error


SOLVERS: dict[str, Solver] = {}


def solver(name: str, distribution: str) -> Callable[[Prepare], Prepare]:
    """Register a function as the solver `name`."""

    def register(prepare: Prepare) -> Prepare:
        SOLVERS[name] = Solver(name, distribution, prepare)
        return prepare

    return register


def version_of(distribution: str) -> str:
    """The installed version, or "" if there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _least(cost: np.ndarray, maximize: bool) -> np.ndarray:
    return -cost if maximize else cost


@solver(OURS, "lmc_fast")
def _lmc_fast(cost: np.ndarray, maximize: bool) -> Solve:
    from lmc_fast import linear_sum_assignment

    return lambda: linear_sum_assignment(cost, maximize)[1]


@solver("lmc_fast 1 thread", "lmc_fast")
def _lmc_fast_1(cost: np.ndarray, maximize: bool) -> Solve:
    from lmc_fast import linear_sum_assignment

    return lambda: linear_sum_assignment(cost, maximize, threads=1)[1]


@solver("scipy", "scipy")
def _scipy(cost: np.ndarray, maximize: bool) -> Solve:
    from scipy.optimize import linear_sum_assignment

    return lambda: linear_sum_assignment(cost, maximize=maximize)[1]


@solver("lapx lapjvs", "lapx")
def _lapjvs(cost: np.ndarray, maximize: bool) -> Solve:
    from lap import lapjvs

    cost = _least(cost, maximize)
    return lambda: lapjvs(cost, return_cost=False)[1]


@solver("lapx lapjv", "lapx")
def _lapx(cost: np.ndarray, maximize: bool) -> Solve:
    from lap import lapjv

    cost = _least(cost, maximize)
    return lambda: lapjv(cost, return_cost=False)[0]


@solver("lapjv", "lapjv")
def _lapjv(cost: np.ndarray, maximize: bool) -> Solve:
    from lapjv import lapjv

    cost = _least(cost, maximize)
    return lambda: lapjv(cost)[0]


@solver("lapjv doubles", "lapjv")
def _lapjv_doubles(cost: np.ndarray, maximize: bool) -> Solve:
    from lapjv import lapjv

    cost = _least(cost, maximize)
    return lambda: lapjv(cost, force_doubles=True)[0]


@solver("lapcpp", "lapcpp")
def _lapcpp(cost: np.ndarray, maximize: bool) -> Solve:
    from lapcpp import lapjv

    cost = _least(cost, maximize)
    return lambda: lapjv(cost, return_cost=False)[1]


@solver("torch-linear-assignment", "torch-linear-assignment")
def _torch_linear_assignment(cost: np.ndarray, maximize: bool) -> Solve:
    import torch
    from torch_linear_assignment import batch_linear_assignment

    if not torch.cuda.is_available():
        raise Unavailable("torch-linear-assignment calls scipy where there is no GPU")
    on_device = torch.from_numpy(_least(cost, maximize)).cuda()[None]
    return lambda: batch_linear_assignment(on_device)[0].cpu().numpy()

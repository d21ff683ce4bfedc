"""`growth`: time against the number of units and of layers, with exponents fitted to it.

Processor time of all threads, so that what else a machine does counts for little; the middle of several calls. An
exponent is the slope of log time over log size by least squares, and its standard error that of the residuals.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import lmc_fast as lmc
from lmc_fast.assignment import AssignmentSolver, assignment_gap
from lmc_fast.experiments.models import MLP

from .cases import Case, build
from .checking import TOLERANCE
from .checkpoint_pairs import LlamaSize, make_pair
from .gains import GainStore
from .options import add_out
from .report import Report, table

__all__ = ["SERIES", "Fit", "Series", "draw", "fitted", "register"]

_SHOWN = ("series", "against", "size", "p50_ms", "calls", "exponent", "standard_error", "points", "from_size", "status")
COLUMNS = ("command", *_SHOWN, "version", "commit", "python", "torch", "cpu", "cores", "threads", "numpy")
_UNITS, _LAYERS = "units", "layers"

# A size -> what is timed; what it takes to make is not.
Prepare = Callable[[int], Callable[[], object]]


@dataclass(frozen=True)
class Series:
    """What grows, against what, and the sizes at which it is looked at (few: for a look)."""

    against: str
    prepare: Prepare
    sizes: tuple[int, ...]
    quick: tuple[int, ...]


@dataclass(frozen=True)
class Fit:
    """time ~ size^exponent."""

    exponent: float
    standard_error: float
    factor: float


def fitted(sizes: Sequence[float], times: Sequence[float]) -> Fit:
    """A power by least squares over logarithms.

    Args:
        sizes, times: above 0, at least three points at two sizes or more.

    Raises:
        ValueError: fewer.
    """
    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(times, float))
    if len(x) < 3 or np.ptp(x) == 0:
        raise ValueError(f"sizes must be three or more and not all equal, got {list(sizes)}")
    spread = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * y).sum()) / spread
    left = y - y.mean() - slope * (x - x.mean())
    error = math.sqrt(float((left**2).sum()) / (len(x) - 2) / spread)
    return Fit(slope, error, math.exp(float(y.mean()) - slope * float(x.mean())))


def _lap(family: str) -> Prepare:
    def prepare(n: int) -> Callable[[], object]:
        problem = build(Case(family, n), GainStore())
        solver = AssignmentSolver(problem.maximize)
        columns = solver.solve(problem.cost)
        gap = assignment_gap(problem.cost, columns, solver.duals, problem.maximize)
        if not gap <= TOLERANCE * max(1.0, abs(solver.cost)):
            raise AssertionError(f"the optimum of {family} n = {n} is not proven: gap {gap:.3g}")
        return lambda: lmc.linear_sum_assignment(problem.cost, problem.maximize)

    return prepare


def _mlps(width: int, hidden: int) -> tuple[nn.Module, dict[str, torch.Tensor], lmc.PermutationSpec]:
    """A model, the same with its units in another order and half of its deviation of noise, and their spec."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MLP(64, (width,) * hidden, 10)
        spec = lmc.architectures.mlp(model)
        moved = lmc.Permutations.random(spec, 1).apply(model.state_dict())
        noisy = {name: t + 0.5 * t.std() * torch.randn_like(t) for name, t in moved.items()}
    return model, noisy, spec


def _matched(width: int, hidden: int) -> Callable[[], object]:
    model, other, spec = _mlps(width, hidden)
    return lambda: lmc.weight_matching(model, other, spec)


def _r_at_zero(method: str) -> Prepare:
    def prepare(n: int) -> Callable[[], object]:
        generator = torch.Generator().manual_seed(0)
        a, b = ({"w": torch.randn(n, n, generator=generator)} for _ in range(2))
        return lambda: lmc.spectral_alignment(a, b, gammas=(0.0,), method=method)

    return prepare


def _derived(layers: int) -> Callable[[], object]:
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, device="meta")
    model = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False).eval()
    return lambda: lmc.derive_spec(model, {"src": torch.zeros(2, 5, 64, device="meta")})


def _merged(layers: int) -> Callable[[], object]:
    folder = tempfile.TemporaryDirectory()
    pair = Path(folder.name)
    make_pair(pair, LlamaSize(128, 256, 4, 2, layers, vocabulary=512))
    turns = iter(range(1 << 30))

    def merge() -> object:
        # The folder goes with what is timed.
        out = Path(folder.name) / f"out {next(turns)}"
        return lmc.merge_checkpoints(pair / "A", pair / "B", out=out, spec=pair / "spec.json")

    return merge


SERIES: dict[str, Series] = {
    "lap, uniform": Series(_UNITS, _lap("uniform"), (256, 512, 1024, 2048, 4096, 8192, 16384), (32, 64, 128)),
    "lap, planted": Series(_UNITS, _lap("planted"), (256, 512, 1024, 2048, 4096, 8192, 16384), (32, 64, 128)),
    "wm, three hidden layers": Series(
        _UNITS, lambda n: _matched(n, 3), (256, 512, 1024, 2048, 4096, 8192), (16, 32, 64)
    ),
    "R(0), polar": Series(_UNITS, _r_at_zero("polar"), (256, 512, 1024, 2048, 4096), (16, 32, 64)),
    "R(0), svd": Series(_UNITS, _r_at_zero("svd"), (256, 512, 1024, 2048, 4096), (16, 32, 64)),
    "wm, 128 wide": Series(_LAYERS, lambda n: _matched(128, n), (2, 4, 8, 16, 32, 64), (2, 3, 4)),
    "derive, nn.TransformerEncoder": Series(_LAYERS, _derived, (2, 4, 8, 16, 32), (1, 2, 3)),
    "merge, Llama 128 wide": Series(_LAYERS, _merged, (2, 4, 8, 16, 32, 64), (1, 2, 3)),
}


def register(commands: argparse._SubParsersAction) -> None:
    """Add `growth`."""
    parser = commands.add_parser("growth", help="time against units and layers, with fitted exponents")
    parser.add_argument(
        "--series", nargs="+", choices=SERIES, metavar="SERIES", default=list(SERIES), help=f"of {[*SERIES]}"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="go on with a size for so long (default 3)")
    parser.add_argument(
        "--limit", type=float, default=60.0, help="a series ends where a call took longer than this (default 60)"
    )
    parser.add_argument("--most", type=int, default=0, help="leave out sizes above this; 0: none")
    parser.add_argument("--note", default="", help="told in every row, as of a machine that does much else")
    parser.add_argument("--quick", action="store_true", help="three small sizes of each: a look")
    add_out(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `growth`."""
    seconds = 0.0 if arguments.quick else arguments.seconds
    note = f"ok, {arguments.note}" if arguments.note else "ok"
    with Report(arguments.out, "growth", COLUMNS) as report:
        for name in arguments.series:
            series = SERIES[name]
            sizes = [n for n in (series.quick if arguments.quick else series.sizes) if n <= (arguments.most or n)]
            points = []
            for size, times in _measured(series, sizes, seconds, arguments.limit):
                points.append((size, statistics.median(times)))
                row = {"size": size, "p50_ms": 1e3 * points[-1][1], "calls": len(times)}
                report.add(series=name, against=series.against, version=lmc.__version__, status=note, **row)
                print(f"{name}, {size} {series.against}: {points[-1][1]:.3g} s", flush=True)
            if len(points) >= 3:
                fit = fitted(*zip(*points, strict=True))
                report.add(
                    series=name,
                    against=series.against,
                    version=lmc.__version__,
                    status=note,
                    exponent=fit.exponent,
                    standard_error=fit.standard_error,
                    points=len(points),
                    from_size=points[0][0],
                    size=points[-1][0],
                )
        print(table([row for row in report.rows if "exponent" in row], _SHOWN))
        print(f"rows: {report.path}")
    print(f"figure: {draw(arguments.out / 'growth.png', report.rows)}")
    return 0


def _measured(series: Series, sizes: Sequence[int], seconds: float, limit: float) -> Iterator[tuple[int, list[float]]]:
    """Each size with the seconds of its calls, after one that is not counted; three at least, where they are short."""
    for size in sizes:
        call = series.prepare(size)
        warmed = _timed(call)
        # Of a long call the first is as good as any.
        times = [warmed] if warmed > limit / 3 else [_timed(call) for _ in range(3)]
        while warmed <= limit / 3 and sum(times) < seconds and len(times) < 50:
            times.append(_timed(call))
        yield size, times
        if min(times) > limit:
            return


def _timed(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return max(time.process_time() - began, 1e-9)


def draw(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Time over units and over layers, both logarithmic, with the fitted powers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5))
    for axis, against in zip(axes, (_UNITS, _LAYERS), strict=True):
        for name in dict.fromkeys(row["series"] for row in rows if row["against"] == against):
            points = [(row["size"], row["p50_ms"]) for row in rows if row["series"] == name and "p50_ms" in row]
            exponents = [row for row in rows if row["series"] == name and "exponent" in row]
            label = name
            if exponents:
                label += f": {exponents[0]['exponent']:.2f} ± {exponents[0]['standard_error']:.2f}"
            (line,) = axis.plot(*zip(*points, strict=True), marker=".", linestyle="none", label=label)
            if exponents:
                fit = fitted(*zip(*points, strict=True))
                ends = [points[0][0], points[-1][0]]
                axis.plot(ends, [fit.factor * n**fit.exponent for n in ends], color=line.get_color(), linewidth=1)
        axis.set(xlabel=against, ylabel="processor time, ms", yscale="log")
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:.0f}")
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path

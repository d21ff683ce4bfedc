"""`wm`: weight matching of trained pairs, against the textbook loop, a warm-started one, and peers."""

from __future__ import annotations

import argparse
import copy
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast.experiments.models import MLP

from . import textbook
from .matchers import CONTENDERS, DESCENT, IDENTITY, JOINT, RECENTRED, TEXTBOOK, Found, Match
from .options import add_data, add_out
from .pairs import MODELS, Pair, PairStore, check_model
from .report import COLUMNS, Report, table
from .solvers import OURS, Unavailable, version_of
from .timing import Timing, forget_peak, peak_bytes, resident_bytes

__all__ = ["compare", "measure_memory", "register", "summary"]

_QUICK_MODELS = ("mlp-512", "resnet20-1")
_QUICK_STEPS = 60
_WM_COLUMNS = (
    *("model", "objective", "objective_min", "objective_max", "l2_after", "sweeps", "orders", "output_change"),
    *("peak_mb", "bound_mb", "peak_over_bound"),
)
# Permuting changes outputs by rounding; a wrong permutation by much more.
_OUTPUT_TOLERANCE = 1e-3


def register(commands: argparse._SubParsersAction) -> None:
    """Add `wm`."""
    parser = commands.add_parser("wm", help="weight matching of trained pairs, against the textbook loop and peers")
    parser.add_argument("--models", nargs="+", metavar="MODEL", help=f"default: {' '.join(MODELS)}; or other widths")
    known = ", ".join(repr(name) for name in CONTENDERS)
    parser.add_argument(
        "--contenders",
        nargs="+",
        choices=CONTENDERS,
        metavar="NAME",
        default=list(CONTENDERS),
        help=f"of {known}; {IDENTITY!r} always runs",
    )
    parser.add_argument("--orders", type=int, default=5, help="seeds of the order of visits (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="go on with a contender for so long (default 2)")
    after = "seconds after which a contender gets no further order, and the textbook loop no further sweep"
    parser.add_argument("--limit", type=float, default=900.0, help=f"{after} (default 900)")
    parser.add_argument(
        "--steps",
        type=int,
        default=PairStore.steps,
        help=f"of training for each MLP (default {PairStore.steps}); convolutional models take a fifth",
    )
    parser.add_argument("--quick", action="store_true", help="two small models, short training, one order, no memory")
    add_data(parser)
    add_out(parser)
    # What the command starts to measure memory; the answer is a line of JSON.
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `wm`; 1 if a permutation of ours changed what a model computes."""
    if arguments.data is not None and not arguments.data.is_file():
        raise FileNotFoundError(f"--data must be an .npz file, got {str(arguments.data)!r}")
    if arguments.one:
        print(json.dumps(measure_memory(_store(arguments).get(arguments.one))))
        return 0
    models = arguments.models or (_QUICK_MODELS if arguments.quick else MODELS)
    for name in models:
        check_model(name)
    store = _store(arguments)
    names = list(dict.fromkeys([IDENTITY, *arguments.contenders]))
    orders, seconds = (1, min(arguments.seconds, 0.2)) if arguments.quick else (arguments.orders, arguments.seconds)
    with Report(arguments.out, "wm", (*COLUMNS, *_WM_COLUMNS)) as report:
        for name in models:
            pair = store.get(name)
            rows = compare(pair, names, orders=orders, seconds=seconds, limit=arguments.limit)
            if OURS in rows and not arguments.quick:
                rows[OURS] |= _memory_in_a_process(name, arguments)
            for row in rows.values():
                report.add(**row)
                print(f"{name} {row['solver']}: {row['status']}", flush=True)
        print(table(summary(report.rows), _SUMMARY))
        print(f"rows: {report.path}")
        return int(any(row["status"].startswith(("wrong", "failed")) for row in report.rows if _is_ours(row["solver"])))


def _store(arguments: argparse.Namespace) -> PairStore:
    # Progress of a child goes elsewhere than its answer.
    say: Callable[[str], None] = (lambda text: print(text, file=sys.stderr)) if arguments.one else print
    steps = min(arguments.steps, _QUICK_STEPS) if arguments.quick else arguments.steps
    return PairStore(arguments.data, arguments.cache, say, steps)


def _is_ours(name: str) -> bool:
    return name.startswith(OURS)


@dataclass
class _Tally:
    """Runs of one contender on one pair so far."""

    match: Match
    times: list[float] = field(default_factory=list)
    founds: list[Found] = field(default_factory=list)

    def turn(self, seed: int, keep: bool) -> None:
        begin = time.perf_counter()
        found = self.match(seed)
        self.times.append(time.perf_counter() - begin)
        if keep:
            self.founds.append(found)


def compare(
    pair: Pair, names: Sequence[str], *, orders: int, seconds: float, limit: float
) -> dict[str, dict[str, Any]]:
    """Time the named contenders on a pair, in turn, and look at what they found; a row for each.

    In round k all search with seed k, which gives the order of visits where that is random. After `orders` rounds
    those that had less than `seconds` in all go on; objectives are means over the orders. A contender drops out once
    it has had `limit` seconds. No time is given for one whose permutations change what the model computes.
    """
    rows: dict[str, dict[str, Any]] = {name: {"model": pair.name, "solver": name} for name in names}
    tallies: dict[str, _Tally] = {}
    for name in names:
        rows[name]["solver_version"] = _version(CONTENDERS[name].distribution)
        try:
            _warm_up(name)
            tallies[name] = _Tally(CONTENDERS[name](pair, limit))
        except Unavailable as reason:
            rows[name]["status"] = f"skipped: {reason}"
    running = list(tallies)
    turn = 0
    while running:
        for k in range(len(running)):
            name = running[(turn + k) % len(running)]
            try:
                tallies[name].turn(turn % orders, keep=turn < orders)
            # A peer may fail in any way; that is its result.
            except Exception as error:
                if _is_ours(name):
                    raise
                rows[name]["status"] = f"failed: {type(error).__name__}: {_first_line(error)}"
                del tallies[name]
        turn += 1
        spent = {name: sum(tally.times) for name, tally in tallies.items()}
        running = [name for name in spent if spent[name] < limit and (turn < orders or spent[name] < seconds)]
    for name, tally in tallies.items():
        rows[name] |= _judged(pair, tally)
    ours = rows[IDENTITY].get("p50_ms", math.nan)
    for row in rows.values():
        if "p50_ms" in row:
            row["ratio"] = ours / row["p50_ms"]
    return rows


def _warm_up(name: str) -> None:
    """Run a contender on next to nothing: what libraries set up on their first use is no part of a run."""
    models = [MLP(4, (8, 8), 3).eval() for _ in range(2)]
    pair = Pair("warm-up", *models, lmc.architectures.mlp(models[0]), torch.zeros(2, 1, 2, 2))
    try:
        CONTENDERS[name](pair, math.inf)(0)
    # It is told of the pair that is measured.
    except Exception:
        if _is_ours(name):
            raise


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def _judged(pair: Pair, tally: _Tally) -> dict[str, Any]:
    """Objectives, distances and times, if every model found computes what it did before."""
    a, b = pair.a.state_dict(), pair.b.state_dict()
    identity = lmc.Permutations.identity(pair.spec).choices
    objectives, changes = [], []
    for found in tally.founds:
        permuted = found.permuted()
        objectives.append(textbook.objective_of(a, permuted, pair.spec, identity))
        changes.append(_output_change(pair.b, permuted, pair.inputs))
    row: dict[str, Any] = {"output_change": max(changes), "orders": len(objectives)}
    if not max(changes) <= _OUTPUT_TOLERANCE:
        return {**row, "status": f"wrong: outputs change by {max(changes):.2g} of the largest"}
    squares = sum(textbook.objective_of(state, state, pair.spec, identity) for state in (a, b))
    mean = sum(objectives) / len(objectives)
    sweeps = [found.sweeps for found in tally.founds if found.sweeps is not None]
    timing = Timing(tuple(tally.times))
    whole = all(found.whole for found in tally.founds)
    return {
        **row,
        **{f"p{p}_ms": 1e3 * timing.percentile(p) for p in (20, 50, 80)},
        "calls": len(timing.samples),
        "objective": mean,
        "objective_min": min(objectives),
        "objective_max": max(objectives),
        "l2_after": math.sqrt(max(0.0, squares - 2 * mean)),
        "sweeps": sum(sweeps) / len(sweeps) if sweeps else None,
        "status": "ok" if whole else "stopped before it converged",
    }


def _output_change(model: nn.Module, permuted: dict[str, Tensor], inputs: Tensor) -> float:
    """Largest change of an output relative to the largest output."""
    other = copy.deepcopy(model)
    other.load_state_dict(permuted)
    with torch.no_grad():
        outputs = model(inputs)
        return float((other(inputs) - outputs).abs().max() / outputs.abs().max())


def _version(distribution: str) -> str:
    return lmc.__version__ if distribution == OURS else version_of(distribution)


def _memory_in_a_process(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.run", "wm", "--one", name, "--cache", str(arguments.cache)]
    command += ["--steps", str(arguments.steps)]
    command += ["--data", str(arguments.data)] if arguments.data else []
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent)
    if done.returncode:
        return {"status": f"failed: {(done.stderr.strip().splitlines() or [f'exit {done.returncode}'])[-1]}"}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measure_memory(pair: Pair) -> dict[str, float]:
    """Match a pair once, from the default start, and say how much memory that took at most, both models included.

    The bound is the two models and three float32 matrices of the largest group.
    """
    # What the libraries set up on their first use is no part of a run.
    tiny = {"w": torch.randn(64, 64)}
    lmc.weight_matching(tiny, tiny, lmc.PermutationSpec.from_axes({"w": ("p", None)}))
    a, b = pair.a.state_dict(), pair.b.state_dict()
    models = sum(tensor.nbytes for state in (a, b) for tensor in state.values())
    forget_peak()
    before = resident_bytes()
    lmc.weight_matching(a, b, pair.spec)
    # What was freed before may be given back only now: a tiny pair can end below where it began.
    peak = models + max(0, peak_bytes() - before)
    bound = models + 3 * 4 * max(pair.spec.units(group) for group in pair.spec.groups) ** 2
    return {"peak_mb": peak / 1e6, "bound_mb": bound / 1e6, "peak_over_bound": peak / bound}


_TIMED = {
    "textbook": TEXTBOOK,
    "recentred": RECENTRED,
    "identity": IDENTITY,
    "default": OURS,
    "descent": DESCENT,
    "joint": JOINT,
}
_SUMMARY = (
    *("model", "textbook_ms", "recentred_ms", "identity_ms", "default_ms", "descent_ms", "joint_ms"),
    *("times_faster", "default_times", "descent_times", "joint_times"),
    *("textbook_obj", "identity_obj", "default_obj", "descent_obj", "joint_obj", "peak_over_bound", "note"),
)


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For every model medians in ms, how many times faster than the textbook loop, and mean objectives.

    `times_faster` is of the same start, the identity; `default_times` of ours as it comes, `descent_times`
    with search="coordinate_descent", `joint_times` with search="frank_wolfe".
    """
    lines = []
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = {row["solver"]: row for row in rows if row["model"] == model}
        line: dict[str, Any] = {"model": model}
        for column, name in _TIMED.items():
            row = mine.get(name, {})
            line |= {f"{column}_ms": row.get("p50_ms"), f"{column}_obj": _exact(row.get("objective"))}
        if line["textbook_ms"]:
            line["times_faster"] = _over(line["textbook_ms"], line["identity_ms"])
            for column in ("default", "descent", "joint"):
                line[f"{column}_times"] = _over(line["textbook_ms"], line[f"{column}_ms"])
        line["peak_over_bound"] = mine.get(OURS, {}).get("peak_over_bound")
        line["note"] = "; ".join(f"{name} {row['status']}" for name, row in mine.items() if row["status"] != "ok")
        lines.append(line)
    return lines


def _exact(objective: float | None) -> str:
    """More digits than the table gives: objectives differ in the third or fourth."""
    return "" if objective is None else f"{objective:.6g}"


def _over(time: float, ours: float | None) -> float | None:
    return time / ours if ours else None

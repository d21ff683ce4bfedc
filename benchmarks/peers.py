"""`peers`: what users would pick instead, each in a process of its own: time, objective and barrier of matchers on one
pair, time and exactness of solvers on one matrix. What is not there is told so."""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast.experiments.datasets import load_dataset

from . import textbook
from .cases import FAMILIES, Case, build
from .checking import TOLERANCE, optimum_of, relative_error
from .options import add_data, add_out, gains_of
from .pairs import Pair, PairStore, check_model
from .peer_matchers import PEERS
from .report import Report, table
from .solvers import OURS, SOLVERS, Unavailable, version_of

__all__ = ["judged", "measured", "register"]

_SHOWN = (
    *("what", "problem", "peer", "peer_version", "processor_ms", "calls", "ratio", "objective", "barrier"),
    *("relative_error", "output_change", "status"),
)
COLUMNS = ("command", *_SHOWN, "note", "version", "commit", "python", "torch", "cpu", "cores", "threads", "numpy")
_MATCHER, _SOLVER = "matcher", "solver"
# Permuting changes outputs by rounding; a wrong permutation by much more.
_OUTPUT_TOLERANCE = 1e-3


def register(commands: argparse._SubParsersAction) -> None:
    """Add `peers`."""
    parser = commands.add_parser("peers", help="matchers and solvers of others on the same problems, one table")
    parser.add_argument("--models", nargs="*", metavar="MODEL", default=["mlp-256", "resnet20-1"], help="as of wm")
    parser.add_argument("--matchers", nargs="*", choices=PEERS, default=list(PEERS), metavar="PEER", help=f"{[*PEERS]}")
    parser.add_argument("--families", nargs="*", choices=FAMILIES, default=["planted", "uniform"], metavar="FAMILY")
    parser.add_argument("--sizes", nargs="*", type=int, default=[512, 2048], metavar="N", help="of matrices")
    parser.add_argument("--solvers", nargs="*", choices=SOLVERS, default=list(SOLVERS), metavar="SOLVER")
    parser.add_argument("--site", type=Path, action="append", default=[], help="a folder of installed packages")
    parser.add_argument(
        "--clone", action="append", default=[], metavar="NAME=PATH", help="git-re-basin-pytorch, c2m3, sinkhorn-rebasin"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="go on with each for so long (default 2)")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds after which a process ends (default 600)")
    parser.add_argument("--steps", type=int, default=PairStore.steps, help="of training, as of wm")
    parser.add_argument("--quick", action="store_true", help="a small pair and matrix, short training: a look")
    parser.add_argument("--note", default="", help="told in every row, as of a machine that does much else")
    add_data(parser)
    add_out(parser)
    # What the command starts for one row; the answer is a line of JSON.
    parser.add_argument("--one", nargs=3, metavar=("WHAT", "PROBLEM", "PEER"), help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `peers`; 1 if ours failed or was wrong."""
    clones = _clones(arguments.clone)
    if arguments.one:
        print(json.dumps(_one(arguments, clones)))
        return 0
    models, sizes = arguments.models, arguments.sizes
    if arguments.quick:
        models, sizes = models and ["mlp-16"], sizes and [64]
        arguments.steps, arguments.seconds = min(arguments.steps, 40), 0.0
    for name in models:
        check_model(name)
        _store(arguments).get(name)
    works = [(_MATCHER, model, name) for model in models for name in dict.fromkeys([OURS, *arguments.matchers])]
    problems = [f"{family} {n}" for family in arguments.families for n in sizes]
    works += [(_SOLVER, problem, name) for problem in problems for name in dict.fromkeys([OURS, *arguments.solvers])]
    failed = False
    with Report(arguments.out, "peers", COLUMNS) as report:
        for what, problem, name in works:
            row = _in_a_process(arguments, what, problem, name)
            report.add(what=what, problem=problem, peer=name, note=arguments.note, version=lmc.__version__, **row)
            failed = failed or (name.startswith(OURS) and row["status"] != "ok")
            print(f"{problem}, {name}: {row['status']}", flush=True)
        print(table(report.rows, _SHOWN))
        print(f"rows: {report.path}")
    return int(failed)


def _clones(told: list[str]) -> dict[str, Path]:
    found = {}
    for text in told:
        name, mark, path = text.partition("=")
        known = sorted({peer.clone for peer in PEERS.values() if peer.clone})
        if not mark or name not in known:
            raise ValueError(f"--clone must be NAME=PATH with a name of {known}, got {text!r}")
        found[name] = Path(path)
    return found


def _store(arguments: argparse.Namespace) -> PairStore:
    say: Callable[[str], None] = (lambda text: print(text, file=sys.stderr)) if arguments.one else print
    return PairStore(arguments.data, arguments.cache, say, arguments.steps)


def _in_a_process(arguments: argparse.Namespace, what: str, problem: str, name: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.run", "peers", "--one", what, problem, name]
    command += ["--cache", str(arguments.cache), "--steps", str(arguments.steps), "--seconds", str(arguments.seconds)]
    command += ["--data", str(arguments.data)] if arguments.data else []
    for told in arguments.clone:
        command += ["--clone", told]
    here = Path(__file__).parent.parent
    # Packages of the folders come last, so that none takes the place of an installed one.
    paths = [os.environ.get("PYTHONPATH", ""), str(here), *(str(site.absolute()) for site in arguments.site)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=here, env=environment, timeout=arguments.limit
        )
    except subprocess.TimeoutExpired:
        return {"status": f"stopped after {arguments.limit:g} s"}
    if done.returncode:
        return {"status": f"failed: {(done.stderr.strip().splitlines() or [f'exit {done.returncode}'])[-1]}"}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _one(arguments: argparse.Namespace, clones: dict[str, Path]) -> dict[str, Any]:
    what, problem, name = arguments.one
    try:
        if what == _SOLVER:
            return _solved(problem, name, arguments)
        chosen = PEERS[name]
        clone = clones.get(chosen.clone)
        pair = _store(arguments).get(problem)
        search = chosen(pair, clone)
    except Unavailable as reason:
        return {"status": _absent(str(reason))}
    found: list[dict[str, Tensor]] = []
    try:
        row = measured(lambda: found.append(search()), PEERS[OURS](pair, None), arguments.seconds)
    # A peer may fail in any way; that is its result.
    except Exception as error:
        if name.startswith(OURS):
            raise
        return {"status": f"failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}
    told = judged(pair, found[0], arguments.data)
    return {"peer_version": chosen.version(clone)} | (row if told["status"] == "ok" else {}) | told


def _absent(reason: str) -> str:
    if reason.startswith(("not installed", "does not take")):
        return reason
    _, mark, why = reason.partition(" is not installed ")
    return f"not installed: {why.strip('()') if mark else reason}"


def measured(peer: Callable[[], object], ours: Callable[[], object], seconds: float) -> dict[str, Any]:
    """Processor time of a peer and of ours in turns, both after a call that is not counted; what takes long is not
    called again.

    `ratio` is the peer's time over ours.
    """
    first = _timed(peer)
    _timed(ours)
    theirs, mine = [], []
    while not mine or (sum(theirs) < seconds and len(mine) < 50):
        mine.append(_timed(ours))
        # The first call counts where it is most of what there is time for.
        theirs.append(first if first > max(seconds, 0.5) else _timed(peer))
    middle = statistics.median(theirs)
    return {"processor_ms": 1e3 * middle, "calls": len(theirs), "ratio": middle / statistics.median(mine)}


def _timed(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return max(time.process_time() - began, 1e-9)


def judged(pair: Pair, permuted: dict[str, Tensor], data: Path | None) -> dict[str, Any]:
    """Objective and barrier of the test loss for a second model that still computes what it did, else that alone."""
    model = copy.deepcopy(pair.b)
    model.load_state_dict(permuted)
    with torch.no_grad():
        outputs = pair.b(pair.inputs)
        change = float((model(pair.inputs) - outputs).abs().max() / outputs.abs().max())
    if not change <= _OUTPUT_TOLERANCE:
        return {"output_change": change, "status": f"wrong: outputs change by {change:.2g} of the largest"}
    known = load_dataset("digits" if data is None else data)
    sets = [(known.test_inputs, known.test_targets), (known.train_inputs, known.train_targets)]
    if not pair.name.startswith("mlp"):
        factor = known.test_inputs.shape[-1] // pair.inputs.shape[-1]
        sets = [(nn.functional.avg_pool2d(inputs, factor), targets) for inputs, targets in sets]
    test, training = ([(inputs[:2000], targets[:2000])] for inputs, targets in sets)
    has_statistics = any("running_mean" in name for name in permuted)
    curve = lmc.loss_barrier(pair.a, permuted, test, lambdas=11, batchnorm_batches=training if has_statistics else None)
    identity = lmc.Permutations.identity(pair.spec).choices
    objective = textbook.objective_of(pair.a.state_dict(), permuted, pair.spec, identity)
    return {"objective": objective, "barrier": curve.barrier, "output_change": change, "status": "ok"}


def _solved(problem: str, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    family, n = problem.split()
    made = build(Case(family, int(n)), gains_of(arguments))
    optimum = optimum_of(made.cost, made.maximize)
    solve = SOLVERS[name](made.cost, made.maximize)
    error = relative_error(made.cost, solve(), optimum)
    row: dict[str, Any] = {"peer_version": lmc.__version__ if name.startswith(OURS) else ""}
    row["peer_version"] = row["peer_version"] or version_of(SOLVERS[name].distribution)
    row["relative_error"] = error
    if not error <= TOLERANCE:
        return {**row, "status": f"wrong: relative error {error:.2g}"}
    return {**row, **measured(solve, SOLVERS[OURS](made.cost, made.maximize), arguments.seconds), "status": "ok"}

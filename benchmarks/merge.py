"""`merge`: two planted Llama checkpoints merged on disk: time, the share of products, own memory, groups recovered."""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lmc_fast.large.memory import give_back

from .checkpoint_pairs import SIZES, make_pair
from .merging import CONTENDERS, OURS, PLAIN, agree
from .options import add_out
from .report import Report, table
from .solvers import Unavailable

__all__ = ["register"]

_SHOWN = (
    *("size", "parameters", "contender", "turn", "seconds", "on_disk_s", "match_s", "products_s", "ratio"),
    *("processor_s", "processor_ratio", "tflops", "own_mib", "found", "status"),
)
COLUMNS = (
    *("command", *_SHOWN, "layers", "hidden", "noise", "version"),
    *("commit", "python", "torch", "cpu", "cores", "threads", "numpy"),
)


def register(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = commands.add_parser("merge", help=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["119m"])
    parser.add_argument(
        "--against", nargs="*", choices=[name for name in CONTENDERS if name != OURS], default=[], metavar="CONTENDER"
    )
    parser.add_argument("--only-against", action="store_true", help="leave out the merge that aligns")
    parser.add_argument("--rounds", type=int, default=1, help="how often all contenders take their turn")
    parser.add_argument("--noise", type=float, default=0.1, help="share of the weights' deviation")
    parser.add_argument("--folder", type=Path, help="where the checkpoints are made, and removed again")
    parser.add_argument("--site", type=Path, help="a folder of packages that peers are imported from")
    parser.add_argument("--append", action="store_true", help="leave the rows of before in the CSV file")
    add_out(parser)
    # What the command starts for one case; the answer is a line of JSON.
    parser.add_argument("--one", nargs=2, metavar=("CONTENDER", "PAIR"), help=argparse.SUPPRESS)
    parser.set_defaults(run=run)
    parser.epilog = "Contenders: " + "; ".join(f"{name}: {told.__doc__}" for name, told in CONTENDERS.items())


def run(arguments: argparse.Namespace) -> int:
    """Run `merge`; 1 if a case failed."""
    if arguments.one:
        name, pair = arguments.one
        try:
            row = CONTENDERS[name](Path(pair), arguments.site)
        except Unavailable as reason:
            row = {"status": f"skipped: {reason}"}
        print(json.dumps(row))
        return 0
    names = [*([] if arguments.only_against else [OURS]), *arguments.against]
    failed = False
    with Report(arguments.out, "merge", COLUMNS, append=arguments.append) as report:
        for size in arguments.sizes:
            with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                pair = Path(folder)
                make_pair(pair, SIZES[size], noise=arguments.noise, told=partial(_tell_file, size))
                # What making them took is not the merge's.
                give_back()
                for turn in range(arguments.rounds):
                    for name in names[turn % len(names) :] + names[: turn % len(names)]:
                        row = _in_a_process(name, pair, arguments)
                        failed = failed or row["status"].startswith(("failed", "wrong"))
                        report.add(**_of(size), noise=arguments.noise, contender=name, turn=turn, **row)
                        print(f"{size} {name}: {row['status']}", flush=True)
    print(table(report.rows, _SHOWN))
    print(f"rows: {report.path}")
    return int(failed)


def _tell_file(size: str, path: Path) -> None:
    print(f"{size}: making {path.parent.name}/{path.name}", file=sys.stderr, flush=True)


def _of(name: str) -> dict[str, Any]:
    size = SIZES[name]
    parameters = sum(math.prod(shape) for shape in size.shapes().values())
    return {"size": name, "parameters": parameters, "layers": size.layers, "hidden": size.hidden}


def _in_a_process(name: str, pair: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    # What others have written is on the disk before the clock starts.
    os.sync()
    command = [sys.executable, "-m", "benchmarks.run", "merge", "--one", name, str(pair)]
    command += ["--site", str(arguments.site)] if arguments.site else []
    here = Path(__file__).parent.parent
    # The answer is a line; what is told on the way is passed on as it comes, and its end says what went wrong.
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=here) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        last = ""
        for line in process.stderr:
            print(line, end="", file=sys.stderr, flush=True)
            last = line.strip() or last
        answer = process.stdout.read()
    out = pair / f"out {name}"
    try:
        if process.returncode:
            return {"status": f"failed: {last or f'exit {process.returncode}'}"}
        row: dict[str, Any] = json.loads(answer.splitlines()[-1])
        if row["status"] == "ok" and name != OURS and name != PLAIN and not agree(pair, out):
            row["status"] = "wrong: not the mean of the two"
        return row
    finally:
        shutil.rmtree(out, ignore_errors=True)


# Threads that torch takes in a process of its own are as many as here.
os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))

"""`startup`: what the import of the package adds to torch's own, and how soon the command answers."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from .options import add_out
from .report import Report, table

__all__ = ["register"]

_SHOWN = ("what", "p20_ms", "p50_ms", "p80_ms", "runs", "asked_ms", "status")
COLUMNS = ("command", *_SHOWN, "version", "commit", "python", "torch", "cpu", "cores", "threads", "numpy")

# In a process of its own each: seconds of the last line alone.
_IMPORT = "import time, torch\nbegan = time.perf_counter()\n{line}\nprint(time.perf_counter() - began)"
_FIRST_CALL = """
import time, torch, lmc_fast as lmc
model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
spec = lmc.architectures.mlp(model)
began = time.perf_counter()
lmc.weight_matching(model, model, spec)
print(time.perf_counter() - began)
"""
# By what is measured the code, or the command's arguments; and the milliseconds that are asked for, where any are.
WORKS: dict[str, tuple[str | list[str], float | None]] = {
    "import lmc_fast, after torch": (_IMPORT.format(line="import lmc_fast"), 60.0),
    "and weight_matching": (_IMPORT.format(line="from lmc_fast import weight_matching"), None),
    "and every public name": (_IMPORT.format(line="from lmc_fast import *"), None),
    "first weight_matching": (_FIRST_CALL, None),
    "lmc-fast --help": (["--help"], 400.0),
    "lmc-fast merge --help": (["merge", "--help"], None),
    "python -c ''": ("print(0)", None),
}


def register(commands: argparse._SubParsersAction) -> None:
    """Add `startup`."""
    parser = commands.add_parser(
        "startup", help="what the import adds to torch's own, and how soon the command answers"
    )
    parser.add_argument("--runs", type=int, default=9)
    add_out(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `startup`: processes in turn, after one each that fills the system's caches."""
    samples: dict[str, list[float]] = {name: [] for name in WORKS}
    for turn in range(arguments.runs + 1):
        for name, (work, _) in WORKS.items():
            seconds = _command(work) if isinstance(work, list) else _code(name, work)
            if turn:
                samples[name].append(1e3 * seconds)
    with Report(arguments.out, "startup", COLUMNS) as report:
        for name, times in samples.items():
            asked = WORKS[name][1]
            middle = statistics.median(times)
            low, *_, high = statistics.quantiles(times, n=5, method="inclusive")
            status = "" if asked is None else "met" if middle < asked else "missed"
            numbers = {"p20_ms": round(low, 1), "p50_ms": round(middle, 1), "p80_ms": round(high, 1)}
            report.add(what=name, **numbers, runs=len(times), asked_ms=asked or "", status=status)
        print(table(report.rows, _SHOWN))
    print(f"rows: {report.path}")
    return 0


def _timed(call: Callable[[], subprocess.CompletedProcess[str]]) -> tuple[float, str]:
    began = time.perf_counter()
    done = call()
    seconds = time.perf_counter() - began
    if done.returncode:
        raise ValueError(f"a process that was measured failed: {done.stderr.strip()[-500:]}")
    return seconds, done.stdout


def _command(words: list[str]) -> float:
    command = [sys.executable, "-m", "lmc_fast", *words]
    return _timed(lambda: subprocess.run(command, capture_output=True, text=True, check=False))[0]


def _code(name: str, code: str) -> float:
    command = [sys.executable, "-c", code]
    whole, said = _timed(lambda: subprocess.run(command, capture_output=True, text=True, check=False))
    return whole if name.startswith("python") else float(said)

"""`kernels`: the operations of lmc_fast.ops against torch, with a roofline over ceilings measured in the same run."""

from __future__ import annotations

import argparse
import functools
import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lmc_fast._backend import backends

from .kernel_works import Work, works
from .options import add_out
from .report import COLUMNS, Report, table
from .solvers import version_of
from .timing import Timing, alternate

__all__ = ["KERNEL_COLUMNS", "TOLERANCE", "ceilings", "device_told", "measure", "register"]

GPU_COMMAND = "python -m benchmarks.run kernels"
# Of a CPU's ceilings: bytes that are copied, and the side of a product.
COPIED, SIDE = 1 << 27, 1024
# What a result may be off from the exact one of the same inputs, relative in norm, before it is rounded.
TOLERANCE = 1e-6
# Writing this between two calls leaves a GPU's cache without their inputs.
FLUSH_BYTES = 256 << 20
# From so many bytes on glibc takes what it gives from the system each time, and gives it back.
NEW_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "131072"}
# Of a GPU's clock, about.
CYCLES_PER_SECOND = 2e9
KERNEL_COLUMNS = ("gb_s", "tflop_s", "of_roofline", "device", "driver", "triton")
SHOWN = ("family", "n", "dtype", "solver", "p20_ms", "p50_ms", "p80_ms", "ratio", "gb_s", "tflop_s", "of_roofline")


def register(commands: argparse._SubParsersAction) -> None:
    """Add `kernels`."""
    parser = commands.add_parser("kernels", help="interpolation, gain matrices and spectral overlaps against torch")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 4096], help="n of n x n (default 1024 4096)")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each contender (default 0.5)")
    parser.add_argument("--device", help="default: the GPU if there is one, else the CPU")
    parser.add_argument("--only", default="", help="families whose name holds this")
    told = "on a CPU: every new tensor in pages new to the process, as in its first call; else those of the call before"
    parser.add_argument("--new-memory", action="store_true", help=told)
    add_out(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `kernels`; 1 if a result of ours was wrong."""
    if arguments.new_memory and not NEW_MEMORY.items() <= os.environ.items():
        # Read when a process begins.
        command = [sys.executable, "-m", "benchmarks.run", *sys.argv[1:]]
        return subprocess.run(command, env={**os.environ, **NEW_MEMORY}, check=False).returncode
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    print(backends())
    limits = ceilings(device, arguments.seconds)
    print(", ".join(f"{name}: {value:.4g}" for name, value in limits.items()))
    wrong = 0
    name = f"kernels-{device.type}{'-new-memory' if arguments.new_memory else ''}"
    with Report(arguments.out, name, (*COLUMNS, *KERNEL_COLUMNS)) as report:
        for work in works(arguments.sizes, device):
            if arguments.only not in work.family:
                continue
            error = measure(work, device, arguments.seconds, limits, report)
            wrong += not error <= TOLERANCE
            gc.collect()
        print(table(report.rows, SHOWN))
        print(f"rows: {report.path}")
        drawn = _draw(report.rows, report.path.with_suffix(".png"))
        if drawn is not None:
            print(f"figure: {drawn}")
    if device.type != "cuda":
        print(f"GPU: not measured (torch finds none here). Where there is one: {GPU_COMMAND}")
    return int(wrong > 0)


def measure(
    work: Work,
    device: torch.device,
    seconds: float,
    limits: Mapping[str, float],
    report: Report,
    *,
    ahead: bool = False,
    errors: Mapping[str, float] | None = None,
) -> float:
    """Run one work, write its rows, and return the error of our result.

    Args:
        errors: of other contenders, where they are known.
        ahead: on a GPU, keep it busy until the host has handed out a call's work: times are the device's own.
    """
    timings = _alternate(work.contenders, device, seconds, ahead)
    error = work.error()
    names = list(timings)
    reference = timings[names[1]].percentile(50)
    rate = limits[f"{_short(work.dtype)} TFLOP/s"]
    floor = max(work.moved / (limits["GB/s"] * 1e9), work.operations / (rate * 1e12))
    for name in names:
        median = timings[name].percentile(50)
        report.add(
            family=work.family,
            n=work.n,
            dtype=_short(work.dtype),
            solver=f"{name}, host ahead" if ahead else name,
            **{f"p{p}_ms": 1e3 * timings[name].percentile(p) for p in (20, 50, 80)},
            calls=len(timings[name].samples),
            ratio=reference / median,
            gb_s=work.moved / median / 1e9,
            tflop_s=work.operations / median / 1e12,
            of_roofline=floor / median,
            relative_error=error if name == names[0] else (errors or {}).get(name),
            status="ok" if name != names[0] or error <= TOLERANCE else f"wrong: relative error {error:.2g}",
            **device_told(device),
        )
    return error


def device_told(device: torch.device) -> dict[str, str]:
    """What a row says about the device: its name, its driver, Triton."""
    return {"device": _device_name(device), "driver": _driver(device), "triton": version_of("triton")}


def ceilings(device: torch.device, seconds: float) -> dict[str, float]:
    """What the device can do: a large copy (bytes read and written), and a large product for each dtype."""
    size = 1 << 30 if device.type == "cuda" else COPIED
    a, b = (torch.ones(size, dtype=torch.uint8, device=device) for _ in range(2))
    runs: dict[str, Callable[[], object]] = {"copy": lambda: b.copy_(a)}
    n = 8192 if device.type == "cuda" else SIDE
    for dtype in (torch.bfloat16, torch.float32):
        x, y = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        runs[_short(dtype)] = lambda x=x, y=y: x @ y
    timings = _alternate(runs, device, seconds)
    found = {"GB/s": 2 * size / timings.pop("copy").percentile(50) / 1e9}
    return found | {f"{name} TFLOP/s": 2 * n**3 / t.percentile(50) / 1e12 for name, t in timings.items()}


def _alternate(
    contenders: Mapping[str, Callable[[], object]], device: torch.device, seconds: float, ahead: bool = False
) -> dict[str, Timing]:
    """Times of contenders that take turns; on a GPU by its own clock, with inputs out of its cache.

    Each begins with the GPU idle, so that it waits for the host's part of a call; or, with `ahead`, with a GPU that is
    kept busy until that is done.
    """
    if device.type != "cuda":
        return alternate(contenders, seconds=seconds)
    scratch = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device)
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    busy: dict[str, int] = {}
    for name, run_once in contenders.items():
        # Compiles, then warms up, then tells how long the host takes.
        for _ in range(3):
            torch.cuda.synchronize(device)
            began = time.perf_counter()
            run_once()
            busy[name] = int(CYCLES_PER_SECOND * (2 * (time.perf_counter() - began) + 1e-4))
    torch.cuda.synchronize(device)
    deadline = time.perf_counter() + seconds * len(contenders)
    while time.perf_counter() < deadline or min(map(len, samples.values())) < 5:
        events = {}
        for name, run_once in contenders.items():
            scratch.zero_()
            if ahead:
                torch.cuda._sleep(busy[name])
            else:
                torch.cuda.synchronize(device)
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            run_once()
            end.record()
            events[name] = (begin, end)
        torch.cuda.synchronize(device)
        for name, (begin, end) in events.items():
            samples[name].append(begin.elapsed_time(end) / 1e3)
    return {name: Timing(tuple(times)) for name, times in samples.items()}


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@functools.cache
def _driver(device: torch.device) -> str:
    """The version of NVIDIA's driver; "" on a CPU and where its tool is not there to ask."""
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "-i", str(device.index or 0)]
    if device.type != "cuda":
        return ""
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _draw(rows: Sequence[Mapping[str, Any]], path: Path) -> Path | None:
    """Every contender's share of the roofline, a group of bars for each work; None without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    keys = list(dict.fromkeys((row["family"], row["n"], row["dtype"]) for row in rows))
    names = list(dict.fromkeys(row["solver"] for row in rows))
    figure, axis = pyplot.subplots(figsize=(9, 1 + 0.12 * len(rows) + 0.25 * len(keys)), layout="constrained")
    place, ticks = 0.0, []
    for key in keys:
        mine = [row for row in rows if (row["family"], row["n"], row["dtype"]) == key]
        ticks.append(place + (len(mine) - 1) / 2)
        for row in mine:
            colour = f"C{names.index(row['solver']) % 10}"
            label = row["solver"] if row is next(r for r in rows if r["solver"] == row["solver"]) else None
            axis.barh(place, row["of_roofline"], color=colour, label=label)
            place += 1
        place += 1.5
    axis.set_yticks(ticks, [f"{family}, {n}, {dtype}" for family, n, dtype in keys], fontsize=8)
    axis.invert_yaxis()
    axis.axvline(1, color="0.5", linewidth=1)
    axis.set(xlabel="share of the roofline: least time by measured copy and product rates, over the time taken")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path

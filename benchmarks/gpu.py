"""`gpu`: what a GPU makes of the package, most valuable first, each row written as it comes; `gpu.sh` runs it."""

from __future__ import annotations

import argparse
import csv
import gc
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import torch
from triton.errors import TritonError

from lmc_fast._backend import backends, interpreted

from .gpu_goals import ON_CPU, ON_GPU, judged
from .gpu_matching import syncs_of, timed, where_time_goes
from .gpu_pairs import SIZES, DevicePair, mlp, pair_of, resnet20, transformer, vgg16
from .kernel_works import (
    Work,
    correction_work,
    gain_error,
    gain_work,
    interpolation_work,
    model_work,
    overlap_work,
    resnet50_shapes,
    small_groups_work,
    transformer_shapes,
)
from .kernels import KERNEL_COLUMNS, TOLERANCE, ceilings, device_told, measure
from .options import add_out
from .report import COLUMNS, Report, table
from .timing import Timing

__all__ = ["ALL_COLUMNS", "SECTIONS", "register"]

GPU_COLUMNS = ("part", "syncs", "sweeps", "objective", "goal", "reached")
ALL_COLUMNS = (*COLUMNS, *KERNEL_COLUMNS, *GPU_COLUMNS)
SHOWN = (
    "family",
    "n",
    "dtype",
    "solver",
    "p50_ms",
    "ratio",
    "gb_s",
    "tflop_s",
    "of_roofline",
    "relative_error",
    "status",
)
# A model, and some of its layers, which are matched first.
WHOLE, SOME = "llama-7b", "llama-7b, 4 of 32 layers"
LAYERS, PART = 32, 4


def register(commands: argparse._SubParsersAction) -> None:
    """Add `gpu`."""
    parser = commands.add_parser("gpu", help="kernels, their variants and whole matchings on a GPU; see gpu.sh")
    parser.add_argument("--section", choices=list(SECTIONS), default="kernels")
    parser.add_argument("--seconds", type=float, default=0.1, help="for each contender (default 0.1)")
    parser.add_argument("--until", type=float, default=float("inf"), help="begin nothing after this time since 1970")
    parser.add_argument("--share", default="0/1", help="warm: which part of the variants to compile, as 2/8")
    parser.add_argument("--only", default="", help="works and pairs whose name holds this")
    parser.add_argument("--dry-run", action="store_true", help="small sizes, on the CPU where there is no GPU")
    add_out(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run one section; 1 if a result of ours was wrong."""
    return SECTIONS[arguments.section](arguments)


def _device(arguments: argparse.Namespace) -> torch.device:
    if arguments.dry_run and not (torch.cuda.is_available() and not interpreted()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("there is no GPU that torch can use; --dry-run tries the command without one")
    return torch.device("cuda", 0)


def _report(arguments: argparse.Namespace) -> Report:
    return Report(arguments.out, "gpu", ALL_COLUMNS, append=True)


def _kernels(arguments: argparse.Namespace) -> int:
    device = _device(arguments)
    print(backends())
    return _measured(arguments, _works(device, arguments.dry_run), device)


def _variants(arguments: argparse.Namespace) -> int:
    from .gpu_variants import variants

    device = _device(arguments)
    return _measured(arguments, variants(32 if arguments.dry_run else 4096, device), device, both=False)


def _warm(arguments: argparse.Namespace) -> int:
    """Compile a share of the variants, for the next process to find them; nothing is measured."""
    from .gpu_variants import variants

    device = _device(arguments)
    mine, of = map(int, arguments.share.split("/"))
    place = 0
    for work in chain(
        variants(32 if arguments.dry_run else 4096, device), _works(device, arguments.dry_run, large=False)
    ):
        for contender in work.contenders.values():
            place += 1
            if place % of == mine:
                _tried(contender)
    return 0


def _tried(contender: Callable[[], object]) -> tuple[object, str | None]:
    """What a variant makes, and what went wrong if anything did: it does not compile for this card, say."""
    try:
        made = contender()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    # What does not compile, or does not fit the card or these inputs; that is the variant's result.
    except (TritonError, RuntimeError, TypeError, ValueError, AttributeError, AssertionError, IndexError) as error:
        return None, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:80]}"
    return made, None


def _measured(arguments: argparse.Namespace, works: Iterator[Work], device: torch.device, both: bool = True) -> int:
    """Write the rows of works, by the host's calls and, if `both`, with the host ahead too; 1 if one is wrong."""
    limits = ceilings(device, arguments.seconds) if not arguments.dry_run else _made_up()
    print(", ".join(f"{name}: {value:.4g}" for name, value in limits.items()))
    wrong = 0
    with _report(arguments) as report:
        for work in works:
            if time.time() > arguments.until:
                print(f"out of time before {work.family}")
                break
            if arguments.only not in work.family:
                continue
            contenders, errors = {}, {}
            for name, contender in work.contenders.items():
                made, why = _tried(contender)
                if isinstance(made, torch.Tensor) and work.term is not None and not name.endswith(("anew", "alone")):
                    errors[name] = gain_error(made, [work.term])
                if why is None:
                    contenders[name] = contender
                else:
                    report.add(family=work.family, n=work.n, dtype=_short(work), solver=name, status=f"failed: {why}")
            if len(contenders) > 1:
                tried = replace(work, contenders=contenders)
                before = len(report.rows)
                for ahead in (False, True) if both and device.type == "cuda" else (device.type == "cuda",):
                    error = measure(
                        tried,
                        device,
                        arguments.seconds,
                        limits,
                        report,
                        ahead=ahead,
                        errors=errors,
                    )
                    wrong += not error <= TOLERANCE
                print(table(report.rows[before:], SHOWN), flush=True)
            gc.collect()
    return int(wrong > 0)


def _works(device: torch.device, dry: bool, large: bool = True) -> Iterator[Work]:
    """What goals are about first."""
    n = 32 if dry else 4096
    bf16, f32 = torch.bfloat16, torch.float32
    yield _lean(gain_work(n, bf16, False, device))
    yield _lean(gain_work(n, f32, False, device))
    yield _lean(correction_work(n, f32, device))
    yield _lean(correction_work(n, bf16, device))
    yield _lean(interpolation_work(n, bf16, device))
    yield _lean(interpolation_work(n, f32, device))
    yield _lean(model_work("resnet50", [(8, 3, 3, 3), (8,)] if dry else resnet50_shapes(), f32, device))
    if large:
        shapes = transformer_shapes(1, 16)[1:] if dry else transformer_shapes(32, 2048)
        yield _lean(model_work("transformer, 32 layers of 2048", shapes, bf16, device))
    yield _lean(small_groups_work(3 if dry else 48, f32, device))
    yield _lean(gain_work(n, bf16, True, device))
    yield _lean(gain_work(n, f32, True, device))
    yield _lean(overlap_work(n, device))
    yield _lean(gain_work(n // 4, bf16, False, device))
    yield _lean(gain_work(n // 4, f32, False, device))
    yield _lean(interpolation_work(n // 4, f32, device))
    yield _lean(correction_work(n // 4, f32, device))


def _lean(work: Work) -> Work:
    """Without what takes long to compile."""
    return replace(work, contenders={name: run for name, run in work.contenders.items() if "compile" not in name})


def _matchings(arguments: argparse.Namespace) -> int:
    device = _device(arguments)
    with _report(arguments) as report:
        layer = 0.0
        for name, make in _pairs(arguments, device):
            # The whole of a model takes as many times as long as it has layers.
            if time.time() + (LAYERS * layer if name == WHOLE else 0) > arguments.until:
                print(f"no time for {name}")
                continue
            if arguments.only in name:
                took = _match(make(), device, arguments, report)
                layer = took / PART if name == SOME else layer
                gc.collect()
                if device.type == "cuda":
                    torch.cuda.empty_cache()
    return 0


def _pairs(arguments: argparse.Namespace, device: torch.device) -> Iterator[tuple[str, Callable[[], DevicePair]]]:
    if arguments.dry_run:
        small = {
            "mlp-2048": mlp(24, 9),
            "vgg16": vgg16(1),
            "resnet20-4": resnet20(2),
            "transformer, 2 layers of 1024": transformer(1, 8, 2, 6, 10),
        }
        for name, (shapes, spec) in small.items():
            yield name, lambda n=name, s=shapes, p=spec: pair_of(n, s, p, torch.float32, device)
        return
    for name, (build, dtype) in SIZES.items():
        yield name, lambda n=name, b=build, d=dtype: pair_of(n, *b(), d, device)


def _match(pair: DevicePair, device: torch.device, arguments: argparse.Namespace, report: Report) -> float:
    """One pair on the device and on the CPU; where time goes; how often the host waits. Returns seconds there."""
    large = sum(tensor.nbytes for tensor in pair.a.values()) > 1 << 30
    told = {"family": "matching", "label": pair.name, "dtype": str(next(iter(pair.a.values())).dtype)[6:]}
    told |= {"n": max(pair.spec.units(group) for group in pair.spec.groups), **device_told(device)}
    if not large:
        # Compiles and warms up.
        timed(pair, 0.0)
    began = len(report.rows)
    times, match = timed(pair, 10 * arguments.seconds)
    report.add(
        **told, **_times(times), solver=ON_GPU, sweeps=len(match.history), objective=match.objective, status="ok"
    )
    if not large:
        waits = syncs_of(lambda: timed(pair, 0.0))
        report.add(**told, solver=ON_GPU, part="waits", syncs=sum(waits.values()), status="ok")
        for where, count in waits.most_common(12):
            report.add(**told, solver=ON_GPU, part=f"waits at {where}", syncs=count, status="ok")
    if time.time() + 2 * max(times) < arguments.until:
        for part, seconds in where_time_goes(pair).items():
            report.add(**told, solver=ON_GPU, part=part, **_times([seconds]), status="ok")
    if time.time() < arguments.until and not large:
        here = pair.to("cpu")
        on_cpu, other = timed(here, 10 * arguments.seconds)
        report.add(
            **told,
            **_times(on_cpu),
            solver=ON_CPU,
            sweeps=len(other.history),
            objective=other.objective,
            ratio=min(on_cpu) / min(times),
            status="ok",
        )
        for part, seconds in where_time_goes(here).items():
            report.add(**told, solver=ON_CPU, part=part, **_times([seconds]), status="ok")
    print(
        table(report.rows[began:], ("label", "solver", "part", "p50_ms", "sweeps", "objective", "syncs", "ratio")),
        flush=True,
    )
    return max(times)


def _times(seconds: list[float]) -> dict[str, float]:
    timing = Timing(tuple(seconds))
    return {**{f"p{p}_ms": 1e3 * timing.percentile(p) for p in (20, 50, 80)}, "calls": len(seconds)}


def _short(work: Work) -> str:
    return str(work.dtype).removeprefix("torch.")


def _made_up() -> dict[str, float]:
    """Ceilings of no machine, where nothing is measured."""
    return {"GB/s": 1.0, "float32 TFLOP/s": 1.0, "bfloat16 TFLOP/s": 1.0}


def _goals(arguments: argparse.Namespace) -> int:
    path = Path(arguments.out) / "gpu.csv"
    with path.open(newline="", encoding="utf-8") as held:
        rows = list(csv.DictReader(held))
    with _report(arguments) as report:
        for goal, reached in judged(rows):
            status = "not measured" if reached is None else "met" if reached >= goal.least else "missed"
            report.add(family="goal", label=goal.name, goal=goal.least, reached=reached, status=status)
        print(
            table(sorted(report.rows, key=lambda row: row["status"] == "met"), ("status", "label", "goal", "reached"))
        )
    print(f"rows: {path}", file=sys.stderr)
    return 0


SECTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "kernels": _kernels,
    "variants": _variants,
    "warm": _warm,
    "matchings": _matchings,
    "goals": _goals,
}

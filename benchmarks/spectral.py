"""`spectral`: R for new permutations against the SVD that they do without, and R(0) by polar factors."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

import lmc_fast as lmc
from lmc_fast.analysis import LayerFactors

from .options import add_out
from .report import Report, table
from .timing import Timing, alternate

__all__ = ["register"]

# How far R may be from what it should be for its time to be written.
TOLERANCE = 1e-4
SHOWN = ("family", "solver", "n", "p20_ms", "p50_ms", "p80_ms", "calls", "ratio", "relative_error", "status")


def register(commands: argparse._SubParsersAction) -> None:
    """Add `spectral`."""
    parser = commands.add_parser("spectral", help="R for new permutations, and by polar factors, against the SVD")
    parser.add_argument("--size", type=int, default=4096, help="of the layer that is permuted anew (default 4096)")
    parser.add_argument("--polar-size", type=int, default=2048, help="for polar factors (default 2048)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each contender (default 5)")
    add_out(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `spectral`; 1 if an R was wrong."""
    device = torch.device(arguments.device)
    with Report(arguments.out, "spectral") as report:
        rows = _new_permutations(arguments.size, device, arguments.seconds)
        rows += _polar(arguments.polar_size, device, arguments.seconds)
        for row in rows:
            report.add(dtype="float32", **row)
        print(table(report.rows, SHOWN))
        print(f"rows: {report.path}")
    return int(any(row["status"] != "ok" for row in rows))


def _weight(n: int, seed: int, device: torch.device) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, n, generator=generator) / n**0.5).to(device)


def _spec(n: int) -> lmc.PermutationSpec:
    return lmc.PermutationSpec.from_axes({"w": ("rows", "columns")}, [lmc.Group("rows", n), lmc.Group("columns", n)])


def _new_permutations(n: int, device: torch.device, seconds: float) -> list[dict[str, Any]]:
    """One SVD; model b is a permuted copy, so that the R of the permutation that made it is known to be 1."""
    begin = _now(device)
    a = lmc.singular_factors({"w": _weight(n, 0, device)})
    decomposition = _now(device) - begin
    spec = _spec(n)
    truth = lmc.Permutations.random(spec, 0)
    rows, columns = (truth.inverse()[group].to(device) for group in ("rows", "columns"))
    ours = a["w"]
    copy = LayerFactors("w", ours.weight[rows][:, columns], ours.u[rows], ours.s, ours.v[columns])
    b = lmc.SpectralFactors({"w": copy})
    others = [lmc.Permutations.random(spec, seed) for seed in range(1, 4)]
    begin = _now(device)
    planted = lmc.spectral_alignment(a, b, truth).overall
    first = _now(device) - begin
    error = max(abs(r - 1) for r in planted)
    turn = iter(range(1 << 30))
    permuted = alternate(
        {"R": lambda: lmc.spectral_alignment(a, b, others[next(turn) % 3]).overall}, seconds=seconds, most=50
    )["R"]
    status = "ok" if error <= TOLERANCE else "wrong"
    family = {"family": "new permutations", "n": n}
    return [
        family | _times(Timing((decomposition,)), decomposition) | {"solver": "its SVD", "status": "ok"},
        family | _times(Timing((first,)), decomposition) | _checked("R, the first time", error, status),
        family | _times(permuted, decomposition) | _checked("R, new permutation", error, status),
    ]


def _polar(n: int, device: torch.device, seconds: float) -> list[dict[str, Any]]:
    """R(0) of two models from their weights, by both methods; their values are to agree."""
    models = [{"w": _weight(n, seed, device)} for seed in (1, 2)]
    # Half of model b is model a's, for an R that is not all noise.
    models[1]["w"] = (models[0]["w"] + models[1]["w"]) / 2**0.5
    identity = lmc.Permutations.identity(_spec(n))

    def by(method: str) -> Callable[[], float]:
        return lambda: lmc.spectral_alignment(*models, identity, gammas=(0.0,), method=method).overall[0]

    values = {method: by(method)() for method in ("svd", "polar")}
    timings = alternate({method: by(method) for method in values}, seconds=seconds, least=2)
    reference = timings["svd"].percentile(50)
    error = abs(values["svd"] - values["polar"])
    status = "ok" if error <= TOLERANCE else "wrong"
    return [
        {"family": f"R(0) = {values['svd']:.4f}", "n": n} | _times(timings[m], reference) | _checked(m, error, status)
        for m in values
    ]


def _checked(name: str, error: float, status: str) -> dict[str, Any]:
    return {"solver": name, "relative_error": error, "status": status}


def _times(timing: Timing, reference: float) -> dict[str, Any]:
    """`ratio` is the SVD's time over this one's."""
    found: dict[str, Any] = {f"p{p}_ms": 1e3 * timing.percentile(p) for p in (20, 50, 80)}
    return found | {"calls": len(timing.samples), "ratio": reference / timing.percentile(50)}


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()

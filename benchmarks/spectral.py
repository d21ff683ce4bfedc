"""`spectral`: R for new permutations against the SVD that they do without, by polar factors, and from few values.

On random weights, and on the square layers of two trained models that are given.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import lmc_fast as lmc
from lmc_fast.analysis import LayerFactors, SpectralAlignment
from lmc_fast.checkpoints import load_checkpoint

from .options import add_out
from .report import Report, table
from .timing import Timing, alternate

__all__ = ["register"]

# How far R may be from what it should be for its time to be written.
TOLERANCE = 1e-4
DTYPES = {"float32": torch.float32, "float64": torch.float64}
SHOWN = ("family", "solver", "n", "dtype", "p20_ms", "p50_ms", "p80_ms", "calls", "ratio", "relative_error", "status")


def register(commands: argparse._SubParsersAction) -> None:
    """Add `spectral`."""
    parser = commands.add_parser(
        "spectral", help="R for new permutations, by polar factors and from few values, against the SVD"
    )
    parser.add_argument("--size", type=int, default=4096, help="of the layer that is permuted anew (default 4096)")
    parser.add_argument(
        "--polar-size", type=int, nargs="*", default=[2048], metavar="N", help="for polar factors (default 2048)"
    )
    parser.add_argument(
        "--dtype", nargs="+", choices=DTYPES, default=["float32"], help="for polar factors (default float32)"
    )
    parser.add_argument("--only-polar", action="store_true", help="R(0) alone, square and twice as high as wide")
    parser.add_argument(
        "--trained",
        type=Path,
        nargs=2,
        metavar=("A", "B"),
        help="safetensors files of two models: R(0) and R(0.3) of their square layers as well",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each contender (default 5)")
    parser.add_argument("--processor", action="store_true", help="processor time, for a machine that does much else")
    add_out(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `spectral`; 1 if an R was wrong."""
    device = torch.device(arguments.device)
    with Report(arguments.out, "spectral") as report:
        # A row is written when it is there: the whole takes minutes.
        for row in _rows(arguments, device):
            report.add(**{"dtype": "float32", **row})
        print(table(report.rows, SHOWN))
        print(f"rows: {report.path}")
    return int(any(row["status"] != "ok" for row in report.rows))


def _rows(arguments: argparse.Namespace, device: torch.device) -> Iterator[dict[str, Any]]:
    clock = time.process_time if arguments.processor else time.perf_counter
    if not arguments.only_polar:
        yield from _new_permutations(arguments.size, device, arguments.seconds)
    for n in arguments.polar_size:
        for dtype in arguments.dtype:
            pair = [weight.to(DTYPES[dtype]) for weight in _random_pair(n, device)]
            yield from ({**row, "dtype": dtype} for row in _polar("random", pair, arguments.seconds, clock))
            if arguments.only_polar:
                tall = [torch.cat([one, other]) for one, other in (pair, pair[::-1])]
                yield from ({**row, "dtype": dtype} for row in _polar("random, tall", tall, arguments.seconds, clock))
            else:
                yield from ({**row, "dtype": dtype} for row in _few("random", pair, arguments.seconds, clock))
    for name, pair in _trained_pairs(arguments.trained, device):
        yield from _polar(name, pair, arguments.seconds, clock)
        if not arguments.only_polar:
            yield from _few(name, pair, arguments.seconds, clock)


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


def _random_pair(n: int, device: torch.device) -> list[torch.Tensor]:
    """Half of the second is the first, for an R that is not all noise."""
    first, second = (_weight(n, seed, device) for seed in (1, 2))
    return [first, (first + second) / 2**0.5]


def _trained_pairs(paths: Sequence[Path] | None, device: torch.device) -> Iterator[tuple[str, list[torch.Tensor]]]:
    """The square layers of two models, by name."""
    a, b = ({}, {}) if paths is None else (load_checkpoint(path) for path in paths)
    for name, weight in a.items():
        if weight.ndim == 2 and weight.shape[0] == weight.shape[1]:
            yield name, [weight.to(device), b[name].to(device)]


def _polar(name: str, pair: Sequence[torch.Tensor], seconds: float, clock: Callable[[], float]) -> list[dict[str, Any]]:
    """R(0) of two models from their weights, by both methods; their values are to agree."""
    models = [{"w": weight} for weight in pair]

    def by(method: str) -> Callable[[], SpectralAlignment]:
        return lambda: lmc.spectral_alignment(*models, gammas=(0.0,), method=method)

    return _compared(f"{name}, R(0)", pair, {method: by(method) for method in ("svd", "polar")}, seconds, clock)


def _few(name: str, pair: Sequence[torch.Tensor], seconds: float, clock: Callable[[], float]) -> list[dict[str, Any]]:
    """R(0.3) from whole decompositions, and from the singular values that take part alone."""
    models = [{"w": weight} for weight in pair]

    def whole() -> SpectralAlignment:
        return lmc.spectral_alignment(*(lmc.singular_factors(model) for model in models), gammas=(0.3,))

    ways = {"svd": whole, "largest values": lambda: lmc.spectral_alignment(*models, gammas=(0.3,))}
    return _compared(f"{name}, R(0.3)", pair, ways, seconds, clock)


def _compared(
    name: str,
    pair: Sequence[torch.Tensor],
    ways: Mapping[str, Callable[[], SpectralAlignment]],
    seconds: float,
    clock: Callable[[], float],
) -> list[dict[str, Any]]:
    """Rows of ways to the same R, the first of which is by the SVD."""
    found = {way: call() for way, call in ways.items()}
    timings = alternate(ways, seconds=seconds, least=2, clock=clock)
    first = next(iter(ways))
    (exact,), layer = found[first].overall, found[first].layers[0]
    family = {"family": f"{name} = {exact:.4f}, {layer.kept_a[0]} and {layer.kept_b[0]} values", "n": pair[0].shape[1]}
    rows = []
    for way, timing in timings.items():
        error = abs(found[way].overall[0] - exact)
        status = "ok" if error <= TOLERANCE else "wrong"
        rows.append(family | _times(timing, timings[first].percentile(50)) | _checked(way, error, status))
    return rows


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

"""`turning`: seconds of matching with rotations, by weights and by activations, and the share that polar factors take.

A ViT whose residual stream turns, and whose heads turn their queries with their keys and their values: random weights,
of which model b has its own, or model a's, moved, with noise.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast import Group, PermutationSpec, Segment
from lmc_fast.matching import activation
from lmc_fast.symmetry import Fold, Reader
from lmc_fast.symmetry.kinds import orthogonal

from .options import add_out
from .report import COLUMNS, Report, table
from .solvers import OURS

__all__ = ["ViT", "polar_seconds", "register", "vit_spec"]

_COLUMNS = (
    "by",
    "pair",
    "layers",
    "width",
    "heads",
    "hidden",
    "sweeps",
    "seconds",
    "solution_seconds",
    "polar_seconds",
    "polar_share",
)
# Of b's weights: their noise, in shares of a tensor's deviation; None: weights of its own.
PAIRS: dict[str, float | None] = {"apart": None, "noisy": 0.5}
# What is asked of 12 layers of width 384 on two cores.
MOST_SECONDS, MOST_POLAR = 60.0, 1 / 3
PATCHES = 16


class Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:  # [batch, places, width]
        h = self.norm1(x)
        q, k, v = (part(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        x = x + self.o(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class ViT(nn.Module):
    """Images as rows of patches, [batch, places, inputs], to ten classes; norms before each block and at the end."""

    def __init__(self, layers: int, width: int, heads: int, hidden: int, inputs: int = 48) -> None:
        super().__init__()
        self.patches, self.places = nn.Linear(inputs, width), nn.Parameter(0.02 * torch.randn(PATCHES, width))
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x) + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def vit_spec(model: ViT) -> PermutationSpec:
    """By hand; new ones are in pure form."""
    axes: dict[str, tuple[Any, ...]] = {
        "patches.weight": ("stream", None),
        "patches.bias": ("stream",),
        "places": (None, "stream"),
        "head.weight": (None, "stream"),
    }
    groups = [Group("stream", kind="orthogonal_keeping_ones")]
    folds = [_fold("norm", "head")]
    for i, block in enumerate(model.blocks):
        width = block.q.in_features // block.heads
        groups.append(Group(f"head{i}", block.heads))
        groups += [Group(f"{what}{i}", width, owner=f"head{i}", kind="orthogonal") for what in ("key", "value")]
        for part, group in (("q", "key"), ("k", "key"), ("v", "value")):
            rows = Segment(f"{group}{i}")
            axes |= {f"blocks.{i}.{part}.weight": (rows, "stream"), f"blocks.{i}.{part}.bias": (rows,)}
        axes |= {f"blocks.{i}.up.weight": (f"unit{i}", "stream"), f"blocks.{i}.up.bias": (f"unit{i}",)}
        for part, columns in (("o", f"value{i}"), ("down", f"unit{i}")):
            axes |= {f"blocks.{i}.{part}.weight": ("stream", columns), f"blocks.{i}.{part}.bias": ("stream",)}
        at = f"blocks.{i}."
        folds += [_fold(f"{at}norm1", f"{at}q", f"{at}k", f"{at}v"), _fold(f"{at}norm2", f"{at}up")]
    return PermutationSpec.from_axes(axes, groups, model=model, rest="fixed", folds=folds)


def _fold(norm: str, *readers: str) -> Fold:
    every = tuple(Reader(f"{reader}.weight", 1, f"{reader}.bias") for reader in readers)
    return Fold(f"{norm}.weight", every, f"{norm}.bias")


@contextlib.contextmanager
def polar_seconds() -> Iterator[list[float]]:
    """A list of the seconds that each polar factor takes meanwhile, or each value of one alone."""
    with _timed(orthogonal, "polar_factor", "nuclear_norm") as taken:
        yield taken


@contextlib.contextmanager
def statistics_seconds() -> Iterator[list[float]]:
    """A list of the seconds that are spent meanwhile on what models show, and on checks of the spec."""
    with _timed(activation, "activation_moments", "ensure_verified") as taken:
        yield taken


@contextlib.contextmanager
def _timed(module: ModuleType, *names: str) -> Iterator[list[float]]:
    taken: list[float] = []
    reals = {name: getattr(module, name) for name in names}

    def timed(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            began = time.perf_counter()
            found = real(*given, **options)
            taken.append(time.perf_counter() - began)
            return found

        return call

    for name, real in reals.items():
        setattr(module, name, timed(real))
    try:
        yield taken
    finally:
        for name, real in reals.items():
            setattr(module, name, real)


def register(commands: argparse._SubParsersAction) -> None:
    """Add `turning`."""
    parser = commands.add_parser("turning", help="seconds of matching with rotations, and the share of polar factors")
    parser.add_argument("--layers", type=int, default=12, help="(default 12)")
    parser.add_argument("--width", type=int, default=384, help="(default 384)")
    parser.add_argument("--heads", type=int, default=6, help="(default 6)")
    parser.add_argument("--pairs", nargs="+", choices=list(PAIRS), default=list(PAIRS), help="what model b is")
    parser.add_argument(
        "--by", nargs="+", choices=["weights", "activations"], default=["weights", "activations"], help="which matching"
    )
    parser.add_argument("--threads", type=int, default=2, help="(default 2)")
    add_out(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `turning`; 1 if 12 layers of width 384 take longer than asked, or polar factors a larger share."""
    sizes = arguments.layers, arguments.width, arguments.heads, 4 * arguments.width
    if arguments.width % arguments.heads:
        raise ValueError(f"--heads must divide --width, got {arguments.heads} and {arguments.width}")
    torch.set_num_threads(arguments.threads)
    wrong = 0
    with Report(arguments.out, "turning", (*COLUMNS, *_COLUMNS)) as report:
        for pair in arguments.pairs:
            a, b, spec = made(sizes, PAIRS[pair])
            for by in arguments.by:
                with polar_seconds() as polar, statistics_seconds() as statistics:
                    match = matched(by, a, b, spec)
                solution = match.seconds - sum(statistics)
                share = sum(polar) / solution
                enough = match.seconds <= MOST_SECONDS and share <= MOST_POLAR
                wrong += not enough
                report.add(
                    by=by,
                    pair=pair,
                    **dict(zip(("layers", "width", "heads", "hidden"), sizes, strict=True)),
                    solver=OURS,
                    solver_version=lmc.__version__,
                    sweeps=len(match.history),
                    seconds=match.seconds,
                    solution_seconds=solution,
                    polar_seconds=sum(polar),
                    polar_share=share,
                    status="ok" if enough else "wrong: slower than asked, or polar factors take too much",
                )
        print(
            table(
                report.rows,
                ("by", "pair", "layers", "width", "sweeps", "seconds", "solution_seconds", "polar_share", "status"),
            )
        )
        print(f"rows: {report.path}")
    return int(wrong > 0)


def made(sizes: tuple[int, int, int, int], noise: float | None) -> tuple[ViT, ViT, PermutationSpec]:
    """Two models in pure form, and their spec."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        a, b = ViT(*sizes).eval(), ViT(*sizes).eval()
    spec = vit_spec(a)
    if noise is not None:
        b = lmc.Transforms.random(spec, 0).apply(a)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, tensor in b.named_parameters():
                if "norm" not in name:
                    tensor.add_(noise * tensor.std() * torch.randn(tensor.shape, generator=generator))
    return a, b, spec


def matched(by: str, a: ViT, b: ViT, spec: PermutationSpec) -> lmc.Matching:
    """The matching of two models, without a check of the spec; random images stand for data."""
    if by == "weights":
        return lmc.weight_matching(a, b, spec)
    generator = torch.Generator().manual_seed(2)
    inputs = a.patches.in_features
    return lmc.activation_matching(a, b, [torch.randn(8, PATCHES, inputs, generator=generator) for _ in range(8)], spec)

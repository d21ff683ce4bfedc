"""`planted`: how many permutations that were planted in copies of random models are found, with noise and without.

By the matcher as it comes, and by the textbook loop from the identity, where no group is owned. Models of transformers
(`transformer_kinds`) by the specs that are derived from them.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast import architectures
from lmc_fast.experiments.models import ResNet

from . import models, textbook, transformer_kinds
from .options import add_out
from .report import COLUMNS, Report, table
from .solvers import OURS, version_of

__all__ = ["KINDS", "Found", "count_found", "register", "with_noise"]

KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], lmc.PermutationSpec]]] = {
    "mlp": (lambda: models.small_mlp((32, 24, 16)), architectures.mlp),
    "vgg-batchnorm": (lambda: models.ConvNet(12, 24), architectures.vgg),
    "resnet": (models.small_resnet, architectures.resnet),
    "resnet20": (lambda: ResNet(1, 16, (3, 3, 3), 10), architectures.resnet),
    "transformer": (models.TransformerBlock, lambda m: models.TransformerBlock.spec()),
    "grouped-query": (models.GroupedQueryBlock, lambda m: models.GroupedQueryBlock.spec()),
    "grouped-query-rotary": (
        lambda: models.GroupedQueryBlock(rotary=True),
        lambda m: models.GroupedQueryBlock.spec(rotary=True),
    ),
    "grouped-conv": (models.FreeGroupedNet, lambda m: models.FreeGroupedNet.spec()),
}
# The textbook loop knows no owned groups.
_OWNED = ("transformer", "grouped-query", "grouped-query-rotary", "grouped-conv")
# What is asked of the matcher, by whether there is noise.
LEAST_SHARE = {False: 1.0, True: 0.99}
# Every parameter and statistic random, or as the model comes: equal norms and zero biases tell no units apart.
WEIGHTS = ("drawn", "untouched")
_COLUMNS = ("model", "weights", "noise", "found", "seeds", "seconds")

# State dicts of a and b, bound spec -> permutations.
Matcher = Callable[[dict[str, Tensor], dict[str, Tensor], lmc.PermutationSpec], lmc.Permutations]


def register(commands: argparse._SubParsersAction) -> None:
    """Add `planted`."""
    parser = commands.add_parser("planted", help="how many planted permutations are found, with noise and without")
    parser.add_argument(
        "--models",
        nargs="+",
        choices=[*KINDS, *transformer_kinds.KINDS],
        metavar="MODEL",
        default=list(KINDS),
        help=f"of {[*KINDS]} (all of them without this), and of the package transformers {[*transformer_kinds.KINDS]}",
    )
    parser.add_argument(
        "--weights", nargs="+", choices=WEIGHTS, default=["drawn"], help="random ones, or those that a new model has"
    )
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.1], help="shares of a tensor's deviation")
    parser.add_argument("--seeds", type=int, default=100, help="models of each kind (default 100)")
    add_out(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `planted`; 1 if the matcher finds fewer than all without noise, or than 99 % with it."""
    if arguments.seeds < 1:
        raise ValueError(f"--seeds must be 1 or more, got {arguments.seeds}")
    if not transformer_kinds.is_installed() and any(kind in transformer_kinds.KINDS for kind in arguments.models):
        raise ValueError("--models names models of transformers, which is not installed")
    wrong = 0
    with Report(arguments.out, "planted", (*COLUMNS, *_COLUMNS)) as report:
        for kind, weights, noise in itertools.product(arguments.models, arguments.weights, arguments.noise):
            for solver, matcher in _matchers(kind).items():
                found = count_found(kind, noise, arguments.seeds, matcher, weights)
                enough = found.right >= LEAST_SHARE[noise > 0] * arguments.seeds
                wrong += solver == OURS and not enough
                report.add(
                    model=kind,
                    weights=weights,
                    noise=noise,
                    solver=solver,
                    solver_version=lmc.__version__ if solver == OURS else version_of("scipy"),
                    found=found.right,
                    seeds=arguments.seeds,
                    seconds=found.seconds,
                    status="ok" if enough or solver != OURS else "wrong: fewer than asked",
                )
        print(table(report.rows, ("model", "weights", "noise", "solver", "found", "seeds", "seconds", "status")))
        print(f"rows: {report.path}")
    return int(wrong > 0)


@dataclass(frozen=True)
class Found:
    """In how many models the matching is the planted permutation, exactly, and the seconds that all took."""

    right: int
    seconds: float


def count_found(kind: str, noise: float, seeds: int, matcher: Matcher | None = None, weights: str = "drawn") -> Found:
    """Plant and look, in one random model for each seed; by `weight_matching` unless another matcher is given.

    Without noise a matching is right as well that exchanges units that are equal: one that gives the model back.
    """
    matcher = _ours if matcher is None else matcher
    right, seconds = 0, 0.0
    for seed in range(seeds):
        model, spec = _drawn(kind, weights, seed)
        truth = lmc.Permutations.random(spec, seed)
        state = model.state_dict()
        other = with_noise(truth.inverse().apply(state), noise, seed)
        began = time.perf_counter()
        found = matcher(state, other, spec)
        seconds += time.perf_counter() - began
        right += found == truth or (noise == 0 and _are_equal(found.apply(other), state))
    return Found(right, seconds)


def _drawn(kind: str, weights: str, seed: int) -> tuple[nn.Module, lmc.PermutationSpec]:
    """A model, and its spec bound to it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = (transformer_kinds.KINDS[kind] if kind in transformer_kinds.KINDS else KINDS[kind][0])()
    if weights == "drawn":
        models.randomise(model, seed)
    spec = transformer_kinds.spec_of(kind) if kind in transformer_kinds.KINDS else KINDS[kind][1](model)
    return model, spec.bind(model)


def _are_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def with_noise(state: dict[str, Tensor], share: float, seed: int) -> dict[str, Tensor]:
    """Every floating point tensor with noise of this share of its standard deviation."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor + share * tensor.std(correction=0) * torch.randn(tensor.shape, generator=generator)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in state.items()
    }


def _matchers(kind: str) -> dict[str, Matcher]:
    return {OURS: _ours} if kind in (*_OWNED, *transformer_kinds.KINDS) else {OURS: _ours, "textbook": _textbook}


def _ours(a: dict[str, Tensor], b: dict[str, Tensor], spec: lmc.PermutationSpec) -> lmc.Permutations:
    return lmc.weight_matching(a, b, spec).permutations


def _textbook(a: dict[str, Tensor], b: dict[str, Tensor], spec: lmc.PermutationSpec) -> lmc.Permutations:
    return lmc.Permutations(spec, textbook.textbook_matching(a, b, spec).choices)

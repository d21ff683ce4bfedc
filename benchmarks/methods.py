"""`methods`: what each matching method leaves between trained networks, and what a projection inside STE costs."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

import lmc_fast as lmc
from lmc_fast.checkpoints import load_checkpoint, save_checkpoint
from lmc_fast.experiments.datasets import Batches, Dataset, load_dataset
from lmc_fast.experiments.models import MLP, ResNet
from lmc_fast.experiments.training import train
from lmc_fast.matching.engine.task import TaskLoss
from lmc_fast.matching.straight_through import Hat

from . import textbook
from .options import add_data
from .report import table
from .timing import Timing, alternate

__all__ = ["register"]

WIDTH, BATCH = 512, 256
# Options of straight-through estimation that lead away from what weight matching finds.
_FAR: dict[str, Any] = {"learning_rate": 1e-2, "epochs": 20, "patience": 20}
TABLES = ("pairs", "many", "projection", "repair")


def register(commands: argparse._SubParsersAction) -> None:
    """Add `methods`."""
    parser = commands.add_parser("methods", help="barriers that each method leaves, and what a projection costs")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES), metavar="TABLE", help=str(TABLES))
    parser.add_argument("--pairs", type=int, default=5, help="pairs and triples of networks (default 5)")
    parser.add_argument("--epochs", type=int, default=20, help="of training for each network (default 20)")
    parser.add_argument("--width", type=int, default=WIDTH, help=f"of the MLPs (default {WIDTH})")
    parser.add_argument("--channels", type=int, default=64, help="of the ResNets' first stage (default 64: width 4)")
    add_data(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `methods`."""
    if arguments.data is not None and not arguments.data.is_file():
        raise FileNotFoundError(f"--data must be an .npz file, got {str(arguments.data)!r}")
    if arguments.pairs < 1:
        raise ValueError(f"--pairs must be 1 at least, got {arguments.pairs}")
    data = load_dataset("digits" if arguments.data is None else arguments.data)
    store = _Store(data, arguments.cache, arguments.epochs)
    makers: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "pairs": lambda: pair_rows(store, arguments.width, arguments.pairs),
        "many": lambda: many_rows(store, arguments.width, arguments.pairs),
        "projection": lambda: projection_rows(store, arguments.width),
        "repair": lambda: repair_rows(store, arguments.channels, arguments.pairs),
    }
    for name in arguments.tables:
        rows = makers[name]()
        print(f"\n{name}: {data.name}, {torch.get_num_threads()} threads", flush=True)
        print(table(rows, list(rows[0])), flush=True)
    return 0


@dataclass(frozen=True)
class _Store:
    """Networks, trained when they are first asked for and kept on disk."""

    data: Dataset
    cache: Path
    epochs: int

    def mlp(self, width: int, seed: int) -> nn.Module:
        inputs = self.data.train_inputs[0].numel()
        return self._get(f"mlp{width}", lambda: MLP(inputs, (width,) * 3, self.classes), seed, 2e-3, 0.5)

    def resnet(self, channels: int, seed: int, batchnorm: bool) -> nn.Module:
        def build() -> nn.Module:
            model = ResNet(self.data.train_inputs.shape[1], channels, (1, 1, 1), self.classes)
            return model if batchnorm else _without_batchnorm(model)

        name = f"resnet{channels}" + ("" if batchnorm else "-plain")
        return self._get(name, build, seed, *((1e-2, 1.0) if batchnorm else (1e-3, 0.1)))

    @property
    def classes(self) -> int:
        return int(self.data.train_targets.max()) + 1

    def training(self, size: int = BATCH) -> Batches:
        return Batches(self.data.train_inputs, self.data.train_targets, size)

    def _get(self, name: str, build: Callable[[], nn.Module], seed: int, rate: float, decay: float) -> nn.Module:
        path = self.cache / f"methods-{self.data.name}-{name}-{self.epochs}epochs-seed{seed}.safetensors"
        if not path.exists():
            print(f"training {name} from seed {seed}, once, for {path}", flush=True)
            self.cache.mkdir(parents=True, exist_ok=True)
            trained = train(build, self.data, seed=seed, epochs=self.epochs, learning_rate=rate, weight_decay=decay)
            save_checkpoint(path, trained.state_dict())
        model = build().eval()
        model.load_state_dict(load_checkpoint(path))
        return model


def _without_batchnorm(model: nn.Module) -> nn.Module:
    """The same network with a bias in place of each BatchNorm."""
    for layer in list(model.modules()):
        for name, child in list(layer.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(layer, name, nn.Identity())
            elif isinstance(child, nn.Conv2d):
                options = {"stride": child.stride, "padding": child.padding}
                conv = nn.Conv2d(child.in_channels, child.out_channels, child.kernel_size, **options)  # type: ignore[arg-type]
                setattr(layer, name, conv)
    return model


def _midpoint(store: _Store, a: nn.Module, b: nn.Module, match: Any = None) -> float:
    curve = lmc.loss_barrier(a, b, store.data.test_batches(), match, lambdas=[0.0, 0.5, 1.0])
    return curve.midpoint_barrier


def pair_rows(store: _Store, width: int, pairs: int) -> list[dict[str, Any]]:
    """The barrier at the midpoint, by pair and method, and the mean."""
    rows = []
    for k in range(pairs):
        a, b = store.mlp(width, 2 * k), store.mlp(width, 2 * k + 1)
        spec = lmc.architectures.mlp(a)
        found = {
            "wm": lmc.weight_matching(a, b, spec),
            "am": lmc.activation_matching(a, b, store.training(), spec),
            "ste": lmc.straight_through_matching(a, b, store.training(), spec),
        }
        row: dict[str, Any] = {"seeds": f"{2 * k},{2 * k + 1}", "none": _midpoint(store, a, b)}
        rows.append(row | {name: _midpoint(store, a, b, match) for name, match in found.items()})
    return [*rows, _means(rows, "seeds")]


def many_rows(store: _Store, width: int, triples: int) -> list[dict[str, Any]]:
    """The barrier at the midpoint between pi_b(b) and pi_c(c), by triple and method, and the mean.

    `ste` starts at what weight matching finds and stays near it; `ste_far` starts at the identity, and learns faster
    and four times as long.
    """
    rows = []
    for k in range(triples):
        a, b, c = three = [store.mlp(width, seed) for seed in (3 * k, 3 * k + 1, 3 * k + 2)]
        spec = lmc.architectures.mlp(a).bind(a)
        unmoved = lmc.Permutations.identity(spec)
        apart = {
            "wm": [lmc.weight_matching(a, other, spec) for other in (b, c)],
            "ste": [lmc.straight_through_matching(a, other, store.training(), spec) for other in (b, c)],
            "ste_far": [
                lmc.straight_through_matching(a, other, store.training(), spec, init=unmoved, **_FAR)
                for other in (b, c)
            ],
        }
        together = {
            "merge_many": lmc.match_many(three, spec),
            "ste_mm": lmc.match_many(three, spec, method="ste_mm", batches=store.training()),
            "c2m3": lmc.match_many(three, spec, method="c2m3"),
        }
        row: dict[str, Any] = {"seeds": f"{3 * k},{3 * k + 1},{3 * k + 2}"}
        row |= {name: _midpoint(store, of_b.apply(b), c, of_c) for name, (of_b, of_c) in apart.items()}
        row |= {name: _midpoint(store, b, c, many.pairwise(1, 2)) for name, many in together.items()}
        rows.append(row)
    return [*rows, _means(rows, "seeds")]


def projection_rows(store: _Store, width: int) -> list[dict[str, Any]]:
    """Times of the parts of an STE step, in ms, and of the textbook loop on the same pair."""
    a, b = store.mlp(width, 0), store.mlp(width, 1)
    spec = lmc.architectures.mlp(a).bind(a)
    batches = store.training()
    names = [name for name, _ in a.named_parameters()]
    task = TaskLoss(a, [next(iter(batches))], nn.functional.cross_entropy, names, torch.device("cpu"))
    point = {name: tensor.detach().clone() for name, tensor in a.named_parameters()}
    (batch,) = task.once()

    def forward_and_backward() -> None:
        task.gradient(point, batch)

    projections: list[float] = []
    project = Hat.project

    def clocked(hat: Hat, sweeps: int | None) -> int:
        began = time.perf_counter()
        moved = project(hat, sweeps)
        # Those over all groups, in front of a judgement, are none of a step's.
        if sweeps is None:
            projections.append(time.perf_counter() - began)
        return moved

    with mock.patch.object(Hat, "project", clocked):
        lmc.straight_through_matching(a, b, batches, spec)
    times = alternate({"forward and backward": forward_and_backward}, seconds=2.0)
    cold = alternate(
        {"textbook": lambda: textbook.textbook_matching(a.state_dict(), b.state_dict(), spec)}, seconds=0.0, least=3
    )
    parts = {"projection": Timing(tuple(projections)), **times, **cold}
    mine = parts["projection"].percentile(50)
    return [
        {
            "what": name,
            **{f"p{p}_ms": 1e3 * timing.percentile(p) for p in (20, 50, 80)},
            "over_projection": timing.percentile(50) / mine,
        }
        for name, timing in parts.items()
    ]


def repair_rows(store: _Store, channels: int, pairs: int) -> list[dict[str, Any]]:
    """Test accuracies of ResNets: the ends' mean, and the midpoint after weight matching, as it is and put right.

    With BatchNorm "repaired" is its statistics estimated again; without, REPAIR.
    """
    rows = []
    for batchnorm in (True, False):
        found = []
        for k in range(pairs):
            a, b = (store.resnet(channels, seed, batchnorm) for seed in (2 * k, 2 * k + 1))
            match = lmc.weight_matching(a, b, _resnet_spec(a, batchnorm))
            middle = lmc.interpolate(a, b, 0.5, match)
            statistics_of = store.training()
            put_right = (
                lmc.reestimate_batchnorm(middle, statistics_of)
                if batchnorm
                else lmc.repair(middle, [a, b], statistics_of, [None, match])
            )
            kinds = {"a": a, "b": b, "plain": lmc.interpolate(a, b, 0.5), "matched": middle, "repaired": put_right}
            accuracies = {name: lmc.evaluate(model, store.data.test_batches())[1] for name, model in kinds.items()}
            ends = 0.5 * (accuracies.pop("a") + accuracies.pop("b"))  # type: ignore[operator]
            head = {"norm": "BatchNorm" if batchnorm else "none", "seeds": f"{2 * k},{2 * k + 1}", "ends": ends}
            found.append(head | accuracies)
        rows += [*found, {**_means(found, "seeds"), "norm": found[0]["norm"]}]
    return rows


def _resnet_spec(model: nn.Module, batchnorm: bool) -> lmc.PermutationSpec:
    """The hand spec; without BatchNorm, that of the same network with it, its norms' names for the biases."""
    if batchnorm:
        return lmc.architectures.resnet(model)
    streams = {name: axes for name, axes in _with_batchnorm_spec(model).axes.items() if name in model.state_dict()}
    biases = {
        name: (streams[name.removesuffix("bias") + "weight"][0],)
        for name in model.state_dict()
        if name.endswith(".bias")
    }
    return lmc.PermutationSpec.from_axes({**streams, **biases})


def _with_batchnorm_spec(model: nn.Module) -> lmc.PermutationSpec:
    first = model.get_submodule("conv1")
    assert isinstance(first, nn.Conv2d)
    classes = int(model.get_submodule("fc").out_features)  # type: ignore[arg-type]
    return lmc.architectures.resnet(ResNet(first.in_channels, first.out_channels, (1, 1, 1), classes))


def _means(rows: list[dict[str, Any]], label: str) -> dict[str, Any]:
    """The means of all numbers."""
    numbers = [name for name, value in rows[0].items() if isinstance(value, float)]
    return {label: "mean", **{name: statistics.fmean(row[name] for row in rows) for name in numbers}}

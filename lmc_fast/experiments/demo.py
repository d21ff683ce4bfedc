"""The demo: train on real digits from different seeds, match, merge, measure, show."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .._extras import require
from .._files import check_new_folder, write_folder, write_text
from .._progress import Progress
from ..analysis import BarrierCurve, evaluate, loss_barrier, singular_factors, spectral_alignment
from ..checkpoints import save_checkpoint
from ..matching import Matching, weight_matching
from ..merging import merge
from ..repairing import has_batchnorm, reestimate_batchnorm
from ..report.figures import save_png
from ..report.plots import alignment_figure, barrier_figure
from ..symmetry import PermutationSpec, architectures
from .datasets import Dataset, digits
from .demo_methods import METHODS, ByMethod, by_method, check_methods
from .environment import versions
from .models import MLP, ResNet
from .processes import one_thread, side_by_side
from .training import train

__all__ = ["Case", "DemoResult", "Merged", "Pair", "run_demo", "standard_cases"]


@dataclass(frozen=True)
class Case:
    """An architecture, how it is trained, and its spec. Functions of modules: other processes are to find them."""

    name: str
    build: Callable[[], nn.Module]
    spec: Callable[[nn.Module], PermutationSpec]
    epochs: int
    learning_rate: float
    weight_decay: float


def standard_cases(quick: bool = False) -> list[Case]:
    """The demo's two architectures; narrower and shorter where `quick`."""
    width, epochs = (64, 3) if quick else (512, 20)
    channels, rounds = (8, 2) if quick else (32, 10)
    return [
        Case("mlp", partial(MLP, 64, (width,) * 3, 10), architectures.mlp, epochs, 2e-3, 0.5),
        Case("resnet", partial(ResNet, 1, channels, (1, 1, 1), 10), architectures.resnet, rounds, 1e-2, 1.0),
    ]


@dataclass(frozen=True)
class Pair:
    """What matching did to one pair of models. Losses and accuracies are of the test part.

    Without BatchNorm, the re-estimated curves are None. `output_change` is the largest change of an output by
    permuting model b, relative to the largest output: rounding, and nothing else.
    """

    model: str
    seeds: tuple[int, int]
    match: Matching
    before: BarrierCurve
    after: BarrierCurve
    before_reestimated: BarrierCurve | None
    after_reestimated: BarrierCurve | None
    output_change: float

    def summary(self) -> dict[str, Any]:
        """Plain numbers for results.json."""
        curves = {
            "before": self.before,
            "after": self.after,
            "before_reestimated": self.before_reestimated,
            "after_reestimated": self.after_reestimated,
        }
        return {
            "model": self.model,
            "seeds": list(self.seeds),
            "l2_before": self.match.l2_before,
            "l2_after": self.match.l2_after,
            "l2_reduction": self.match.l2_reduction,
            "objective": self.match.objective,
            "sweeps": len(self.match.history),
            "converged": self.match.converged,
            "matching_seconds": self.match.seconds,
            "output_change": self.output_change,
            "curves": {name: _curve_summary(curve) for name, curve in curves.items() if curve is not None},
        }


@dataclass(frozen=True)
class Merged:
    """All models of one architecture, matched to the first and averaged with equal weights."""

    model: str
    seeds: tuple[int, ...]
    loss: float
    accuracy: float | None
    loss_unpermuted: float
    accuracy_unpermuted: float | None


@dataclass(frozen=True)
class DemoResult:
    """All that the demo measured, and where it wrote it. Pairs and means are of weight matching."""

    folder: Path
    pairs: tuple[Pair, ...]
    merged: tuple[Merged, ...]
    methods: tuple[ByMethod, ...]
    seconds: float


# Called with each architecture and what is being done to it; returns the progress hook for that work.
Stage = Callable[[str, str], Progress]


def run_demo(
    folder: Path,
    *,
    cases: Sequence[Case] | None = None,
    models: int = 3,
    seed: int = 0,
    lambdas: int = 25,
    methods: Sequence[str] = ("wm", "am", "ste"),
    processes: int = 1,
    stage: Stage = lambda case, work: False,
) -> DemoResult:
    """Train, match, merge and measure every case, and write plots, numbers and checkpoints to `folder`.

    Everything is done on one thread: the models are small.

    Args:
        folder: must not exist; it appears when everything in it is whole, under the next free name if another has
            come to be there meanwhile.
        cases: architectures; None: `standard_cases`.
        models: how many to train of each; all are matched to the first.
        seed: of the first model; the others follow.
        lambdas: points of each curve.
        methods: which of `METHODS` to compare.
        processes: how many train side by side; the results are the same for any number.
        stage: gives the progress hook for each piece of work.

    Raises:
        FileExistsError: `folder` exists.
        FileNotFoundError: the folder that it is to stand in does not.
        ImportError: an optional package is missing; the message names the extra.
        ValueError: an unknown method.
    """
    methods = check_methods(methods)
    folder = Path(folder)
    check_new_folder(folder)
    # Before minutes of work, not after them.
    for module, extra in (("matplotlib", "demo"), ("safetensors", "cli")):
        require(module, extra)
    began = time.perf_counter()
    data = digits()
    cases = standard_cases() if cases is None else cases
    pairs: list[Pair] = []
    merged: list[Merged] = []
    compared: list[ByMethod] = []
    seeds = tuple(range(seed, seed + models))

    def fill(aside: Path) -> None:
        """Train, match and measure every case, and write to `aside`."""
        with one_thread():
            for case, trained in zip(cases, _train(cases, data, seeds, processes, stage), strict=True):
                found, average, rows = _run_case(case, data, aside, trained, seeds, lambdas, methods, stage)
                pairs.extend(found)
                merged.append(average)
                compared.extend(rows)
        _write_results(aside / "results.json", data, pairs, merged, compared, time.perf_counter() - began)

    placed = write_folder(folder, fill)
    return DemoResult(placed, tuple(pairs), tuple(merged), tuple(compared), time.perf_counter() - began)


def _train(
    cases: Sequence[Case], data: Dataset, seeds: Sequence[int], processes: int, stage: Stage
) -> list[list[nn.Module]]:
    """The models of every case, one for each seed."""
    tasks = [(case, seed) for case in cases for seed in seeds]
    trained: dict[int, nn.Module] = {}
    hook: Progress = False
    epochs = [0] * len(tasks)

    def begin(place: int) -> None:
        nonlocal hook
        case, seed = tasks[place]
        if processes == 1:
            hook = stage(case.name, f"train seed {seed}")
        elif not place:
            hook = stage(", ".join(case.name for case in cases), f"train {len(tasks)} models")

    def hear(place: int, step: tuple[str, int, int]) -> None:
        """Tell the hook of a step of the task at `place`: of one process its own, of several their sum."""
        if processes == 1:
            description, done, total = step
        else:
            epochs[place] = step[1]
            description, done, total = "training", sum(epochs), sum(case.epochs for case, _ in tasks)
        if callable(hook):
            hook(description, done, total)

    for place, model in side_by_side(_train_one, data, tasks, processes=processes, begin=begin, hear=hear):
        trained[place] = model
    return [[trained[k * len(seeds) + j] for j in range(len(seeds))] for k in range(len(cases))]


def _train_one(data: Dataset, task: tuple[Case, int], tell: Callable[[tuple[str, int, int]], None]) -> nn.Module:
    case, seed = task
    return train(
        case.build,
        data,
        seed=seed,
        epochs=case.epochs,
        learning_rate=case.learning_rate,
        weight_decay=case.weight_decay,
        progress=lambda *step: tell(step),
    )


def _run_case(
    case: Case,
    data: Dataset,
    folder: Path,
    trained: Sequence[nn.Module],
    seeds: tuple[int, ...],
    lambdas: int,
    methods: Sequence[str],
    stage: Stage,
) -> tuple[list[Pair], Merged, list[ByMethod]]:
    seed = seeds[0]
    spec = case.spec(trained[0])
    spec.to_json(folder / f"{case.name}_spec.json")
    save_checkpoint(folder / f"{case.name}_seed{seeds[0]}.safetensors", trained[0].state_dict())
    pairs = []
    for s, model in zip(seeds[1:], trained[1:], strict=True):
        match = weight_matching(trained[0], model, spec, seed=seed, progress=stage(case.name, f"match seed {s}"))
        aligned = match.apply(model)
        save_checkpoint(folder / f"{case.name}_seed{s}.safetensors", model.state_dict())
        save_checkpoint(folder / f"{case.name}_seed{s}_aligned.safetensors", aligned.state_dict())
        curves = _curves(trained[0], model, match, data, lambdas, lambda s=s: stage(case.name, f"measure seed {s}"))  # type: ignore[misc]
        change = _output_change(model, aligned, data)
        pairs.append(Pair(case.name, (seeds[0], s), match, *curves, change))
    _draw(folder / f"barrier_{case.name}.png", case, data, pairs)
    _draw_alignment(folder / f"alignment_{case.name}.png", case, data, trained, pairs)
    average = merge(trained, [None, *(pair.match for pair in pairs)])
    save_checkpoint(folder / f"{case.name}_merged.safetensors", _fresh_statistics(average, data).state_dict())
    loss, accuracy = evaluate(_fresh_statistics(average, data), data.test_batches())
    plain_loss, plain_accuracy = evaluate(_fresh_statistics(merge(trained), data), data.test_batches())
    rows = []
    for name in methods:
        matches = [
            # Weight matching has been done.
            pair.match
            if name == "wm"
            else METHODS[name](trained[0], model, data, spec, seed, stage(case.name, f"{name} seed {pair.seeds[1]}"))
            for pair, model in zip(pairs, trained[1:], strict=True)
        ]
        rows.append(by_method(case.name, name, trained, seeds, matches, data))
    return pairs, Merged(case.name, seeds, loss, accuracy, plain_loss, plain_accuracy), rows


def _fresh_statistics(model: nn.Module, data: Dataset) -> nn.Module:
    return reestimate_batchnorm(model, data.statistics_batches()) if has_batchnorm(model) else model


def _curves(
    model_a: nn.Module,
    model_b: nn.Module,
    match: Matching,
    data: Dataset,
    lambdas: int,
    progress: Callable[[], Progress],
) -> tuple[BarrierCurve, BarrierCurve, BarrierCurve | None, BarrierCurve | None]:
    def measure(permutations: Matching | None, reestimate: bool) -> BarrierCurve:
        """Loss and accuracy between the two models on the test part."""
        return loss_barrier(
            model_a,
            model_b,
            data.test_batches(),
            permutations,
            lambdas=lambdas,
            batchnorm_batches=data.statistics_batches() if reestimate else None,
            progress=progress(),
        )

    plain = measure(None, False), measure(match, False)
    if not has_batchnorm(model_a):
        return *plain, None, None
    return *plain, measure(None, True), measure(match, True)


def _output_change(model: nn.Module, permuted: nn.Module, data: Dataset) -> float:
    """Largest change of an output by permuting, relative to the largest output; both compute one function."""
    with torch.no_grad():
        outputs = model(data.test_inputs)
        return float((permuted(data.test_inputs) - outputs).abs().max() / outputs.abs().max())


def _draw(path: Path, case: Case, data: Dataset, pairs: Sequence[Pair]) -> None:
    families: dict[str, list[BarrierCurve]] = {}
    for pair in pairs:
        for label, curve in (
            ("not permuted", pair.before),
            ("not permuted, BatchNorm re-estimated", pair.before_reestimated),
            ("permuted", pair.after),
            ("permuted, BatchNorm re-estimated", pair.after_reestimated),
        ):
            if curve is not None:
                families.setdefault(label, []).append(curve)
    figure = barrier_figure(f"{case.name} on {data.name}: between independently trained models", families)
    save_png(figure, path)


def _draw_alignment(path: Path, case: Case, data: Dataset, models: Sequence[nn.Module], pairs: Sequence[Pair]) -> None:
    """The curves beside R by layer: what matching does, and what it does it with."""
    first, *others = (singular_factors(model) for model in models)
    curves, alignments = {}, {}
    for label, fresh in (("not permuted", "before_reestimated"), ("permuted", "after_reestimated")):
        plain = fresh.removesuffix("_reestimated")
        permuted = label == "permuted"
        curves[label] = [getattr(pair, fresh) or getattr(pair, plain) for pair in pairs]
        alignments[label] = [
            spectral_alignment(first, other, pair.match if permuted else None)
            for other, pair in zip(others, pairs, strict=True)
        ]
    again = ", BatchNorm statistics measured again" if has_batchnorm(models[0]) else ""
    title = f"{case.name} on {data.name}: the barrier, and the singular vectors{again}"
    save_png(alignment_figure(title, curves, alignments), path, dpi=110)


def _curve_summary(curve: BarrierCurve) -> dict[str, Any]:
    return {
        "lambdas": curve.lambdas.tolist(),
        "loss": curve.loss.tolist(),
        "accuracy": None if curve.accuracy is None else curve.accuracy.tolist(),
        "barrier": curve.barrier,
        "midpoint_barrier": curve.midpoint_barrier,
        "batchnorm": curve.batchnorm,
    }


def _write_results(
    path: Path,
    data: Dataset,
    pairs: Sequence[Pair],
    merged: Sequence[Merged],
    methods: Sequence[ByMethod],
    seconds: float,
) -> None:
    results = {
        "data": data.name,
        "seconds": seconds,
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "pairs": [pair.summary() for pair in pairs],
        "merged": [asdict(average) for average in merged],
        "methods": [asdict(row) for row in methods],
    }
    write_text(path, json.dumps(results, indent=1) + "\n")

"""The measurements of one trial, as plain numbers that JSON takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..._progress import Progress
from ...analysis import (
    BarrierCurve,
    SpectralFactors,
    distance_decomposition,
    evaluate,
    input_alignment,
    loss_barrier,
    loss_landscape,
    singular_factors,
    spectral_alignment,
    taylor_barrier,
)
from ...matching import (
    Matching,
    activation_matching,
    sinkhorn_matching,
    straight_through_matching,
    weight_matching,
)
from ...merging import interpolate
from ...repairing import has_batchnorm
from ...symmetry import Permutations, PermutationSpec
from ..datasets import Dataset
from .settings import Network, Settings

__all__ = ["Trial", "measure_pair", "measure_trial"]

Numbers = dict[str, Any]

# At equal loss between a and b as weight matching has on digits; see the page's note on claim 8.
STE_LEARNING_RATE = 1e-2


@dataclass
class Trial:
    """Three models of one recipe, and what their measurements share.

    Attributes:
        models: a, b and c, in eval mode.
        spec: what may be permuted in them.
        data: its test part gives losses; its training part gives searches their batches.
        settings: thresholds, points of curves.
        hook: gives the progress hook for a piece of work.
    """

    models: Sequence[nn.Module]
    spec: PermutationSpec
    data: Dataset
    settings: Settings
    hook: Callable[[str], Progress] = lambda work: False
    factors: list[SpectralFactors] = field(init=False)

    def __post_init__(self) -> None:
        self.factors = [singular_factors(model) for model in self.models]

    def curve(self, model_a: nn.Module, model_b: nn.Module, match: Matching | None, reestimate: bool) -> BarrierCurve:
        """Test loss between two models; BatchNorm statistics measured anew at every point, or interpolated."""
        fresh = reestimate and has_batchnorm(model_a)
        return loss_barrier(
            model_a,
            model_b,
            self.data.test_batches(),
            match,
            lambdas=self.settings.lambdas,
            batchnorm_batches=self.data.statistics_batches() if fresh else None,
        )

    def alignment(self, a: SpectralFactors, b: SpectralFactors, match: Matching | None) -> Numbers:
        """R in all and by layer, a list over the thresholds each."""
        found = spectral_alignment(a, b, match, gammas=self.settings.gammas)
        layers = {layer.name: list(layer.r) for layer in found.layers}
        return {"overall": list(found.overall), "layers": layers}


def measure_trial(trial: Trial, network: Network, seed: int, landscape: bool) -> Numbers:
    """Everything that claims 1 to 8 need of one triple of models."""
    a, b, c = trial.models
    data = trial.data
    methods: dict[str, Numbers] = {"none": _measure_match(trial, None, None, "not permuted")}
    matches: dict[str, tuple[Matching, Matching]] = {}
    for method in network.methods:
        hook = trial.hook(f"match by {method}")
        match_b, match_c = (_match(trial, network, method, other, seed, hook) for other in (b, c))
        matches[method] = match_b, match_c
        methods[method] = _measure_match(trial, match_b, match_c, method)
    numbers: Numbers = {
        "ends": [dict(zip(("loss", "accuracy"), evaluate(m, data.test_batches()), strict=True)) for m in (a, b, c)],
        "methods": methods,
        "spectra": _spectra(trial, matches["wm"][0]),
        "inputs": _inputs(trial),
    }
    if landscape:
        trial.hook("loss over the plane")
        compared = [method for method in ("wm", "ste") if method in matches]
        numbers["landscapes"] = {method: _landscape(trial, matches[method]) for method in compared}
    return numbers


def measure_pair(trial: Trial) -> Numbers:
    """What the sweeps need of two models."""
    a, b = trial.models
    f_a, f_b = trial.factors
    match = weight_matching(a, b, trial.spec, progress=trial.hook("match"))
    before, after = (trial.curve(a, b, permuted, True) for permuted in (None, match))
    r_before, r_after = (trial.alignment(f_a, f_b, permuted)["overall"] for permuted in (None, match))
    return {
        "ends": [evaluate(model, trial.data.test_batches())[0] for model in (a, b)],
        "barrier_before": before.barrier,
        "barrier_after": after.barrier,
        "l2_reduction": match.l2_reduction,
        "r_before": r_before,
        "r_after": r_after,
    }


def _match(trial: Trial, network: Network, method: str, other: nn.Module, seed: int, hook: Progress) -> Matching:
    a, spec = trial.models[0], trial.spec
    if method == "wm":
        return weight_matching(a, other, spec, progress=hook)
    batches = list(trial.data.train_batches())
    if method == "am":
        return activation_matching(a, other, batches, spec, progress=hook)
    if method == "sinkhorn":
        return sinkhorn_matching(
            a, other, spec, batches=batches, loss="midpoint", steps=network.sinkhorn_steps, seed=seed, progress=hook
        )
    random_start = method == "ste"
    return straight_through_matching(
        a,
        other,
        batches,
        spec,
        init=Permutations.random(spec, seed) if random_start else "anchored",
        epochs=network.ste_epochs,
        learning_rate=STE_LEARNING_RATE if random_start else 3e-3,
        seed=seed,
        progress=hook,
    )


def _measure_match(trial: Trial, match_b: Matching | None, match_c: Matching | None, name: str) -> Numbers:
    """One way of laying b and c over a."""
    trial.hook(f"measure: {name}")
    a, b, c = trial.models
    f_a, f_b, _ = trial.factors
    curve = trial.curve(a, b, match_b, True)
    taylor = taylor_barrier(a, b, trial.data.test_batches(), match_b, lambdas=trial.settings.lambdas)
    merged = singular_factors(interpolate(a, b, 0.5, match_b))
    b_there, c_there = (m if match is None else match.apply(m) for m, match in ((b, match_b), (c, match_c)))
    numbers = {
        "curve": _curve(curve),
        "barrier": curve.barrier,
        "taylor": taylor.barrier,
        "taylor_excess": taylor.excess.tolist(),
        "r": trial.alignment(f_a, f_b, match_b),
        "merged_r": [
            trial.alignment(merged, f_a, None)["overall"],
            trial.alignment(merged, f_b, match_b)["overall"],
        ],
        "third_barrier": trial.curve(b_there, c_there, None, True).barrier,
    }
    if match_b is not None:
        numbers |= {"l2_reduction": match_b.l2_reduction, "l2": [match_b.l2_before, match_b.l2_after]}
        numbers["seconds"] = match_b.seconds
    if has_batchnorm(a):
        numbers["barrier_interpolated_statistics"] = trial.curve(a, b, match_b, False).barrier
    return numbers


def _curve(curve: BarrierCurve) -> Numbers:
    return {
        "lambdas": curve.lambdas.tolist(),
        "loss": curve.loss.tolist(),
        "accuracy": None if curve.accuracy is None else curve.accuracy.tolist(),
        "batchnorm": curve.batchnorm,
    }


def _spectra(trial: Trial, match: Matching) -> Numbers:
    """Singular values of a and b, how far they are apart, and what permuting b does to its own."""
    a, b, _ = trial.factors
    permuted = singular_factors(match.apply(trial.models[1]))
    distances = distance_decomposition(a, b, match)
    layers = {}
    for layer in distances.layers:
        s_a, s_b, s_p = (of[layer.name].s.double() for of in (a, b, permuted))
        layers[layer.name] = {
            "a": s_a.tolist(),
            "b": s_b.tolist(),
            "difference": float((s_a - s_b).norm() / s_a.norm()),
            "permuting": float(((s_b - s_p).abs() / s_b.max()).max()),
            "before": layer.before,
            "after": layer.after,
            "bound": layer.bound,
        }
    return layers


def _inputs(trial: Trial) -> Numbers:
    """Cosines of inputs with right singular vectors, by layer of model a."""
    found = input_alignment(trial.models[0], trial.data.test_batches(), factors=trial.factors[0])
    return {
        layer.name: {"cosines": layer.cosines.tolist(), "values": layer.values.tolist(), "random": layer.random}
        for layer in found.layers
    }


def _landscape(trial: Trial, matches: tuple[Matching, Matching]) -> Numbers:
    model = trial.models[0]
    with torch.no_grad():
        plane = loss_landscape(
            trial.models,
            trial.data.test_batches(),
            [None, *matches],
            points=trial.settings.landscape,
            batchnorm_batches=trial.data.statistics_batches() if has_batchnorm(model) else None,
        )
    return {
        "x": plane.x.tolist(),
        "y": plane.y.tolist(),
        "loss": plane.loss.tolist(),
        "positions": plane.positions.tolist(),
    }

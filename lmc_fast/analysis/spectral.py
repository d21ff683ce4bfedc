"""How far the singular vectors of two models coincide: the alignment R(gamma) of Ito et al. (ICLR 2025)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from .._backend import check_backend, check_device
from .._checks import check_floats
from .._models import Model, accumulate_dtype, tensors_of
from .._modes import neutral
from .._progress import Progress, tracking
from .._results import Result, axes_to_draw_on
from ..matching.results.matching import Match, choice_of
from ..ops.permuted_lerp import permuted_lerp
from ..ops.spectral_overlap import is_large, polar_overlap, spectral_overlap
from ..symmetry import Transforms
from ..symmetry.transforms import Choice
from .factors import LayerFactors, SpectralFactors, decomposed_pair, laid_over, matrices_of_both
from .layers import gathers_of, moved_columns, moved_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["LayerAlignment", "SpectralAlignment", "spectral_alignment"]

# Entries that are summed in the matrices' own dtype.
_RUN = 1 << 16
# How far R by polar factors may be from exact, by its own bound.
_SURE = 1e-4
METHODS = ("auto", "svd", "polar")


@dataclass(frozen=True)
class LayerAlignment:
    """R of one weight.

    Attributes:
        name: of the parameter.
        shape: of its matrix, (rows, columns).
        r: R for every gamma; 0 where no singular value takes part.
        kept_a, kept_b: how many singular values of a and of b take part, for every gamma.
    """

    name: str
    shape: tuple[int, int]
    r: tuple[float, ...]
    kept_a: tuple[int, ...]
    kept_b: tuple[int, ...]

    @property
    def random_deviation(self) -> float:
        """Standard deviation of R between matrices with independent, uniform singular vectors, whose mean is 0.

        Of each pair <u_a, u_b> <v_a, v_b> has variance 1 / (rows * columns), and pairs are uncorrelated: the same
        at every gamma.
        """
        return 1.0 / math.sqrt(self.shape[0] * self.shape[1])


@dataclass(frozen=True)
class SpectralAlignment(Result):
    """R(gamma) between two models, by weight and over all.

    Attributes:
        gammas: thresholds: a singular value takes part if it is at least gamma times the largest of its weight.
        layers: one entry for each weight, in the order of the model.
        method: "svd" or "polar".
    """

    gammas: tuple[float, ...]
    layers: tuple[LayerAlignment, ...]
    method: str
    derived: ClassVar[tuple[str, ...]] = ("overall",)

    @property
    def overall(self) -> tuple[float, ...]:
        """R over all weights for every gamma: the sum of all pairs' products over sqrt(all k_a * all k_b)."""
        found = []
        for g in range(len(self.gammas)):
            total = sum(layer.r[g] * math.sqrt(layer.kept_a[g] * layer.kept_b[g]) for layer in self.layers)
            pairs = sum(layer.kept_a[g] for layer in self.layers) * sum(layer.kept_b[g] for layer in self.layers)
            found.append(total / math.sqrt(pairs) if pairs else 0.0)
        return tuple(found)

    def rows(self) -> list[dict[str, Any]]:
        """One mapping for each weight and gamma, as a table takes them (``pandas.DataFrame(found.rows())``)."""
        return [
            {"weight": layer.name, "gamma": gamma, "r": r, "kept_a": a, "kept_b": b}
            for layer in self.layers
            for gamma, r, a, b in zip(self.gammas, layer.r, layer.kept_a, layer.kept_b, strict=True)
        ]

    def plot(
        self,
        axes: Axes | None = None,
        *,
        gamma: float | None = None,
        label: str | None = None,
        color: str | None = None,
    ) -> Axes:
        """Draw R by weight, as bars from the first weight down.

        Args:
            axes: of matplotlib, to draw on; None: of a new figure. Drawn on twice, bars lie over each other.
            gamma: which of `gammas`; None: the last.
            label, color: of the bars.

        Returns:
            The axes.

        Raises:
            ValueError: another gamma.
            ImportError: matplotlib is not installed; the message names the extra.
        """
        gamma = self.gammas[-1] if gamma is None else gamma
        if gamma not in self.gammas:
            raise ValueError(f"gamma must be one of {self.gammas}, got {gamma}")
        axes = axes_to_draw_on(axes, height=1.2 + 0.28 * len(self.layers))
        names = [layer.name.removesuffix(".weight") for layer in self.layers]
        places = list(range(len(names)))
        axes.barh(
            places, [layer.r[self.gammas.index(gamma)] for layer in self.layers], alpha=0.7, label=label, color=color
        )
        axes.set_yticks(places, names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel(f"R({gamma:g}): how far singular vectors coincide")
        axes.axvline(0, color="0.6", linewidth=1)
        if label:
            axes.legend(frameon=False)
        return axes

    def __str__(self) -> str:
        width = max(len("over all"), *(len(layer.name) for layer in self.layers))
        heads = "".join(f"  R({gamma:g})".ljust(10) + "kept a, b".rjust(13) for gamma in self.gammas)
        lines = [f"{'weight':<{width}}  {'shape':>12}{heads}"]
        for layer in self.layers:
            cells = "".join(
                f"  {r:+.4f} {f'{a}, {b}':>14}" for r, a, b in zip(layer.r, layer.kept_a, layer.kept_b, strict=True)
            )
            lines.append(f"{layer.name:<{width}}  {f'{layer.shape[0]} x {layer.shape[1]}':>12}{cells}")
        lines.append(f"{'over all':<{width}}  {'':>12}" + "".join(f"  {r:+.4f}{'':>15}" for r in self.overall))
        return "\n".join(line.rstrip() for line in lines)


@neutral
def spectral_alignment(
    model_a: Model | SpectralFactors,
    model_b: Model | SpectralFactors,
    match: Match = None,
    *,
    gammas: Sequence[float] = (0.0, 0.3),
    parameters: Sequence[str] | None = None,
    method: str = "auto",
    device: torch.device | str | None = None,
    backend: str = "auto",
    progress: Progress = False,
) -> SpectralAlignment:
    """How far the singular vectors of two models' weights coincide, model b laid over model a.

    Ito et al. (ICLR 2025), section 4: R(gamma) = sum_ij <u_a,i, P u_b,j> <v_a,i, Q v_b,j> / sqrt(k_a k_b), over the
    k_a and k_b singular values that are at least gamma times the largest of their weight: 1 where they coincide,
    near 0 between unrelated weights. Permutations turn the factors; there is no SVD but those of the two models,
    and none at all where `SpectralFactors` are given. So do rotations, exactly: P and Q are any orthogonal maps, and
    singular values stay. Of two models in pure form that differ by such maps alone R is 1, which permutations cannot
    reach; how much of it rotations win over permutations is how much of two models' difference was a matter of the
    coordinates of their streams and heads.

    Repeated singular values: the sum over all pairs of a set of vectors is that of the projections which they span,
    <U_a V_a^T, P U_b V_b^T Q^T>, and does not depend on signs, nor on the basis inside a repeated value as long as
    that is in the sum whole. So a threshold that falls into a cluster of values that rounding cannot tell apart
    takes in the whole of it. Values that are zero to rounding never count: their vectors are arbitrary.

    Args:
        model_a, model_b: modules, state dicts, or their `SpectralFactors` (`singular_factors`).
        match: a `Matching`, `Permutations` or `Transforms` for model b; None: as it is. Of a spec with folds, both
            models are in pure form. Between a merged model and an original: ``spectral_alignment(merged, model_a)``,
            ``spectral_alignment(merged, model_b, match)``.
        gammas: thresholds from 0 to 1. With none at 0, models are decomposed down to the least alone, which is
            several times as fast where few singular values take part.
        parameters: names of weights; None: every one with two dimensions or more (`singular_factors`).
        method: "svd"; "polar", for gamma = 0 alone: by polar factors, without singular vectors where those take
            longer: on a CPU for weights of some 256 x 256 and more that do not lack much of their rank. R of a weight
            is then within 1e-4 of exact, rounding aside (float64 on a CPU: 1e-6); "auto": "polar" for such weights
            and on a GPU, where gammas are all 0 and no factors are given, else "svd".
        device: where to compute; None: where model a's weights are.
        backend: "auto", "torch", "triton" (GPU), or "native" (CPU, for `SpectralFactors`).
        progress: True for a bar, or a function (description, done, total).

    Returns:
        A `SpectralAlignment`.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: models of different shapes, a match for other models, thresholds outside 0..1, weights that are
            not finite, factors that end above the least threshold, or "polar" with a threshold above 0 or with factors.
        RuntimeError: a backend that cannot be used here; the message says why.
    """
    thresholds = tuple(check_floats("gammas", gammas))
    for gamma in thresholds:
        if not 0 <= gamma <= 1:
            raise ValueError(f"gammas must be from 0 to 1, got {gamma}")
    check_backend(backend)
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    where = check_device("device", device)
    choice = choice_of("match", match)
    held = isinstance(model_a, SpectralFactors) and isinstance(model_b, SpectralFactors)
    if method == "polar" and any(thresholds):
        raise ValueError(f"method 'polar' must have gammas of 0 alone, got {thresholds}")
    if method == "polar" or (method == "auto" and not any(thresholds) and _for_polar(model_a, model_b, where)):
        return _by_polar(model_a, model_b, choice, thresholds, parameters, where, progress)
    least = min(thresholds, default=0.0)
    a, b = decomposed_pair(model_a, model_b, choice, parameters, where, progress, least)
    layers = []
    with tracking(progress, "alignment", len(a)) as advance:
        for name, ours in a.items():
            theirs, gathers = laid_over(choice, b[name])
            kept_a, kept_b = (tuple(layer.kept(gamma) for gamma in thresholds) for layer in (ours, theirs))
            if held:
                r = _by_isometries(ours, theirs, gathers, kept_a, kept_b, backend)
            else:
                vectors = (ours.u, ours.s, ours.v, theirs.u, theirs.s, theirs.v)
                r = tuple(spectral_overlap(*vectors, *gathers, gammas=thresholds, backend=backend).tolist())
            layers.append(LayerAlignment(name, ours.shape, r, kept_a, kept_b))
            advance(name)
    return SpectralAlignment(thresholds, tuple(layers), "svd")


def _by_isometries(
    a: LayerFactors,
    b: LayerFactors,
    gathers: tuple[Tensor | None, Tensor | None],
    kept_a: Sequence[int],
    kept_b: Sequence[int],
    backend: str,
) -> tuple[float, ...]:
    """R = <U_a V_a^T, P U_b V_b^T Q^T> / sqrt(k_a k_b) for every threshold, from matrices that the factors keep."""
    device = a.u.device
    moved = tuple(None if index is None else index.to(device) for index in gathers)
    found = []
    for k_a, k_b in zip(kept_a, kept_b, strict=True):
        if not k_a * k_b:
            found.append(0.0)
            continue
        ours, theirs = a.isometry(k_a), b.isometry(k_b).to(device)
        if any(index is not None for index in moved):
            theirs = permuted_lerp([theirs], [1.0], [moved], backend=backend)
        found.append(_dot(ours, theirs.to(ours.dtype)) / math.sqrt(k_a * k_b))
    return tuple(found)


def _dot(a: Tensor, b: Tensor) -> float:
    """<a, b>, runs of entries in their own dtype and these in float64."""
    runs = zip(*(torch.split(tensor.reshape(-1), _RUN) for tensor in (a, b)), strict=True)
    return float(torch.stack([torch.dot(x, y) for x, y in runs]).sum(dtype=torch.float64))


def _for_polar(model_a: Model | SpectralFactors, model_b: Model | SpectralFactors, device: torch.device | None) -> bool:
    """Whether polar factors are the faster way: on a GPU, and on a CPU for weights that are not small."""
    if isinstance(model_a, SpectralFactors) or isinstance(model_b, SpectralFactors):
        return False
    weights = [tensor for tensor in tensors_of("model_a", model_a).values() if tensor.ndim > 1]
    devices = {weight.device for weight in weights} if device is None else {device}
    return all(each.type == "cuda" for each in devices) or any(
        is_large(weight.shape[0], math.prod(weight.shape[1:]), accumulate_dtype(weight.dtype)) for weight in weights
    )


def _by_polar(
    model_a: Model | SpectralFactors,
    model_b: Model | SpectralFactors,
    choice: Choice | None,
    gammas: tuple[float, ...],
    parameters: Sequence[str] | None,
    device: torch.device | None,
    progress: Progress,
) -> SpectralAlignment:
    """R(0) as often as there are gammas."""
    if isinstance(model_a, SpectralFactors) or isinstance(model_b, SpectralFactors):
        raise ValueError("method 'polar' must have models, as it needs no SVD, got SpectralFactors")
    a, b = matrices_of_both(model_a, model_b, choice, parameters)
    layers: list[LayerAlignment] = []
    with tracking(progress, "alignment", len(a)) as advance:
        for name, matrix in a.items():
            shape = (matrix.shape[0], matrix.shape[1])
            theirs, rows, columns = b[name], None, None
            if isinstance(choice, Transforms):
                theirs = moved_columns(choice, name, shape, moved_rows(choice, name, shape, theirs).T).T
            else:
                rows, columns = gathers_of(choice, name, shape)
            ours = matrix.to(device or matrix.device)
            found = polar_overlap(ours, theirs, rows, columns)
            if found.bound > _SURE:
                # A weight that lacks rank, met by products alone.
                found = polar_overlap(ours, theirs, rows, columns, by="singular vectors")
            times = len(gammas)
            kept = ((found.kept_a,) * times, (found.kept_b,) * times)
            layers.append(LayerAlignment(name, shape, (found.value,) * times, *kept))
            advance(name)
    return SpectralAlignment(gammas, tuple(layers), "polar")

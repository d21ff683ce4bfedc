"""The distance between two models' weights, taken apart by singular values and vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._backend import check_device
from .._models import Model
from .._modes import neutral
from .._progress import Progress, tracking
from .._results import Result, axes_to_draw_on
from ..matching.engine.sums import squared_distance
from ..matching.results.matching import Match, choice_of
from .factors import LayerFactors, SpectralFactors, decomposed_pair, laid_over

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["DistanceDecomposition", "LayerDistance", "distance_decomposition"]


@dataclass(frozen=True)
class LayerDistance:
    """||W_a - P W_b Q^T||^2 = squares_a + squares_b - 2 cross, for one weight.

    Attributes:
        name: of the parameter.
        squares_a, squares_b: sum_i s_i^2 of each model.
        cross: sum_ij s_a,i s_b,j <u_a,i, P u_b,j> <v_a,i, Q v_b,j>.
        values: sum_i (s_a,i - s_b,i)^2, which no rotation of singular vectors can go below (von Neumann).
        before, after: ||W_a - W_b|| and ||W_a - P W_b Q^T||, summed over the weights themselves.
    """

    name: str
    squares_a: float
    squares_b: float
    cross: float
    values: float
    before: float
    after: float

    @property
    def bound(self) -> float:
        """The least distance that singular values allow: sqrt(sum_i (s_a,i - s_b,i)^2)."""
        return math.sqrt(self.values)

    @property
    def decomposed(self) -> float:
        """`after` from the decomposition, sqrt(squares_a + squares_b - 2 cross); less exact where it is small."""
        return math.sqrt(max(0.0, self.squares_a + self.squares_b - 2 * self.cross))

    @property
    def reduction(self) -> float:
        """1 - after / before; 0 where the weights were equal to begin with."""
        return 1.0 - self.after / self.before if self.before > 0 else 0.0


@dataclass(frozen=True)
class DistanceDecomposition(Result):
    """The distance between two models over their weight matrices, and what it is made of.

    Attributes:
        layers: one entry for each weight, in the order of the model.
    """

    layers: tuple[LayerDistance, ...]

    @property
    def overall(self) -> LayerDistance:
        """The same over all weights: sums of squares; distances and bound are their roots."""
        sums = [
            math.fsum(getattr(layer, name) for layer in self.layers)
            for name in ("squares_a", "squares_b", "cross", "values")
        ]
        roots = [
            math.sqrt(math.fsum(getattr(layer, name) ** 2 for layer in self.layers)) for name in ("before", "after")
        ]
        return LayerDistance("over all", *sums, *roots)

    def rows(self) -> list[dict[str, Any]]:
        """One mapping for each weight, and one over all, as a table takes them."""
        return [
            {
                "weight": row.name,
                "before": row.before,
                "after": row.after,
                "reduction": row.reduction,
                "bound": row.bound,
            }
            for row in (*self.layers, self.overall)
        ]

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw the distance of each weight before and after, and the least that singular values allow.

        Args:
            axes: of matplotlib, to draw on; None: of a new figure.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is not installed; the message names the extra.
        """
        axes = axes_to_draw_on(axes, height=1.2 + 0.4 * len(self.layers))
        places = list(range(len(self.layers)))
        axes.barh([p - 0.2 for p in places], [row.before for row in self.layers], height=0.36, label="before")
        axes.barh([p + 0.2 for p in places], [row.after for row in self.layers], height=0.36, label="after")
        axes.plot([row.bound for row in self.layers], places, "k|", markersize=14, label="least that is possible")
        axes.set_yticks(places, [row.name.removesuffix(".weight") for row in self.layers])
        axes.set_ylim(len(places) - 0.4, -0.6)
        axes.set_xlabel("L2 distance between the weights")
        axes.legend(frameon=False)
        return axes

    def __str__(self) -> str:
        rows = [*self.layers, self.overall]
        width = max(len(row.name) for row in rows)
        lines = [f"{'weight':<{width}}  {'before':>10}  {'after':>10}  {'reduction':>9}  {'bound':>10}"]
        lines += [
            f"{row.name:<{width}}  {row.before:>10.4f}  {row.after:>10.4f}  {row.reduction:>9.1%}  {row.bound:>10.4f}"
            for row in rows
        ]
        return "\n".join(lines)


@neutral
def distance_decomposition(
    model_a: Model | SpectralFactors,
    model_b: Model | SpectralFactors,
    match: Match = None,
    *,
    parameters: Sequence[str] | None = None,
    device: torch.device | str | None = None,
    progress: Progress = False,
) -> DistanceDecomposition:
    """What the distance of two models' weights is made of, before and after model b is laid over model a.

    Ito et al. (ICLR 2025): with W = U S V^T, ||W_a - P W_b Q^T||^2 = sum_i s_a,i^2 + sum_i s_b,i^2 -
    2 sum_ij s_a,i s_b,j <u_a,i, P u_b,j> <v_a,i, Q v_b,j>, and at least sum_i (s_a,i - s_b,i)^2 (von Neumann 1937).
    Rotations as permutations move the cross terms alone. Between transformers the distance is no guide to the barrier:
    what lowers one may well raise the other, so that ways to lay them over each other are to be judged by their loss.

    Args:
        model_a, model_b, match, parameters, device, progress: as for `spectral_alignment`.

    Returns:
        A `DistanceDecomposition`: over the weight matrices, not over biases and norms, as `Matching.l2_after` is.

    Raises:
        TypeError, ValueError: as `spectral_alignment`.
    """
    where = check_device("device", device)
    choice = choice_of("match", match)
    a, b = decomposed_pair(model_a, model_b, choice, parameters, where, progress)
    layers = []
    with tracking(progress, "distances", len(a)) as advance:
        for name, ours in a.items():
            theirs, gathers = laid_over(choice, b[name])
            layers.append(_decomposed(ours, b[name], theirs, *gathers))
            advance(name)
    return DistanceDecomposition(tuple(layers))


def _decomposed(
    a: LayerFactors, before: LayerFactors, b: LayerFactors, rows: Tensor | None, columns: Tensor | None
) -> LayerDistance:
    s_a, s_b = (values.double().sort(descending=True).values for values in (a.s, b.s.to(a.s.device)))
    weight_a = a.weight
    weight_before, weight_b = (layer.weight.to(weight_a.device) for layer in (before, b))
    gathers = [None if index is None else index.to(weight_a.device) for index in (rows, columns)]
    return LayerDistance(
        name=a.name,
        squares_a=float(s_a.square().sum()),
        squares_b=float(s_b.square().sum()),
        cross=_cross(a, b, rows, columns),
        values=float((s_a - s_b).square().sum()),
        before=math.sqrt(squared_distance(weight_a, weight_before, (None, None))),
        after=math.sqrt(squared_distance(weight_a, weight_b, gathers)),
    )


def _cross(a: LayerFactors, b: LayerFactors, rows: Tensor | None, columns: Tensor | None) -> float:
    device = a.u.device
    u_b, v_b = (
        side.to(device) if index is None else side.to(device).index_select(0, index.to(device))
        for side, index in ((b.u, rows), (b.v, columns))
    )
    # [r_a, r_b]
    left, right = (a.u * a.s).T @ u_b, a.v.T @ (v_b * b.s.to(device))
    return float((left.double() * right.double()).sum())

"""Figures, drawn off screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._extras import require
from ..analysis import BarrierCurve, SpectralAlignment
from .colours import colour_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["alignment_figure", "barrier_figure"]


@dataclass(frozen=True)
class CurveStyle:
    """How one family of curves is drawn."""

    label: str
    color: str
    line: str = "-"


# Told apart by lightness and by line as well as by hue.
STYLES = (
    CurveStyle("not permuted", colour_of("not permuted")),
    CurveStyle("not permuted, BatchNorm re-estimated", colour_of("not permuted"), "--"),
    CurveStyle("permuted", colour_of("permuted")),
    CurveStyle("permuted, BatchNorm re-estimated", colour_of("permuted"), "--"),
)


def barrier_figure(title: str, curves: Mapping[str, Sequence[BarrierCurve]]) -> Figure:
    """Draw loss and accuracy between pairs of models, one line a pair, the families in their own styles.

    Args:
        title: what the figure says.
        curves: for the label of each family ("permuted", "not permuted", either with ", BatchNorm re-estimated"),
            its curves.

    Returns:
        A matplotlib Figure, known to no window; ``figure.savefig(path)`` writes it.

    Raises:
        ValueError: a label that has no style.
        ImportError: matplotlib is not installed; the message names the extra.
    """
    known = [style.label for style in STYLES]
    for family in curves:
        if family not in known:
            raise ValueError(f"curves must be labelled by some of {known}, got {family!r}")
    with_accuracy = all(curve.accuracy is not None for drawn in curves.values() for curve in drawn)
    figure: Figure = require("matplotlib.figure", "demo").Figure(figsize=(10, 4.2))
    axes = figure.subplots(1, 2 if with_accuracy else 1, squeeze=False)
    loss_axis = axes[0, 0]
    for style in STYLES:
        for position, curve in enumerate(curves.get(style.label, ())):
            label = style.label if position == 0 else None
            _line(loss_axis, curve, curve.loss, style, label)
            if with_accuracy:
                _line(axes[0, 1], curve, 100 * curve.accuracy, style, label)  # type: ignore[operator]
    loss_axis.set_ylabel("test loss (cross-entropy)")
    loss_axis.set_ylim(bottom=0)
    if with_accuracy:
        axes[0, 1].set_ylabel("test accuracy (%)")
        axes[0, 1].set_ylim(top=101)
    for axis in axes[0]:
        axis.set_xlabel(r"$\lambda$: from model a (0) to model b (1)")
        axis.set_xlim(0, 1)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    figure.suptitle(title)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    # Below the axes: the curves leave no free corner that is the same in every figure.
    handles, shown = loss_axis.get_legend_handles_labels()
    figure.legend(handles, shown, loc="lower center", ncols=len(shown), frameon=False, fontsize=9)
    return figure


def alignment_figure(
    title: str,
    curves: Mapping[str, Sequence[BarrierCurve]],
    alignments: Mapping[str, Sequence[SpectralAlignment]],
    *,
    gamma: float = 0.3,
) -> Figure:
    """Draw what matching does to the loss between models (left) and to their singular vectors, by layer (right).

    Args:
        title: what the figure says.
        curves: as for `barrier_figure`.
        alignments: for "not permuted" and "permuted" the alignments of the same pairs; all of the same weights.
        gamma: which of their thresholds to draw.

    Returns:
        A matplotlib Figure, known to no window.

    Raises:
        ValueError: a label that has no style, alignments without this gamma, or none at all.
        ImportError: matplotlib is not installed; the message names the extra.
    """
    styles = {style.label: style for style in STYLES}
    for family in (*curves, *alignments):
        if family not in styles:
            raise ValueError(f"curves and alignments must be labelled by some of {list(styles)}, got {family!r}")
    found = [alignment for drawn in alignments.values() for alignment in drawn]
    if not found or any(gamma not in alignment.gammas for alignment in found):
        raise ValueError(f"alignments must have R at gamma {gamma}, and there must be one at least")
    names = [layer.name.removesuffix(".weight") for layer in found[0].layers]
    # A row a layer, with its whole name: as high as they need, and the names' width on top of the bars'.
    height = max(4.2, 1.7 + 0.24 * len(names))
    width = 10 + 0.075 * max(0, max(map(len, names)) - 8)
    figure: Figure = require("matplotlib.figure", "demo").Figure(figsize=(width, height))
    left, right = figure.subplots(1, 2)
    for style in STYLES:
        for position, curve in enumerate(curves.get(style.label, ())):
            _line(left, curve, curve.loss, style, style.label if position == 0 else None)
    share = 0.8 / len(alignments)
    for k, (family, drawn) in enumerate(alignments.items()):
        # Bars under each other, each pair of models a point over its bar.
        places = [i + share * (k + 0.5 - len(alignments) / 2) for i in range(len(names))]
        lengths = [[layer.r[a.gammas.index(gamma)] for layer in a.layers] for a in drawn]
        means = [sum(column) / len(column) for column in zip(*lengths, strict=True)]
        right.barh(places, means, height=0.9 * share, color=styles[family].color, alpha=0.85, label=family)
        for row in lengths:
            right.plot(row, places, ".", color="black", markersize=min(4.0, 12 * share))
    left.set_ylabel("test loss (cross-entropy)")
    left.set_xlabel(r"$\lambda$: from model a (0) to model b (1)")
    left.set(xlim=(0, 1), ylim=(0, None))
    left.grid(alpha=0.25)
    right.set_yticks(range(len(names)), names, fontsize=10 if len(names) < 12 else 8)
    right.set_ylim(len(names) - 0.4, -0.6)
    right.set_xlabel(f"R({gamma:g}): how far singular vectors coincide, by layer")
    right.axvline(0, color="0.6", linewidth=1)
    right.grid(axis="x", alpha=0.25)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    figure.tight_layout(rect=(0, 0.3 / height, 1, 1))
    handles, shown = left.get_legend_handles_labels()
    figure.legend(handles, shown, loc="lower center", ncols=max(1, len(shown)), frameon=False, fontsize=9)
    return figure


def _line(axis: Any, curve: BarrierCurve, values: Any, style: CurveStyle, label: str | None) -> None:
    axis.plot(curve.lambdas, values, style.line, color=style.color, label=label, linewidth=1.8, alpha=0.85)

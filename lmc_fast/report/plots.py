"""Figures, drawn off screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._extras import require
from ..analysis import BarrierCurve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["barrier_figure"]


@dataclass(frozen=True)
class CurveStyle:
    """How one family of curves is drawn."""

    label: str
    color: str
    line: str = "-"


# Told apart by lightness and by line as well as by hue.
STYLES = (
    CurveStyle("not permuted", "#b3452c"),
    CurveStyle("not permuted, BatchNorm re-estimated", "#b3452c", "--"),
    CurveStyle("permuted", "#1f5f99"),
    CurveStyle("permuted, BatchNorm re-estimated", "#1f5f99", "--"),
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


def _line(axis: Any, curve: BarrierCurve, values: Any, style: CurveStyle, label: str | None) -> None:
    axis.plot(curve.lambdas, values, style.line, color=style.color, label=label, linewidth=1.8, alpha=0.85)

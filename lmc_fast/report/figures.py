"""Figures of the report page: narrow enough for a phone, drawn off screen, as SVG and PNG."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._extras import require
from .._files import write_bytes, write_text
from .tables import Stat

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Line",
    "Panel",
    "Series",
    "intervals_figure",
    "lines_figure",
    "plane_figure",
    "save_figure",
    "save_png",
    "svg_text",
]

# Told apart by lightness as well as by hue (after Okabe and Ito).
COLOURS = ("#1f5f99", "#d1700a", "#2f8f5b", "#8b3f8f", "#6b6b6b", "#b3452c")
WIDTH = 6.4
STYLE = {"font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none"}


@dataclass(frozen=True)
class Series:
    """Values of one kind, one for each group of an intervals figure."""

    label: str
    values: Sequence[Stat]


@dataclass(frozen=True)
class Line:
    """One line of a panel; `error` is drawn as bars, `style` is matplotlib's."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] | None = None
    style: str = "-"
    colour: int = 0


@dataclass(frozen=True)
class Panel:
    """Axes with lines; `scale` is "linear", "log" or "symlog" for each axis."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    x_scale: str = "linear"
    y_scale: str = "linear"
    x_ticks: Sequence[float] | None = None


def intervals_figure(groups: Sequence[str], series: Sequence[Series], x_label: str) -> Figure:
    """Means with bars of one standard deviation: groups from top to bottom, series side by side in each.

    Returns:
        A matplotlib Figure, known to no window.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra.
    """
    rows = len(groups) * (len(series) + 0.6)
    with require("matplotlib", "demo").rc_context(STYLE):
        figure: Figure = require("matplotlib.figure", "demo").Figure(figsize=(WIDTH, 1.2 + 0.3 * rows))
        axis = figure.subplots()
        for k, one in enumerate(series):
            places = [g + (k + 0.5) / len(series) * 0.8 - 0.4 for g in range(len(groups))]
            spread = [0.0 if stat.n == 1 else stat.deviation for stat in one.values]
            means = [stat.mean for stat in one.values]
            colour = COLOURS[k % len(COLOURS)]
            axis.errorbar(means, places, xerr=spread, fmt="o", color=colour, capsize=3, label=one.label)
        axis.axvline(0, color="0.7", linewidth=1, zorder=0)
        axis.set_yticks(range(len(groups)), groups)
        axis.set_ylim(len(groups) - 0.5, -0.5)
        axis.set_xlabel(x_label)
        axis.grid(axis="x", alpha=0.25)
        _finish(figure, len(series))
    return figure


def lines_figure(panels: Sequence[Panel], height: float = 2.9) -> Figure:
    """Panels under each other.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra.
    """
    with require("matplotlib", "demo").rc_context(STYLE):
        figure: Figure = require("matplotlib.figure", "demo").Figure(figsize=(WIDTH, height * len(panels) + 0.5))
        shown = 0
        for axis, panel in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
            for line in panel.lines:
                colour = COLOURS[line.colour % len(COLOURS)]
                common: dict[str, Any] = {"color": colour, "label": line.label, "linewidth": 1.6}
                if line.error is None:
                    axis.plot(line.x, line.y, line.style, **common)
                else:
                    axis.errorbar(line.x, line.y, yerr=line.error, fmt=f"o{line.style}", capsize=3, **common)
            axis.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
            axis.title.set_fontsize(11)
            # Before the ticks, which a change of scale would replace.
            axis.set_xscale(panel.x_scale)
            axis.set_yscale(panel.y_scale)
            if panel.x_ticks is not None:
                axis.set_xticks(panel.x_ticks, [f"{tick:g}" for tick in panel.x_ticks])
                axis.minorticks_off()
            axis.grid(alpha=0.25)
            shown = max(shown, len({line.label for line in panel.lines}))
        _finish(figure, shown)
    return figure


def plane_figure(planes: Sequence[tuple[str, dict[str, Any]]], names: Sequence[str]) -> Figure:
    """Loss over planes of three models as contours, on one scale of colours.

    Args:
        planes: (title, what `LossLandscape` holds: x, y, loss, positions as lists).
        names: of the three models.
    """
    with require("matplotlib", "demo").rc_context({**STYLE, "axes.spines.top": True, "axes.spines.right": True}):
        figure: Figure = require("matplotlib.figure", "demo").Figure(
            figsize=(WIDTH, 4.2 * len(planes)), layout="constrained"
        )
        low = min(np.min(plane["loss"]) for _, plane in planes)
        high = max(np.max(plane["loss"]) for _, plane in planes)
        levels = np.geomspace(max(low, 1e-6), max(high, 2e-6), 16)
        all_axes = figure.subplots(len(planes), 1, squeeze=False)[:, 0]
        for axis, (title, plane) in zip(all_axes, planes, strict=True):
            drawn = axis.contourf(plane["x"], plane["y"], plane["loss"], levels=levels, cmap="viridis", extend="both")
            for name, (x, y) in zip(names, plane["positions"], strict=True):
                axis.plot(x, y, "o", color="white", markeredgecolor="black")
                axis.annotate(name, (x, y), xytext=(6, 6), textcoords="offset points", color="white", weight="bold")
            axis.set(title=title, xlabel="distance between weights", aspect="equal")
            axis.title.set_fontsize(11)
            figure.colorbar(drawn, ax=axis, label="test loss", format="%.2g")
    return figure


def _finish(figure: Figure, labels: int) -> None:
    """One legend below all axes."""
    handles = {
        label: handle for axis in figure.axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    if labels > 1:
        columns = 1 if max(map(len, handles)) > 28 else 2
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, frameon=False)
    figure.set_layout_engine("constrained")


def svg_text(figure: Figure, name: str) -> str:
    """The figure as an svg element whose ids all begin with `name`: several can stand in one page."""
    out = io.StringIO()
    with require("matplotlib", "demo").rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    return re.sub(r"(url\(#|href=\"#)", rf"\g<1>{name}-", text)


def save_figure(figure: Figure, folder: Path, name: str) -> str:
    """Write ``name.svg`` and ``name.png`` to `folder`; return the svg element."""
    text = svg_text(figure, name)
    write_text(folder / f"{name}.svg", text)
    save_png(figure, folder / f"{name}.png")
    return text


def save_png(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a figure as PNG."""
    # Drawn in memory: what writes images to a file has errors of its own for a full disk.
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=dpi)
    write_bytes(path, out.getvalue())

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
from .colours import COLOURS, GRID, INK, declared, themed
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

WIDTH = 5.6
STYLE: dict[str, Any] = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "grid.color": GRID,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}
# Of series that share the colours of their groups.
MARKERS = ("o", "s", "^", "D")
# A line of no more points says what each is; a longer one says what it is.
FEW = 40
# What the ids of artists begin with that say something when they are pointed at.
TIP = "tip:"


@dataclass(frozen=True)
class Series:
    """Values of one kind, one for each group of an intervals figure, in a colour (`COLOURS`, by place, if None)."""

    label: str
    values: Sequence[Stat]
    colour: str | None = None


@dataclass(frozen=True)
class Line:
    """One line of a panel: `error` is drawn as bars; `style` is matplotlib's; `colour` may be a place in `COLOURS`."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] | None = None
    style: str = "-"
    colour: int | str = 0


@dataclass(frozen=True)
class Panel:
    """Axes with lines; `scale` is "linear", "log" or "symlog" for each axis.

    Lines of one label stand in the legend once.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    x_scale: str = "linear"
    y_scale: str = "linear"
    x_ticks: Sequence[float] | None = None


def intervals_figure(
    groups: Sequence[str], series: Sequence[Series], x_label: str, colours: Sequence[str] | None = None
) -> Figure:
    """Means with bars of one standard deviation: groups from top to bottom, series side by side in each.

    Args:
        groups: names; a line break stays one.
        series: told apart by colour, or by marker where groups have colours.
        x_label: what is drawn.
        colours: one for each group.

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
            own = COLOURS[k % len(COLOURS)] if one.colour is None else one.colour
            marker = "o" if colours is None else MARKERS[k % len(MARKERS)]
            # For the legend alone.
            axis.plot(
                [], [], marker, color=own if colours is None else INK, label=one.label, fillstyle=_fill(k, colours)
            )
            for g, stat in enumerate(one.values):
                place = g + (k + 0.5) / len(series) * 0.8 - 0.4
                spread = 0.0 if stat.n == 1 else stat.deviation
                colour = own if colours is None else colours[g]
                axis.errorbar(
                    [stat.mean],
                    [place],
                    xerr=[spread],
                    fmt=marker,
                    color=colour,
                    capsize=3,
                    fillstyle=_fill(k, colours),
                )
                name = " ".join(groups[g].split())
                _tip(axis, stat.mean, place, f"{name}, {one.label}: {stat}" if len(series) > 1 else f"{name}: {stat}")
        axis.axvline(0, color=GRID, linewidth=1, zorder=0)
        axis.set_yticks(range(len(groups)), groups)
        axis.set_ylim(len(groups) - 0.5, -0.5)
        axis.set_xlabel(x_label)
        # More would run into each other on a phone.
        axis.locator_params(axis="x", nbins=6)
        axis.grid(axis="x", alpha=0.4)
        _finish(figure, len(series))
    return figure


def _fill(series: int, colours: Sequence[str] | None) -> str:
    """Whether the markers of a series are full: of those that share colours every second one is empty."""
    return "none" if colours is not None and series % 2 else "full"


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
                _draw(axis, line)
            axis.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
            axis.title.set_fontsize(11)
            # Before the ticks, which a change of scale would replace.
            axis.set_xscale(panel.x_scale)
            axis.set_yscale(panel.y_scale)
            if panel.x_ticks is not None:
                axis.set_xticks(panel.x_ticks, [f"{tick:g}" for tick in panel.x_ticks])
                axis.minorticks_off()
            axis.grid(alpha=0.4)
            shown = max(shown, len({line.label for line in panel.lines}))
        _finish(figure, shown)
    return figure


def _draw(axis: Any, line: Line) -> None:
    colour = COLOURS[line.colour % len(COLOURS)] if isinstance(line.colour, int) else line.colour
    common: dict[str, Any] = {"color": colour, "label": line.label, "linewidth": 1.6}
    few = len(line.x) <= FEW
    if line.error is None:
        (drawn,) = axis.plot(line.x, line.y, line.style, **common)
        if not few:
            drawn.set_gid(TIP + line.label)
    else:
        axis.errorbar(line.x, line.y, yerr=line.error, fmt=f"o{line.style}", capsize=3, **common)
    if few:
        errors = line.error or [0.0] * len(line.x)
        for x, y, error in zip(line.x, line.y, errors, strict=True):
            spread = f" ± {error:.2g}" if error else ""
            _tip(axis, x, y, f"{line.label} at {x:.4g}: {y:.4g}{spread}")


def _tip(axis: Any, x: float, y: float, text: str) -> None:
    """Something unseen that says `text` where a mouse points at it."""
    (drawn,) = axis.plot([x], [y], "o", color=INK, markersize=12, alpha=0, markeredgewidth=0, gid=TIP + text)
    drawn.set_in_layout(False)


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
                _tip(axis, x, y, f"{title}, {name}: {_nearest(plane, x, y):.3g}")
                axis.annotate(name, (x, y), xytext=(6, 6), textcoords="offset points", color="white", weight="bold")
            axis.set(title=title, xlabel="distance between weights", aspect="equal")
            axis.title.set_fontsize(11)
            figure.colorbar(drawn, ax=axis, label="test loss", format="%.2g")
    return figure


def _nearest(plane: dict[str, Any], x: float, y: float) -> float:
    """The loss at the point of the grid that is nearest to (x, y)."""
    column, row = (int(np.argmin(np.abs(np.asarray(plane[axis]) - at))) for axis, at in (("x", x), ("y", y)))
    return float(np.asarray(plane["loss"])[row, column])


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
    """The figure as an svg element, on no ground, that takes the page's colours and says what is pointed at.

    Its ids all begin with `name`: several can stand in one page.
    """
    out = io.StringIO()
    with require("matplotlib", "demo").rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(rf'<g id="{TIP}([^"]*)">', r'<g class="tip"><title>\1</title>', text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    return themed(re.sub(r"(url\(#|href=\"#)", rf"\g<1>{name}-", text))


def save_figure(figure: Figure, folder: Path, name: str) -> str:
    """Write ``name.svg``, which brings its colours along, and ``name.png`` to `folder`; return the svg element."""
    text = svg_text(figure, name)
    # What lies where has been found; to find it once more takes as long as to draw.
    figure.set_layout_engine(None)
    ground = f"{declared()}svg {{ background: var(--paper); }}"
    write_text(folder / f"{name}.svg", re.sub(r"(<svg [^>]*>)", rf"\1<style>{ground}</style>", text, count=1))
    save_png(figure, folder / f"{name}.png")
    return text


def save_png(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a figure as PNG."""
    # Drawn in memory: what writes images to a file has errors of its own for a full disk.
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=dpi, facecolor="white")
    write_bytes(path, out.getvalue())

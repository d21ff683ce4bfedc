"""`plot`: figures from the CSV files of a results folder."""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path
from typing import Any

from .solvers import OURS

__all__ = ["draw", "register"]

Row = dict[str, str]


def register(commands: argparse._SubParsersAction) -> None:
    """Add `plot`."""
    parser = commands.add_parser("plot", help="figures from the CSV files of a folder")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("benchmarks/results"))
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `plot`; 2 if the folder holds no results."""
    drawn = draw(arguments.folder)
    if not drawn:
        raise FileNotFoundError(f"no results of lap or lap-memory in {str(arguments.folder)!r}")
    for path in drawn:
        print(path)
    return 0


def draw(folder: Path) -> list[Path]:
    """Draw what the folder has rows for; return the files."""
    import matplotlib

    matplotlib.use("Agg")
    drawn = []
    cold = _rows(folder / "lap.csv")
    if cold:
        drawn += [_times(folder / "lap-times.png", cold), _ratios(folder / "lap-ratios.png", cold)]
    large = _rows(folder / "lap-memory.csv")
    if large:
        drawn.append(_growth(folder / "lap-growth.png", large))
    return drawn


def _rows(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["status"] == "ok"]


def _lines(rows: list[Row], value: str) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """family -> solver -> [(n, value)]."""
    lines: dict[str, dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        lines[row["family"]][row["solver"]].append((int(row["n"]), float(row[value])))
    return lines


def _axes(count: int, across: int = 4) -> tuple[Any, list[Any]]:
    from matplotlib import pyplot

    across = min(across, count)
    down = -(-count // across)
    figure, grid = pyplot.subplots(down, across, figsize=(4 * across, 3.2 * down), squeeze=False, sharex=True)
    axes = list(grid.flat)
    for unused in axes[count:]:
        unused.set_visible(False)
    return figure, axes


def _save(figure: Any, axes: list[Any], path: Path) -> Path:
    from matplotlib import pyplot

    for axis in axes:
        axis.xaxis.set_major_formatter("{x:.0f}")
        axis.yaxis.set_major_formatter("{x:g}")
    handles = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    figure.set_layout_engine("constrained")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path


def _times(path: Path, rows: list[Row]) -> Path:
    lines = _lines(rows, "p50_ms")
    colours = {name: f"C{k}" for k, name in enumerate(dict.fromkeys(row["solver"] for row in rows))}
    figure, axes = _axes(len(lines))
    for axis, (family, solvers) in zip(axes, lines.items(), strict=False):
        for solver, points in solvers.items():
            width = 2.5 if solver == OURS else 1
            axis.plot(*zip(*points, strict=True), marker=".", label=solver, color=colours[solver], linewidth=width)
        axis.set(title=family, yscale="log", xlabel="n", ylabel="median, ms")
        axis.set_xscale("log", base=2)
    return _save(figure, axes, path)


def _ratios(path: Path, rows: list[Row]) -> Path:
    """How many times faster we are than the fastest peer, over n; one line for each family."""
    figure, axes = _axes(1)
    for family, solvers in _lines(rows, "p50_ms").items():
        ours = dict(solvers.get(OURS, []))
        peers: dict[int, float] = {}
        for solver, points in solvers.items():
            if not solver.startswith(OURS):
                peers.update({n: min(time, peers.get(n, time)) for n, time in points})
        both = [(n, peers[n] / ours[n]) for n in sorted(ours) if n in peers]
        if both:
            axes[0].plot(*zip(*both, strict=True), marker=".", label=family)
    axes[0].axhline(1, color="0.5", linewidth=1)
    axes[0].set(yscale="log", xlabel="n", ylabel="fastest peer's time over ours")
    axes[0].set_xscale("log", base=2)
    figure.set_size_inches(7, 5.5)
    return _save(figure, axes, path)


def _growth(path: Path, rows: list[Row]) -> Path:
    figure, axes = _axes(2)
    for axis, value, label in zip(
        axes, ("p50_ms", "peak_over_matrix"), ("time, ms", "peak memory over the matrix's size"), strict=True
    ):
        for family, solvers in _lines(rows, value).items():
            for solver, points in solvers.items():
                axis.plot(*zip(*points, strict=True), marker=".", label=f"{family}, {solver}")
        axis.set(xlabel="n", ylabel=label)
        axis.set_xscale("log", base=2)
    axes[0].set_yscale("log")
    figure.set_size_inches(10, 4.5)
    return _save(figure, axes, path)

"""The demo's results as tables that fit a terminal of 80 columns, and as paragraphs where it is narrower."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from .._terminal import readable, width_of
from ..analysis import BarrierCurve
from ..report.tables import stacked
from .demo import Merged, Pair
from .demo_methods import ByMethod
from .demo_transformers import TransformersResult

__all__ = ["merged_table", "method_table", "pair_table", "show", "ways_table"]


def _table(title: str, first: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def show(table: Table) -> None:
    """Print a table on stdout, whole: as paragraphs on a terminal that is narrower, at its full width elsewhere."""
    stream = sys.stdout
    console, width = Console(file=stream), width_of(stream)
    needed = Measurement.get(console, console.options.update(width=1000), table).maximum
    if width is None or needed <= width:
        Console(file=stream, width=max(needed, width or 80)).print(table)
        return
    columns = [str(column.header).replace("\n", " ") for column in table.columns]
    rows = zip(*([str(cell).replace("\n", " ") for cell in column.cells] for column in table.columns), strict=True)
    stream.write(f"{table.title}\n{stacked(columns, list(rows), width)}\n\n")


def _arrow() -> str:
    # Laid out as it is printed: in other words it is wider.
    return readable("→", sys.stdout.encoding)


def pair_table(pairs: Sequence[Pair]) -> Table:
    """One entry for each pair, and a second for the re-estimated statistics of a model with BatchNorm."""
    table = _table(
        "Between two independently trained models: test loss over accuracy",
        "model",
        (
            "end a",
            "end b",
            "middle\nbefore",
            "middle\nafter",
            f"barrier\n{_arrow()} after",
            f"L2 distance\n{_arrow()} after",
            "time\nsec",
        ),
    )
    for pair in pairs:
        match = pair.match
        name = f"{pair.model}\nseeds {pair.seeds[0]}, {pair.seeds[1]}"
        l2 = f"{match.l2_before:.2f}\n{_arrow()} {match.l2_after:.2f} -{100 * match.l2_reduction:.0f}%"
        table.add_row(name, *_curves(pair.before, pair.after), l2, f"{match.seconds:.2f}")
        if pair.before_reestimated is not None and pair.after_reestimated is not None:
            table.add_row("BatchNorm\nre-estim.", *_curves(pair.before_reestimated, pair.after_reestimated))
    return table


def _curves(before: BarrierCurve, after: BarrierCurve) -> tuple[str, ...]:
    def at(curve: BarrierCurve, position: int) -> str:
        return _cell(float(curve.loss[position]), None if curve.accuracy is None else float(curve.accuracy[position]))

    return (
        at(after, 0),
        at(after, -1),
        _cell(before.midpoint_loss, before.midpoint_accuracy),
        _cell(after.midpoint_loss, after.midpoint_accuracy),
        f"{before.barrier:.3f}\n{_arrow()} {after.barrier:.3f}",
    )


def _cell(loss: float, accuracy: float | None) -> str:
    return f"{loss:.3f}" if accuracy is None else f"{loss:.3f}\n{100 * accuracy:.1f}%"


def merged_table(merged: Sequence[Merged]) -> Table:
    """One entry for each architecture: the plain mean of its models, and the mean of the matched ones."""
    table = _table(
        "The mean of all models: test loss over accuracy",
        "model",
        ("not permuted", "permuted"),
    )
    for average in merged:
        table.add_row(
            f"{average.model}\nseeds {', '.join(str(seed) for seed in average.seeds)}",
            _cell(average.loss_unpermuted, average.accuracy_unpermuted),
            _cell(average.loss, average.accuracy),
        )
    return table


def method_table(rows: Sequence[ByMethod]) -> Table:
    """One entry for each method and architecture."""
    table = _table(
        "By method, all models laid over the first: means over pairs",
        "model",
        ("method", "middle\nloss", "accuracy", "barrier\nto first", "between\nothers", "L2\nafter", "time\nsec"),
    )
    last = ""
    for row in rows:
        others = "" if row.others_barrier is None else f"{row.others_barrier:.3f}"
        accuracy = "" if row.accuracy is None else f"{100 * row.accuracy:.1f}%"
        name = "" if row.model == last else row.model
        numbers = (
            f"{row.loss:.3f}",
            accuracy,
            f"{row.barrier:.3f}",
            others,
            f"{row.l2_after:.2f}",
            f"{row.seconds:.2f}",
        )
        table.add_row(name, row.method, *numbers)
        last = row.model
    return table


def ways_table(result: TransformersResult) -> Table:
    """One entry for each way of laying two transformers over each other, the models themselves first."""
    table = _table(
        f"Between two vision transformers, seeds {result.seeds[0]} and {result.seeds[1]}: test part",
        "what aligns",
        ("barrier", "middle\nloss", "accuracy", "L2\nafter", "time\nsec"),
    )
    loss, accuracy = (sum(pair) / 2 for pair in (result.ends, result.ends_accuracy))
    table.add_row("(the models themselves)", "", f"{loss:.3f}", f"{100 * accuracy:.1f}%", "", "")
    for way in result.ways:
        table.add_row(
            way.way,
            f"{way.barrier:.3f}",
            f"{way.loss:.3f}",
            "" if way.accuracy is None else f"{100 * way.accuracy:.1f}%",
            "" if way.l2_after is None else f"{way.l2_after:.2f}",
            f"{way.seconds:.2f}",
        )
    return table

"""Numbers over seeds, and tables of them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Cell", "Stat", "Table", "stacked"]


@dataclass(frozen=True)
class Stat:
    """Mean, standard deviation and standard error over independent trials; it prints mean ± deviation.

    Attributes:
        mean: of the values.
        deviation: with n - 1 in the denominator; nan for one value.
        error: deviation / sqrt(n), the standard error of the mean; nan for one value.
        n: how many values.
    """

    mean: float
    deviation: float
    error: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Stat:
        """ValueError without values, or for ones that are not finite."""
        if not values or not all(math.isfinite(value) for value in values):
            raise ValueError(f"values must be finite, one at least, got {list(values)}")
        n = len(values)
        mean = math.fsum(values) / n
        if n == 1:
            return cls(mean, math.nan, math.nan, 1)
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
        return cls(mean, deviation, deviation / math.sqrt(n), n)

    def __str__(self) -> str:
        if self.n == 1:
            return f"{self.mean:.4g}"
        if self.deviation == 0 or abs(self.mean) < 1e-4:
            return f"{self.mean:.2g}"
        # Two digits of the deviation tell how many of the mean mean something.
        digits = min(6, max(0, 1 - math.floor(math.log10(self.deviation))))
        return f"{self.mean:.{digits}f} ± {self.deviation:.{digits}f}"


Cell = str | int | float | Stat


@dataclass(frozen=True)
class Table:
    """Rows under named columns; a `Stat` takes four columns of the CSV.

    Attributes:
        name: of the CSV file, and in the page's links.
        title: what it shows.
        columns: headings.
        rows: as many cells as columns each; a column holds `Stat` in every row, or in none.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.name!r}: {len(row)} cells for {len(self.columns)} columns: {row}")

    def csv(self) -> str:
        """The table as CSV with full precision: mean, deviation, standard error and n of each `Stat`."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        spread = [any(isinstance(row[i], Stat) for row in self.rows) for i in range(len(self.columns))]
        parts = ("mean", "deviation", "error", "n")
        heads = [[f"{c} {p}" for p in parts] if s else [c] for c, s in zip(self.columns, spread, strict=True)]
        writer.writerow([head for group in heads for head in group])
        for row in self.rows:
            cells: list[Cell] = []
            for cell, is_stat in zip(row, spread, strict=True):
                if isinstance(cell, Stat):
                    cells += [cell.mean, cell.deviation, cell.error, cell.n]
                else:
                    cells += [cell, "", "", ""] if is_stat else [cell]
            writer.writerow(cells)
        return out.getvalue()

    def text(self, width: int | None = None) -> str:
        """The table in columns; below each other what does not fit into `width` columns of a terminal."""
        cells = [[f"{c:.4g}" if isinstance(c, float) else str(c) for c in row] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(self.columns, *cells, strict=True)]
        if width is not None and sum(widths) + 2 * (len(widths) - 1) > width:
            return stacked(self.columns, cells, width)
        lines = [
            "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
            for row in (self.columns, *cells)
        ]
        return "\n".join(line.rstrip() for line in lines)


def stacked(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """Rows as paragraphs, for a narrow terminal: the first cell, and below it the others behind their headings."""
    longest = max((len(head) for head in columns[1:]), default=0)
    lines = []
    for first, *others in rows:
        # An empty one is that of the row above.
        lines += [first] if first else []
        for head, cell in zip(columns[1:], others, strict=True):
            if not cell:
                continue
            if longest + len(cell) + 3 <= width:
                lines.append(f"  {head.ljust(longest)} {cell.rjust(min(12, width - longest - 3))}")
            else:
                lines += [f"  {head}", f"    {cell}"]
    return "\n".join(lines)

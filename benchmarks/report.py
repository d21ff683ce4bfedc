"""Rows of results: to a CSV as they come, to a table at the end."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

import lmc_fast

from .solvers import SOLVERS, version_of

__all__ = ["COLUMNS", "Report", "machine", "table"]

# Times in milliseconds. What a command does not measure stays empty.
COLUMNS = (
    *("command", "family", "n", "dtype", "solver", "p20_ms", "p50_ms", "p80_ms", "calls", "ratio", "status"),
    *("relative_error", "relative_gap", "reads", "peak_over_matrix", "batch", "label", "position"),
    *("cpu", "cores", "threads", "commit", "python", "numpy", "torch", "solver_version"),
)


def machine() -> dict[str, Any]:
    """What every row says about where it was measured."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "commit": _commit(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The commit that is measured: what LMC_FAST_COMMIT says, for copies of a tree, else the clone's, or "unknown"."""
    told = os.environ.get("LMC_FAST_COMMIT")
    if told:
        return told
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, check=False
        )
        described = done.stdout.strip()
    except OSError:
        described = ""
    return described or "unknown"


class Report:
    """Collects rows and writes each to `folder/name.csv` at once, so that a stopped run keeps what it has.

    With `append`, rows that the file has already stay in it; `rows` holds those of this run alone.

    Raises:
        ValueError: a row has a column that is not in `columns`; rows to append to that have other columns.
    """

    def __init__(self, folder: Path, name: str, columns: Sequence[str] = COLUMNS, append: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{name}.csv"
        self.columns = tuple(columns)
        self._append = append and self.path.exists()
        self.rows: list[dict[str, Any]] = []
        self._common = {"command": name, **machine()}

    def __enter__(self) -> Report:
        if self._append:
            with self.path.open(newline="", encoding="utf-8") as held:
                header = next(csv.reader(held), [])
            if tuple(header) != self.columns:
                raise ValueError(f"{str(self.path)!r} has other columns than the rows to append: {', '.join(header)}")
        self._file = self.path.open("a" if self._append else "w", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, self.columns)
        if not self._append:
            self._writer.writeheader()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, **row: Any) -> None:
        """Write one row; `solver`, if it is a registered one, brings its version."""
        solver = SOLVERS.get(row.get("solver", ""))
        version = {} if solver is None else {"solver_version": _version(solver.distribution)}
        row = {**self._common, **version, **row}
        self.rows.append(row)
        self._writer.writerow(
            {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()}
        )
        self._file.flush()


def _version(distribution: str) -> str:
    return lmc_fast.__version__ if distribution == "lmc_fast" else version_of(distribution)


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """The rows as aligned text; columns that are empty throughout are left out."""
    shown = [column for column in columns if any(row.get(column) not in (None, "") for row in rows)]
    cells = [shown, *([_cell(row.get(column)) for column in shown] for row in rows)]
    widths = [max(len(line[k]) for line in cells) for k in range(len(shown))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in cells)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)

"""`scripts`: searches of research code as its scripts call them, with the import line changed and with their own."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lmc_fast.experiments.datasets import digits
from lmc_fast.experiments.training import train

from .options import add_out
from .report import Report, table
from .script_sides import SCRIPTS, build, named

__all__ = ["register"]

_SHOWN = ("script", "what", "objective", "their_objective", "seconds", "their_seconds", "ratio", "status")
COLUMNS = (
    *("command", "script", "import_line", "what", "width", "objective", "their_objective", "seconds", "their_seconds"),
    *("ratio", "midpoint_loss", "their_midpoint_loss", "unmatched_loss", "pairs", "status"),
    *("cpu", "cores", "threads", "commit", "python", "numpy", "torch"),
)


BEGIN, END = "<!-- table of scripts -->", "<!-- end of the table -->"


def register(commands: argparse._SubParsersAction) -> None:
    """Add `scripts`."""
    parser = commands.add_parser("scripts", help="searches of research code, with our import line and with their own")
    parser.add_argument(
        "--clone",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help=f"a repository to compare with: {', '.join(dict.fromkeys(s.repository for s in SCRIPTS.values()))}",
    )
    parser.add_argument("--width", type=int, default=256, help="of the three hidden layers (default 256)")
    parser.add_argument("--pairs", type=int, default=2, help="of trained models; means are told (default 2)")
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=list(SCRIPTS))
    parser.add_argument(
        "--page", type=Path, help=f"a page to write the table into, between the lines {BEGIN!r} and {END!r}"
    )
    add_out(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `scripts`; 1 if ours ended below theirs by more than a hundredth, or changed a function."""
    clones = dict(_clone(text) for text in arguments.clone)
    data = digits()

    def loss_of(state: dict[str, Tensor]) -> float:
        model = build(arguments.width)
        model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)))
        with torch.no_grad():
            return float(functional.cross_entropy(model(data.test_inputs), data.test_targets))

    options: dict[str, Any] = {"epochs": 12, "learning_rate": 2e-3, "weight_decay": 0.2}
    models = [
        named(train(lambda: build(arguments.width), data, seed=seed, **options).state_dict())
        for seed in range(2 * arguments.pairs)
    ]
    pairs = list(zip(models[::2], models[1::2], strict=True))
    failed = False
    with Report(arguments.out, "scripts", COLUMNS) as report:
        for name in arguments.only:
            script = SCRIPTS[name]
            ours, theirs = (
                _side(name, pairs, arguments.width, clone, loss_of) for clone in (None, clones.get(script.repository))
            )
            if script.repository not in clones:
                theirs = {"status": "not there"}
            lost = theirs.get("objective", ours["objective"]) * 0.99 > ours["objective"]
            failed |= lost or ours["status"] != "ok"
            report.add(
                script=name,
                import_line=f"{script.theirs} -> {script.ours}",
                what=script.what,
                width=arguments.width,
                objective=ours["objective"],
                their_objective=theirs.get("objective"),
                seconds=ours["seconds"],
                their_seconds=theirs.get("seconds"),
                ratio=theirs["seconds"] / ours["seconds"] if "seconds" in theirs else None,
                midpoint_loss=ours["loss"],
                their_midpoint_loss=theirs.get("loss"),
                unmatched_loss=sum(loss_of(_middle(a, b)) for a, b in pairs) / len(pairs),
                pairs=len(pairs),
                status="below theirs" if lost else ours["status"] if ours["status"] != "ok" else theirs["status"],
            )
        print(table(report.rows, _SHOWN))
        print(f"rows: {report.path}")
        if arguments.page is not None:
            put_table(arguments.page, report.rows)
    return int(failed)


def put_table(page: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as a table between the two lines of a page that say where; ValueError if it has none."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(f"{BEGIN}\n")
    _, found, after = rest.partition(f"{END}\n")
    if not found:
        raise ValueError(f"--page must have a line {BEGIN!r} and behind it a line {END!r}, and {page} has not")
    page.write_text(f"{before}{BEGIN}\n\n{markdown(rows)}\n{END}\n{after}", encoding="utf-8")


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows for a page; numbers may be texts, as a CSV has them."""
    lines = [
        "| script, what is called | import line | objective: ours, theirs | loss half-way | processor time | ratio |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        theirs, ours = row["import_line"].split(" -> ")
        columns = {"objective": "{:.2f}", "midpoint_loss": "{:.3f}", "seconds": "{:.3f} s"}
        both = " | ".join(_two(row, column, form) for column, form in columns.items())
        ratio = f"{float(row['ratio']):.2f}" if row["ratio"] not in (None, "") else "-"
        lines.append(f"| {row['script']}: `{row['what']}` | `{theirs}`, now `{ours}` | {both} | {ratio} |")
    return "\n".join(lines) + "\n"


def _two(row: Mapping[str, Any], column: str, form: str) -> str:
    """Our number and theirs, or that theirs is not there."""
    theirs = row[f"their_{column}"]
    other = form.format(float(theirs)) if theirs not in (None, "") else "not there"
    return f"{form.format(float(row[column]))}, {other}"


def _clone(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    known = {script.repository for script in SCRIPTS.values()}
    if name not in known or not Path(path).is_dir():
        raise ValueError(f"--clone must be NAME=PATH of a folder, NAME one of {', '.join(sorted(known))}, got {text!r}")
    return name, Path(path)


def _middle(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: a[name].lerp(b[name], 0.5) for name in a}


def start(command: Sequence[str]) -> None:
    """One side, in a process of its own."""
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def _side(name: str, pairs: list[Any], width: int, clone: Path | None, loss_of: Any) -> dict[str, Any]:
    """Means over the pairs: of <a, pi(b)>, processor time, and the loss half-way; or why there are none."""
    found: dict[str, list[float]] = {"objective": [], "seconds": [], "loss": []}
    kept = True
    with tempfile.TemporaryDirectory() as folder:
        pair, result = Path(folder) / "pair.pt", Path(folder) / "result.pt"
        for a, b in pairs:
            torch.save({"a": a, "b": b, "width": width}, pair)
            command = [sys.executable, "-m", "benchmarks.script_sides", name, str(pair), str(result)]
            command += [] if clone is None else ["--clone", str(clone)]
            start(command)
            told = torch.load(result, weights_only=True)
            if "why" in told:
                return {"status": f"theirs does not run: {told['why']}"}
            moved = told["moved"]
            found["objective"].append(sum(float((a[k].double() * moved[k]).sum()) for k in a))
            found["seconds"].append(told["seconds"])
            found["loss"].append(loss_of(_middle(a, moved)))
            kept &= abs(loss_of(moved) - loss_of(b)) < 1e-4
    means = {key: sum(values) / len(values) for key, values in found.items()}
    return {**means, "status": "ok" if kept else "another function"}

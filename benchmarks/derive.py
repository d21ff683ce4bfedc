"""`derive`: how long the derivation of a spec takes, against the number of layers."""

from __future__ import annotations

import argparse
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lmc_fast as lmc
from lmc_fast.symmetry.derive.build import build
from lmc_fast.symmetry.derive.graph import export, walk
from lmc_fast.symmetry.derive.source import identities_of

from .options import add_out
from .report import Report, table
from .timing import peak_bytes

__all__ = ["draw", "register"]

_LAYERS = (2, 4, 8, 16, 32)
_SHOWN = ("model", "layers", "export_s", "walk_s", "build_s", "whole_s", "groups", "peak_gib", "status")
COLUMNS = ("command", *_SHOWN, "version", "commit", "python", "torch", "cpu", "cores", "threads", "numpy")


def register(commands: argparse._SubParsersAction) -> None:
    """Add `derive`."""
    parser = commands.add_parser("derive", help="how long derive_spec takes, against the number of layers")
    parser.add_argument("--layers", nargs="+", type=int, metavar="N", default=_LAYERS)
    add_out(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `derive`."""
    # What the first trace of a process loads is no part of any.
    measure(nn.Linear(2, 3, device="meta"), {"input": torch.zeros(5, 2, device="meta")})
    with Report(arguments.out, "derive", COLUMNS) as report:
        for layers in sorted(arguments.layers):
            for name, make in _models(layers).items():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    report.add(model=name, layers=layers, **measure(*make()))
        print(table(report.rows, _SHOWN))
        print(f"rows: {report.path}")
    print(f"figure: {draw(arguments.out / 'derive.png', report.rows)}")
    return 0


def _models(layers: int) -> dict[str, Any]:
    """By name what builds a model on the meta device, and its inputs."""

    def encoder() -> tuple[nn.Module, dict[str, Any]]:
        layer = nn.TransformerEncoderLayer(768, 12, 3072, batch_first=True, device="meta")
        model = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        return model, {"src": torch.zeros(2, 7, 768, device="meta")}

    def llama() -> tuple[nn.Module, dict[str, Any]]:
        import transformers

        with torch.device("meta"):
            model = transformers.LlamaForCausalLM(transformers.LlamaConfig(num_hidden_layers=layers))
        return model, {"input_ids": torch.zeros(2, 7, dtype=torch.long, device="meta"), "use_cache": False}

    found = {"nn.TransformerEncoder": encoder}
    try:
        import transformers  # noqa: F401
    except ImportError:
        print("transformers is not installed: Llama is left out")
        return found
    return {**found, "Llama, sizes of 7B": llama}


def measure(model: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """The parts of a derivation, each by itself, and the whole of it as it is called."""
    model.eval()
    marks = [time.perf_counter()]
    program = export(model, (), inputs)
    marks.append(time.perf_counter())
    state = model.state_dict()
    walked = walk(program, state, identities_of(model, state))
    marks.append(time.perf_counter())
    build(walked, list(state))
    marks.append(time.perf_counter())
    spec = lmc.derive_spec(model, inputs)
    marks.append(time.perf_counter())
    parts = [after - before for before, after in pairwise(marks)]
    row = dict(zip(("export_s", "walk_s", "build_s", "whole_s"), parts, strict=True))
    return {**row, "groups": len(spec.groups), "peak_gib": peak_bytes() / 2**30, "status": "ok"}


def draw(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Seconds against layers, of the whole and of what comes after the trace."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4.5))
    for name in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == name]
        layers = [row["layers"] for row in mine]
        axis.plot(layers, [row["whole_s"] for row in mine], marker=".", label=f"{name}, whole")
        after = [row["walk_s"] + row["build_s"] for row in mine]
        axis.plot(layers, after, marker=".", linestyle="--", label=f"{name}, after the trace")
    axis.set(xlabel="layers", ylabel="seconds")
    axis.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path

"""`searches`: barriers that searches by weights alone leave between trained networks; chosen on some, judged on others.

Rules are chosen by pairs of the first models, all pairs of them, and judged by pairs of others that share no model.
What a rule is worth is its excess loss half-way less that of the search "spectral" on the same pair.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lmc_fast as lmc
from lmc_fast.experiments.cache import ModelCache
from lmc_fast.experiments.datasets import Dataset, load_dataset
from lmc_fast.experiments.processes import one_thread
from lmc_fast.experiments.recipes import Recipe

from .gains import DEFAULT_CACHE
from .options import add_out
from .pairs import smaller
from .report import Report, table
from .search_rules import OWN, RULES

__all__ = ["REFERENCE", "chosen", "register", "seeds_of", "verdicts"]

REFERENCE = "spectral"
PARTS = ("choose", "judge")
# The seeds of models that judge begin here: those that choose never get so far.
JUDGES_FROM = 100
# Of the path, beside its ends.
LAMBDAS = (0.25, 0.5, 0.75)
# Examples of the training part by which BatchNorm statistics are estimated.
STATISTICS = 256
# Two standard errors are beyond chance.
ERRORS = 2.0
_COLUMNS = (
    *("command", "model", "data", "part", "seeds", "search", "objective", "barrier", "excess", "ends", "accuracy"),
    *("seconds", "cpu", "cores", "threads", "commit", "python", "numpy", "torch"),
)
_FAMILIES = {
    "mlp": Recipe("mlp", 0, (3,), steps=440, least_epochs=3, learning_rate=2e-3, weight_decay=0.5),
    "vgg11": Recipe("vgg11", 0, (), steps=132, least_epochs=1, learning_rate=5e-3, weight_decay=1.0),
    # Channels of the first stage: 16 times the width.
    "resnet": Recipe("resnet", 0, (1, 1, 1), steps=132, least_epochs=1, learning_rate=1e-2, weight_decay=1.0),
}


def register(commands: argparse._SubParsersAction) -> None:
    """Add `searches`."""
    parser = commands.add_parser("searches", help="barriers that searches by weights alone leave")
    parser.add_argument("--data", type=Path, help=".npz with images and labels to train on (default: digits)")
    parser.add_argument("--models", nargs="+", default=["mlp-256", "resnet-8"], metavar="MODEL", help="like mlp-256")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=str(PARTS))
    parser.add_argument("--choosing", type=int, default=4, help="models, all pairs of which choose (default 4)")
    parser.add_argument("--judging", type=int, default=6, help="pairs that judge, each of its own models (default 6)")
    names = [*OWN, *RULES]
    parser.add_argument("--searches", nargs="+", choices=names, metavar="SEARCH", help=f"of {names} (default: all)")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help=f"trained models (default {DEFAULT_CACHE})")
    parser.add_argument("--append", action="store_true", help="to the rows that the file has already")
    add_out(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `searches`."""
    for name in ("choosing", "judging"):
        if getattr(arguments, name) < 2:
            raise ValueError(f"--{name} must be 2 at least, got {getattr(arguments, name)}")
    if arguments.data is not None and not arguments.data.is_file():
        raise FileNotFoundError(f"--data must be an .npz file, got {str(arguments.data)!r}")
    pairs = [(part, seeds_of(part, arguments.choosing, arguments.judging)) for part in arguments.parts]
    recipes = {name: recipe_of(name) for name in arguments.models}
    whole = load_dataset("digits" if arguments.data is None else arguments.data)
    cache = ModelCache(arguments.cache, print)
    # The reference runs on every pair: differences are taken from it.
    searches = list(dict.fromkeys([REFERENCE, *(arguments.searches or [*OWN, *RULES])]))
    with Report(arguments.out, "searches", _COLUMNS, arguments.append) as report, one_thread():
        for name, recipe in recipes.items():
            data = whole if recipe.kind == "mlp" else smaller(whole)
            for part, found in pairs:
                for seeds in found:
                    pair = Pair(recipe, data, *(cache.get(recipe, data, seed) for seed in seeds))
                    told = {"model": name, "data": whole.name, "part": part, "seeds": "{},{}".format(*seeds)}
                    for search in searches:
                        report.add(**told, search=search, **pair.measured(search))
                    shown = report.rows[-len(searches) :]
                    print(table(shown, ("model", "data", "part", "seeds", "search", "excess", "barrier")), flush=True)
    with report.path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    judged = verdicts(rows)
    print(table(judged, list(judged[0])))
    print(f"chosen: {chosen(rows)}; rows: {report.path}; figure: {figure(rows, arguments.out / 'searches.png')}")
    return 0


def recipe_of(name: str) -> Recipe:
    """How the models of a name like mlp-256 are trained; ValueError for another name."""
    family, _, width = name.partition("-")
    if family not in _FAMILIES or not width.isdecimal() or int(width) == 0:
        raise ValueError(f"--models must be like mlp-256, vgg11-32 or resnet-4, got {name!r}")
    return replace(_FAMILIES[family], width=int(width) * (16 if family == "resnet" else 1))


def seeds_of(part: str, choosing: int, judging: int) -> list[tuple[int, int]]:
    """The seeds of the pairs of a part. No seed is in both."""
    if part == "choose":
        if choosing > JUDGES_FROM:
            raise ValueError(f"--choosing must be {JUDGES_FROM} at most, got {choosing}")
        return list(combinations(range(choosing), 2))
    return [(JUDGES_FROM + 2 * k, JUDGES_FROM + 2 * k + 1) for k in range(judging)]


@dataclass(frozen=True)
class Pair:
    """Two trained models, and the data that measure what lies between them."""

    recipe: Recipe
    data: Dataset
    a: nn.Module
    b: nn.Module

    @cached_property
    def ends(self) -> tuple[float, float]:
        """The losses of both, which no permutation changes."""
        return self.score(self.a)[0], self.score(self.b)[0]

    def score(self, model: nn.Module) -> tuple[float, float]:
        """Loss and accuracy on test data; BatchNorm statistics are estimated anew."""
        loss, accuracy = lmc.evaluate(
            lmc.reestimate_batchnorm(model, self.data.statistics_batches(STATISTICS)), self.data.test_batches()
        )
        assert accuracy is not None
        return loss, accuracy

    def measured(self, search: str) -> dict[str, float]:
        """What a search leaves. `seconds` are of the processor."""
        spec = self.recipe.spec(self.a).bind(self.a)
        a, b = self.a.state_dict(), self.b.state_dict()
        began = time.process_time()
        permutations = (OWN.get(search) or RULES[search])(a, b, spec)
        seconds = time.process_time() - began
        merged = [lmc.interpolate(self.a, self.b, lam, permutations) for lam in LAMBDAS]
        scores = dict(zip(LAMBDAS, map(self.score, merged), strict=True))
        excess = {lam: loss - (1 - lam) * self.ends[0] - lam * self.ends[1] for lam, (loss, _) in scores.items()}
        moved = permutations.apply(b)
        counted = [name for name, _ in self.a.named_parameters()]
        return {
            "objective": sum(float(torch.dot(*(t[name].double().flatten() for t in (a, moved)))) for name in counted),
            # At the ends it is 0.
            "barrier": max(0.0, *excess.values()),
            "excess": excess[0.5],
            "ends": statistics.fmean(self.ends),
            "accuracy": scores[0.5][1],
            "seconds": seconds,
        }


Row = Mapping[str, Any]


def _differences(rows: Iterable[Row]) -> Iterator[tuple[tuple[str, str, str, str], list[Row], list[Row]]]:
    """(part, data, model, search), its rows, and those of the reference on the same pairs."""
    by_pair = {
        (row["part"], row["data"], row["model"], row["search"], row["seeds"]): row for row in rows
    }  # The last of each: one that was measured again counts once.
    for key in dict.fromkeys(key[:4] for key in by_pair):
        mine = [row for place, row in by_pair.items() if place[:4] == key]
        theirs = [by_pair.get((*key[:3], REFERENCE, row["seeds"])) for row in mine]
        both = [(row, other) for row, other in zip(mine, theirs, strict=True) if other is not None]
        if both:
            yield key, [row for row, _ in both], [other for _, other in both]


def verdicts(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """By part, data, model and search: means over pairs, and differences from the reference with their standard error.

    `is` is "better" or "worse" where the difference is more than two standard errors.
    """
    found = []
    for (part, data, model, search), mine, theirs in _differences(rows):
        excess = [float(row["excess"]) for row in mine]
        apart = [value - float(other["excess"]) for value, other in zip(excess, theirs, strict=True)]
        mean, error = statistics.fmean(apart), _standard_error(apart)
        beyond = abs(mean) > ERRORS * error and search != REFERENCE
        found.append(
            {
                "part": part,
                "data": data,
                "model": model,
                "search": search,
                "pairs": len(mine),
                "objective": statistics.fmean(float(row["objective"]) for row in mine),
                "barrier": statistics.fmean(float(row["barrier"]) for row in mine),
                "excess": statistics.fmean(excess),
                "difference": mean,
                "error": error,
                "is": ("better" if mean < 0 else "worse") if beyond else "",
                "seconds": statistics.fmean(float(row["seconds"]) for row in mine),
            }
        )
    return found


def _standard_error(values: Sequence[float]) -> float:
    """Of a mean; infinite for one value."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf


def chosen(rows: Iterable[Row]) -> str | None:
    """The rule with the least excess on pairs that choose, as a share of the reference's, over all kinds of model.

    None without a rule that was tried on all kinds.
    """
    excesses: dict[str, dict[tuple[str, str], tuple[float, float]]] = {}
    for (part, data, model, search), mine, theirs in _differences(rows):
        if part == "choose":
            sums = [sum(float(row["excess"]) for row in of) for of in (mine, theirs)]
            excesses.setdefault(search, {})[data, model] = (sums[0], sums[1])
    kinds = set().union(*excesses.values()) if excesses else set()
    shares = {
        # By the geometric mean a rule that halves here what it doubles there is worth nothing.
        search: statistics.fmean(math.log(max(mine, 1e-9) / max(theirs, 1e-9)) for mine, theirs in by_kind.values())
        for search, by_kind in excesses.items()
        if search in RULES and set(by_kind) == kinds
    }
    return min(shares, key=shares.__getitem__, default=None)


def figure(rows: Iterable[Row], path: Path) -> Path:
    """Draw the excess of every search on pairs that judge, as a share of the reference's, by kind of model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = verdicts(rows)
    judged = [row for row in found if row["part"] == "judge"] or found
    kinds = list(dict.fromkeys((row["data"], row["model"]) for row in judged))
    names = list(dict.fromkeys(row["search"] for row in judged))
    drawn, axes = pyplot.subplots(figsize=(1.5 + 1.6 * len(kinds), 4), layout="constrained")
    for place, name in enumerate(names):
        shown = [row for row in judged if row["search"] == name]
        base = [
            next(r["excess"] for r in judged if _kind(r) == _kind(row) and r["search"] == REFERENCE) for row in shown
        ]
        x = [kinds.index(_kind(row)) + (place - (len(names) - 1) / 2) * 0.8 / len(names) for row in shown]
        y = [row["excess"] / of for row, of in zip(shown, base, strict=True)]
        error = [ERRORS * row["error"] / of if of > 0 else 0.0 for row, of in zip(shown, base, strict=True)]
        axes.errorbar(x, y, yerr=error, fmt="o", markersize=4, capsize=2, label=name)
    axes.axhline(1, color="0.5", linewidth=1)
    axes.set_xticks(range(len(kinds)), [f"{model}\n{data}" for data, model in kinds])
    axes.set_ylabel(f'excess half-way over that of "{REFERENCE}"')
    axes.set_ylim(bottom=0)
    drawn.legend(loc="outside lower center", ncols=4, frameon=False)
    drawn.savefig(path, dpi=120)
    pyplot.close(drawn)
    return path


def _kind(row: Row) -> tuple[str, str]:
    return row["data"], row["model"]

"""The figures of a run, by the claims that they belong to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...report.colours import LAYERS, colour_of
from ...report.figures import Line, Panel, Series, intervals_figure, lines_figure, plane_figure
from ...report.tables import Stat
from .results import Results, Trials
from .tables import layer_names, method_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Drawn", "figures_of", "transformer_figures"]


@dataclass(frozen=True)
class Drawn:
    """A figure, its file name, and what it shows in words."""

    name: str
    figure: Figure
    caption: str


def figures_of(results: Results) -> dict[int, list[Drawn]]:
    """Figures by number of the claim whose section they stand in."""
    return {
        1: [_curves(results)],
        2: [_taylor(results)],
        3: [_spectra(results)],
        4: [_by_layer(results)],
        5: [_merged(results)],
        6: [_inputs(results)],
        7: [_alignment(results)],
        8: [_third(results), *_planes(results)],
        9: _sweeps(results),
    }


def _curves(results: Results) -> Drawn:
    panels = []
    for trials in results.networks:
        lines = [
            Line(
                method_name(method),
                trial["methods"][method]["curve"]["lambdas"],
                trial["methods"][method]["curve"]["loss"],
                colour=colour_of(method),
            )
            for method in ("none", "wm")
            for trial in trials.trials
        ]
        again = trials.trials[0]["methods"]["wm"]["curve"]["batchnorm"] is not None
        title = trials.name + (", BatchNorm statistics measured at every point" if again else "")
        panels.append(Panel(title, "λ: from model a (0) to model b (1)", "test loss", lines))
    return Drawn(
        "curves",
        lines_figure(panels),
        "Test loss on the line between two models, before and after weight matching; a line for each trial.",
    )


def _taylor(results: Results) -> Drawn:
    groups = [f"{t.name}\n{method_name(m).split(' (')[0]}" for t in results.networks for m in ("none", "wm")]
    series = [
        Series(label, [t.method(m, lambda x, key=key: x[key]) for t in results.networks for m in ("none", "wm")])  # type: ignore[misc]
        for label, key in (("measured", "barrier"), ("second-order estimate", "taylor"))
    ]
    return Drawn(
        "taylor",
        intervals_figure(
            groups, series, "loss barrier", [colour_of(m) for _ in results.networks for m in ("none", "wm")]
        ),
        "Measured barriers and their second-order estimates, before and after weight matching (mean ± one standard "
        "deviation).",
    )


def _spectra(results: Results) -> Drawn:
    panels = []
    for trials in results.networks:
        first = trials.trials[0]["spectra"]
        # The layers of most values; more lines than these would hide each other.
        layers = sorted(first, key=lambda name: -len(first[name]["a"]))[: len(LAYERS)]
        names, lines = layer_names(first), []
        for place, layer in enumerate(sorted(layers, key=list(first).index)):
            for model, style in (("a", "-"), ("b", ":")):
                values = first[layer][model]
                label = f"{names[layer]}, model {model}"
                lines.append(Line(label, range(1, len(values) + 1), values, style=style, colour=LAYERS[place]))
        title = f"{trials.name}, first trial"
        panels.append(Panel(title, "rank", "singular value", lines, x_scale="log"))
    return Drawn(
        "singular-values",
        lines_figure(panels, height=3.6),
        "Singular values by rank of two models trained apart (solid and dotted).",
    )


def _by_layer(results: Results) -> Drawn:
    last = len(results.settings.gammas) - 1
    gamma = results.settings.gammas[last]
    groups: list[str] = []
    before: list[Stat] = []
    after: list[Stat] = []
    for trials in results.networks:
        for layer, name in layer_names(trials.trials[0]["methods"]["wm"]["r"]["layers"]).items():
            groups.append(f"{trials.name} {name}")
            for into, method in ((before, "none"), (after, "wm")):
                into.append(trials.method(method, lambda m, layer=layer: m["r"]["layers"][layer][last]))  # type: ignore[misc]
    series = [
        Series("not permuted", before, colour_of("none")),
        Series("weight matching", after, colour_of("wm")),
    ]
    return Drawn(
        "alignment-by-layer",
        intervals_figure(groups, series, f"R({gamma:g})"),
        f"R({gamma:g}) between two models by layer, before and after weight matching (mean ± one standard deviation).",
    )


def _over_gammas(results: Results, number: str, caption: str) -> Drawn:
    groups = [f"{t.name}: {_brief(m)}" for t in results.networks for m in t.methods]

    def values(g: int) -> list[Stat]:
        """Of every network and method the number for the threshold at place `g`."""
        found = []
        for trials in results.networks:
            for method in trials.methods:
                if number == "r":
                    found.append(trials.method(method, lambda m: m["r"]["overall"][g]))
                else:
                    found.append(trials.method(method, lambda m: (m["merged_r"][0][g] + m["merged_r"][1][g]) / 2))
        return found

    series = [Series(f"R({gamma:g})", values(g)) for g, gamma in enumerate(results.settings.gammas)]
    colours = [colour_of(m) for t in results.networks for m in t.methods]
    return Drawn("alignment" if number == "r" else "merged", intervals_figure(groups, series, "R", colours), caption)


def _brief(method: str) -> str:
    names = {"none": "not permuted", "wm": "WM", "am": "AM", "ste": "STE", "ste_wm": "STE from WM"}
    return names.get(method, method.capitalize())


def _alignment(results: Results) -> Drawn:
    return _over_gammas(results, "r", "R between a and b for every way of matching (mean ± one standard deviation).")


def _merged(results: Results) -> Drawn:
    return _over_gammas(
        results, "merged", "R between the merged model and its originals, mean of both (mean ± one standard deviation)."
    )


def _inputs(results: Results) -> Drawn:
    panels = []
    for trials in results.networks:
        lines = []
        names = layer_names(trials.trials[0]["inputs"])
        for colour, layer in zip(LAYERS, list(names)[1:], strict=False):
            cosines = np.mean([trial["inputs"][layer]["cosines"] for trial in trials.trials], axis=0)
            lines.append(Line(names[layer], range(1, len(cosines) + 1), cosines.tolist(), colour=colour))
        panels.append(
            Panel(f"{trials.name}, hidden layers", "rank of the singular value", "mean |cosine|", lines, "log")
        )
    return Drawn(
        "inputs",
        lines_figure(panels, height=3.2),
        "How far inputs of hidden layers lie along right singular vectors, by rank (mean over trials).",
    )


def _third(results: Results) -> Drawn:
    groups = [f"{t.name}: {_brief(m)}" for t in results.networks for m in t.methods if m != "none"]

    def values(t: Trials, key: str) -> list[Stat]:
        """Of every method of a network the number `key`."""
        return [t.method(m, lambda x: x[key]) for m in t.methods if m != "none"]

    series = [
        Series(label, [stat for t in results.networks for stat in values(t, key)])
        for label, key in (("a to b", "barrier"), ("b to c, both brought to a", "third_barrier"))
    ]
    return Drawn(
        "three-models",
        intervals_figure(
            groups, series, "loss barrier", [colour_of(m) for t in results.networks for m in t.methods if m != "none"]
        ),
        "Barriers between a and b, and between b and c once both are brought to a (mean ± one standard deviation).",
    )


def _planes(results: Results) -> list[Drawn]:
    trials = results.networks[0]
    planes = trials.trials[0].get("landscapes", {})
    if not planes:
        return []
    drawn = plane_figure([(method_name(method), plane) for method, plane in planes.items()], ("a", "b", "c"))
    return [Drawn("plane", drawn, f"Test loss over the plane through a and the permuted b and c ({trials.name}).")]


def _sweeps(results: Results) -> list[Drawn]:
    if not results.sweeps:
        return []
    panels = []
    for sweep in results.settings.sweeps:
        by_value = results.sweeps[sweep.key]
        values = sorted(by_value)
        lines = []
        for label, key, colour in (
            ("barrier after WM", "barrier_after", colour_of("wm")),
            ("barrier before", "barrier_before", colour_of("none")),
        ):
            stats = [Stat.of([trial[key] for trial in by_value[value]]) for value in values]
            error = [0.0 if stat.n == 1 else stat.deviation for stat in stats]
            lines.append(Line(label, values, [stat.mean for stat in stats], error, colour=colour))
        r = [Stat.of([trial["r_after"][-1] for trial in by_value[value]]) for value in values]
        error = [0.0 if stat.n == 1 else stat.deviation for stat in r]
        label = f"R({results.settings.gammas[-1]:g}) after WM"
        lines.append(Line(label, values, [stat.mean for stat in r], error, style="--", colour=colour_of("wm")))
        scale = "symlog" if values[0] == 0 else "log"
        panels.append(Panel(sweep.title, "", "loss, or R", lines, x_scale=scale, y_scale="log", x_ticks=values))
    return [
        Drawn(
            "sweeps",
            lines_figure(panels),
            "Barriers and R as width, weight decay and learning rate change (mean ± one standard deviation).",
        )
    ]


def transformer_figures(trials: Trials, gamma: float) -> list[Drawn]:
    """Losses of the first pair along its line by every way; barriers of all pairs against distances and R(gamma)."""
    first = trials.trials[0]["ways"]
    curves = [
        Line(way, first[way]["lambdas"], first[way]["loss"], style=_turning(way), colour=colour_of(way))
        for way in trials.methods
    ]

    def points(x_label: str, of: Callable[[dict[str, Any]], float]) -> Panel:
        """The barrier of every pair and way over another number of it."""
        drawn = [
            Line(way, [of(trial["ways"][way])], [trial["ways"][way]["barrier"]], style="o", colour=colour_of(way))
            for way in trials.methods
            for trial in trials.trials
        ]
        return Panel("", x_label, "loss barrier", drawn)

    return [
        Drawn(
            "transformer-curves",
            lines_figure([Panel("first pair", "λ: from model a (0) to model b (1)", "test loss", curves)], height=4.2),
            "Test loss on the line between two transformers, by way; broken lines: nothing is turned.",
        ),
        Drawn(
            "transformer-distances",
            lines_figure(
                [
                    points("L2 distance of the weights", lambda way: float(way["distance"])),
                    points(f"R({gamma:g})", lambda way: float(way["r"][-1])),
                ],
                height=3.6,
            ),
            "Loss barriers against distances, and against R, a point for each pair and way. Were one of them a guide, "
            "the points would lie along a line.",
        ),
    ]


def _turning(way: str) -> str:
    return "--" if way == "nothing" or way.startswith("permutations") else "-"

"""The tables of a run, by the claims that they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...report.tables import Cell, Stat, Table
from .claims import BEYOND, CLAIMS
from .comparisons import input_ratio
from .results import Results, Trials
from .settings import METHODS
from .verdicts import Verdict

__all__ = ["layer_names", "method_name", "tables_of", "transformer_tables", "verdict_table"]


def method_name(method: str) -> str:
    """A method's name in tables and figures."""
    return METHODS.get(method, "not permuted")


def layer_names(weights: Iterable[str]) -> dict[str, str]:
    """What people call the layers of weights, which stand in the model's order: mere numbers get names."""
    of = {weight: weight.removesuffix(".weight") for weight in weights}
    if not all(name.isdigit() for name in of.values()):
        return of
    last = len(of) - 1
    return {
        weight: f"{f'hidden layer {k + 1}' if k < last else 'output layer'} ({name})"
        for k, (weight, name) in enumerate(of.items())
    }


def tables_of(results: Results) -> dict[int, list[Table]]:
    """Tables by number of the claim whose section they stand in."""
    return {
        1: [_ends(results), _barriers(results)],
        2: [_taylor(results)],
        3: [_spectra(results)],
        4: [_alignment(results), _alignment_by_layer(results)],
        5: [_merged(results)],
        6: [_inputs(results)],
        8: [_third(results)],
        9: [_sweeps(results)],
    }


def verdict_table(verdicts: dict[int, list[Verdict]]) -> Table:
    """Every part of every verdict."""
    titles = {claim.number: claim.title for claim in (*CLAIMS, BEYOND)}
    rows: list[tuple[Cell, ...]] = []
    for number, found in verdicts.items():
        for verdict in found:
            for part in verdict.parts:
                side = f"{'above' if part.above else 'below'} {part.threshold:g}"
                word = "yes" if part.holds else "no"
                rows.append(
                    (number, titles[number], verdict.network, part.text, part.stat, side, f"{part.p:.2g}", word)
                )
    heads = ("claim", "title", "network", "measured", "value", "must be", "p (Student's t, one side)", "holds")
    return Table("claims", "Every comparison behind the verdicts", heads, tuple(rows))


def _ends(results: Results) -> Table:
    rows = tuple(
        (
            trials.name,
            Stat.of([end["loss"] for trial in trials.trials for end in trial["ends"]]),
            Stat.of([100 * (end["accuracy"] or 0.0) for trial in trials.trials for end in trial["ends"]]),
        )
        for trials in results.networks
    )
    return Table("models", "The trained models on the test part", ("network", "loss", "accuracy, %"), rows)


def _barriers(results: Results) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for trials in results.networks:
        for method in trials.methods:
            reduction: Cell = trials.method(method, lambda m: m["l2_reduction"]) if method != "none" else ""
            seconds: Cell = trials.method(method, lambda m: m["seconds"]) if method != "none" else ""
            plain: Cell = ""
            if "barrier_interpolated_statistics" in trials.trials[0]["methods"][method]:
                plain = trials.method(method, lambda m: m["barrier_interpolated_statistics"])
            rows.append(
                (
                    trials.name,
                    method_name(method),
                    trials.method(method, lambda m: m["barrier"]),
                    plain,
                    reduction,
                    seconds,
                )
            )
    heads: tuple[str, ...] = (
        "network",
        "permutations",
        "loss barrier",
        "with BatchNorm statistics interpolated",
        "L2 distance, share removed",
        "search, s",
    )
    if not any(row[3] for row in rows):
        heads, rows = heads[:3] + heads[4:], [row[:3] + row[4:] for row in rows]
    return Table("barriers", "Loss barriers and distances between a and b", heads, tuple(rows))


def _taylor(results: Results) -> Table:
    rows = tuple(
        (
            trials.name,
            method_name(method),
            trials.method(method, lambda m: m["barrier"]),
            trials.method(method, lambda m: m["taylor"]),
            trials.method(method, lambda m: abs(m["taylor"] - m["barrier"]) / max(abs(m["barrier"]), 1e-12)),
        )
        for trials in results.networks
        for method in ("none", "wm")
    )
    heads = ("network", "permutations", "loss barrier", "Taylor estimate", "error, relative to the barrier")
    return Table("taylor", "Loss barriers and their second-order estimates", heads, rows)


def _spectra(results: Results) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for trials in results.networks:
        for layer, name in layer_names(trials.trials[0]["spectra"]).items():
            cells = [
                trials.stat(lambda t, layer=layer, key=key: t["spectra"][layer][key])  # type: ignore[misc]
                for key in ("difference", "permuting", "before", "after", "bound")
            ]
            rows.append((trials.name, name, *cells))
    heads = (
        "network",
        "layer",
        "difference of values, relative",
        "change by permuting, relative",
        "L2 distance before",
        "after WM",
        "least that the values allow",
    )
    return Table("singular-values", "Singular values of a and b, and the distance that they bound", heads, tuple(rows))


def _alignment(results: Results) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for trials in results.networks:
        for method in trials.methods:
            cells = [
                trials.method(method, lambda m, g=g: m["r"]["overall"][g])  # type: ignore[misc]
                for g in range(len(results.settings.gammas))
            ]
            rows.append((trials.name, method_name(method), *cells))
    heads = ("network", "permutations", *(f"R({gamma:g})" for gamma in results.settings.gammas))
    return Table("alignment", "Alignment R of singular vectors between a and b", heads, tuple(rows))


def _alignment_by_layer(results: Results) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for trials in results.networks:
        for layer, name in layer_names(trials.trials[0]["methods"]["wm"]["r"]["layers"]).items():
            cells = [
                trials.method(method, lambda m, g=g, layer=layer: m["r"]["layers"][layer][g])  # type: ignore[misc]
                for g in range(len(results.settings.gammas))
                for method in ("none", "wm")
            ]
            rows.append((trials.name, name, *cells))
    heads = [f"R({gamma:g}) {when}" for gamma in results.settings.gammas for when in ("before", "after WM")]
    return Table("alignment-by-layer", "R by layer, before and after WM", ("network", "layer", *heads), tuple(rows))


def _merged(results: Results) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for trials in results.networks:
        for method in trials.methods:
            cells = [
                trials.method(method, lambda m, k=k, g=g: m["merged_r"][k][g])  # type: ignore[misc]
                for g in range(len(results.settings.gammas))
                for k in range(2)
            ]
            rows.append((trials.name, method_name(method), *cells))
    heads = [f"R({gamma:g}) with {name}" for gamma in results.settings.gammas for name in ("a", "b")]
    return Table(
        "merged", "R between the merged model and each original", ("network", "permutations", *heads), tuple(rows)
    )


def _inputs(results: Results) -> Table:
    gamma = results.settings.gammas[-1]
    rows: list[tuple[Cell, ...]] = []
    for trials in results.networks:
        for position, (layer, name) in enumerate(layer_names(trials.trials[0]["inputs"]).items()):
            cosines = trials.stat(lambda t, layer=layer: t["inputs"][layer]["cosines"][0])  # type: ignore[misc]
            means = trials.stat(lambda t, layer=layer: _mean(t["inputs"][layer]["cosines"]))  # type: ignore[misc]
            rows.append(
                (
                    trials.name,
                    name,
                    "data" if position == 0 else "hidden",
                    cosines,
                    means,
                    trials.trials[0]["inputs"][layer]["random"],
                )
            )
        ratio = trials.stat(lambda trial: input_ratio(trial, gamma))
        rows.append(
            (trials.name, "worst hidden layer", f"values above {gamma:g} of the largest / others", ratio, "", "")
        )
    heads = ("network", "layer", "inputs", "mean |cosine| with the first vector", "with all", "random direction")
    return Table("inputs", "Inputs of layers against right singular vectors", heads, tuple(rows))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _third(results: Results) -> Table:
    rows = tuple(
        (
            trials.name,
            method_name(method),
            trials.method(method, lambda m: m["barrier"]),
            trials.method(method, lambda m: m["third_barrier"]),
        )
        for trials in results.networks
        for method in trials.methods
    )
    heads = ("network", "permutations", "barrier, a to b", "barrier, b to c, both brought to a")
    return Table("three-models", "Three models: b and c are brought to a", heads, rows)


def _sweeps(results: Results) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for sweep in results.settings.sweeps:
        for value, trials in results.sweeps[sweep.key].items():
            cells = [
                Stat.of([trial[key] for trial in trials]) for key in ("barrier_before", "barrier_after", "l2_reduction")
            ]
            ends = Stat.of([end for trial in trials for end in trial["ends"]])
            r = [Stat.of([trial[key][-1] for trial in trials]) for key in ("r_before", "r_after")]
            network = sweep.network or results.networks[0].name
            rows.append((network, sweep.name.replace("_", " "), value, ends, *cells, *r))
    gamma = results.settings.gammas[-1]
    heads = (
        "network",
        "changed",
        "value",
        "loss of the ends",
        "barrier before",
        "barrier after WM",
        "L2 distance, share removed",
        f"R({gamma:g}) before",
        f"R({gamma:g}) after WM",
    )
    return Table("sweeps", "Width, weight decay and learning rate", heads, tuple(rows))


def transformer_tables(trials: Trials, gammas: Sequence[float]) -> list[Table]:
    """Of every way barrier, distance and R, and what it took."""
    rows: list[tuple[Cell, ...]] = []
    for way in trials.methods:
        cells = [
            trials.stat(lambda t, way=way, key=key: t["ways"][way][key])  # type: ignore[misc]
            for key in ("barrier", "distance")
        ]
        r = [trials.stat(lambda t, way=way, g=g: t["ways"][way]["r"][g]) for g in range(len(gammas))]  # type: ignore[misc]
        rows.append((way, *cells, *r, trials.stat(lambda t, way=way: t["ways"][way]["seconds"])))  # type: ignore[misc]
    heads = ("way", "loss barrier", "L2 distance", *(f"R({gamma:g})" for gamma in gammas), "search, s")
    return [Table("transformers", "Two transformers, by every way of laying one over the other", heads, tuple(rows))]

"""What each claim comes to in numbers: from the trials of one network to comparisons.

Thresholds are the same for all data. Most are 0 or 1: the paper says which of two is larger. Where it says "nearly" or
"almost" without a number, this package reads a tenth, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ...report.tables import Stat
from .results import Results, Trials
from .settings import METHODS
from .verdicts import Part

__all__ = [
    "activations_do_the_same",
    "barrier_without_distance",
    "equal_singular_values",
    "input_ratio",
    "inputs_along_large_values",
    "large_values_first",
    "merged_is_closer",
    "searches_below_weight_matching",
    "second_order_falls_short",
    "straight_through_differs",
    "training_matters",
]

Numbers = dict[str, Any]
CHOSEN_STE = (
    "The verdict is about STE from random permutations, with larger steps than it takes by default. That start and "
    "that rate were chosen on MLPs of seeds 0 to 5, for a barrier between a and b about as low as WM's: other seeds "
    "(--seed) are an independent check."
)


def removed_share(method: str) -> Callable[[Numbers], float]:
    """1 - barrier after / barrier before, of a trial."""
    return lambda trial: 1.0 - trial["methods"][method]["barrier"] / trial["methods"]["none"]["barrier"]


def rise(method: str, g: int) -> Callable[[Numbers], float]:
    """R after minus R before at threshold number g, of a trial."""

    def of(trial: Numbers) -> float:
        after, before = (trial["methods"][m]["r"]["overall"][g] for m in (method, "none"))
        return float(after - before)

    return of


NEARLY_ALL = "this package's reading of a loss that is nearly constant"
NEARLY_RIGHT = "this package's reading of an estimate that would be nearly right"


def barrier_without_distance(results: Results, trials: Trials) -> list[Part]:
    """WM removes more than 90 % of the barrier, more than a shorter distance could, and at most 20 % of the distance.

    Of ends that lie near each other the barrier is a quadratic form of their difference: at r of the distance it would
    be r^2 of what it was.
    """

    def beyond(trial: Numbers) -> float:
        ratio = 1.0 - trial["methods"]["wm"]["l2_reduction"]
        return float(removed_share("wm")(trial) - (1.0 - ratio**2))

    return [
        Part("share of the barrier that WM removes", trials.stat(removed_share("wm")), 0.9, why=NEARLY_ALL),
        Part("of it, more than the shorter distance would by a quadratic form", trials.stat(beyond), 0.0),
        Part(
            "share of the L2 distance that WM removes",
            trials.method("wm", lambda m: m["l2_reduction"]),
            0.2,
            False,
            "the largest in table 1 of the paper",
        ),
    ]


def second_order_falls_short(results: Results, trials: Trials) -> list[Part]:
    """After WM the Taylor estimate is off by over a tenth of the barrier, and by more than other pairs' barriers are.

    An estimate that is farther from the barrier of a pair than that of another pair says nothing of this pair.
    """
    barriers = trials.each(lambda trial: trial["methods"]["wm"]["barrier"])
    estimates = trials.each(lambda trial: trial["methods"]["wm"]["taylor"])
    scale = max(abs(math.fsum(barriers)) / len(barriers), 1e-12)
    beyond = []
    for k, (barrier, estimate) in enumerate(zip(barriers, estimates, strict=True)):
        others = [abs(other - barrier) for i, other in enumerate(barriers) if i != k]
        beyond.append((abs(estimate - barrier) - (math.fsum(others) / len(others) if others else 0.0)) / scale)
    relative = [abs(e - b) / max(abs(b), 1e-12) for e, b in zip(estimates, barriers, strict=True)]
    return [
        Part("error of the estimate after WM, relative to the barrier", Stat.of(relative), 0.1, why=NEARLY_RIGHT),
        Part(
            "error of the estimate after WM in units of the mean barrier, less what the barrier of another pair is off",
            Stat.of(beyond),
            0.0,
        ),
    ]


def equal_singular_values(results: Results, trials: Trials) -> list[Part]:
    """||s_a - s_b|| / ||s_a|| is below 10 % in the worst layer, and permuting moves no value by 1e-5 of the largest."""
    worst = trials.stat(lambda trial: max(layer["difference"] for layer in trial["spectra"].values()))
    moved = trials.stat(lambda trial: max(layer["permuting"] for layer in trial["spectra"].values()))
    return [
        Part(
            "relative difference of singular values, worst layer",
            worst,
            0.1,
            False,
            "this package's reading of values that are almost equal",
        ),
        Part(
            "largest change of a singular value by permuting, relative",
            moved,
            1e-5,
            False,
            "0 but for rounding in float32",
        ),
    ]


def large_values_first(results: Results, trials: Trials) -> list[Part]:
    """WM raises R at every threshold, and more at the last one than at 0."""
    last = len(results.settings.gammas) - 1
    gamma = results.settings.gammas[last]
    return [
        Part("rise of R(0) by WM", trials.stat(rise("wm", 0)), 0.0),
        Part(f"rise of R({gamma:g}) by WM", trials.stat(rise("wm", last)), 0.0),
        Part(
            f"rise of R({gamma:g}) less that of R(0)",
            trials.stat(lambda trial: rise("wm", last)(trial) - rise("wm", 0)(trial)),
            0.0,
        ),
    ]


def merged_is_closer(results: Results, trials: Trials) -> list[Part]:
    """R at the last threshold between the merged model and each original is higher after WM than before."""
    last = len(results.settings.gammas) - 1
    parts = []
    for k, name in enumerate("ab"):
        gain = trials.stat(
            lambda trial, k=k: (
                trial["methods"]["wm"]["merged_r"][k][last]  # type: ignore[misc]
                - trial["methods"]["none"]["merged_r"][k][last]
            )
        )
        parts.append(Part(f"rise of R({results.settings.gammas[last]:g}) between merged and {name}", gain, 0.0))
    return parts


def input_ratio(trial: Numbers, gamma: float) -> float:
    """Mean cosine with vectors of values above gamma of the largest, over that with the others; least of all layers.

    The first layer reads data and not hidden units; layers without values on both sides are left out.
    """
    ratios = []
    for layer in list(trial["inputs"].values())[1:]:
        top = max(layer["values"])
        large = [c for c, s in zip(layer["cosines"], layer["values"], strict=True) if s >= gamma * top]
        small = [c for c, s in zip(layer["cosines"], layer["values"], strict=True) if s < gamma * top]
        if large and small and sum(small) > 0:
            ratios.append(sum(large) / len(large) / (sum(small) / len(small)))
    return min(ratios, default=0.0)


def inputs_along_large_values(results: Results, trials: Trials) -> list[Part]:
    """In every hidden layer inputs lie more along the vectors of large values (R's last threshold) than the others."""
    gamma = results.settings.gammas[-1]
    ratio = trials.stat(lambda trial: input_ratio(trial, gamma))
    return [Part("mean cosine with vectors of large values over others, worst layer", ratio, 1.0, why="alike")]


def activations_do_the_same(results: Results, trials: Trials) -> list[Part]:
    """AM raises R, and more at the last threshold than at 0."""
    last = len(results.settings.gammas) - 1
    gamma = results.settings.gammas[last]
    return [
        Part(f"rise of R({gamma:g}) by AM", trials.stat(rise("am", last)), 0.0),
        Part(
            f"rise of R({gamma:g}) by AM less that of R(0)",
            trials.stat(lambda trial: rise("am", last)(trial) - rise("am", 0)(trial)),
            0.0,
        ),
    ]


def straight_through_differs(results: Results, trials: Trials) -> list[Part]:
    """STE removes more than 90 % of the barrier, raises R less than WM, and leaves more of one between b and c."""
    last = len(results.settings.gammas) - 1
    gamma = results.settings.gammas[last]

    def third(trial: Numbers) -> float:
        return float(trial["methods"]["ste"]["third_barrier"] - trial["methods"]["wm"]["third_barrier"])

    return [
        Part("share of the barrier that STE removes", trials.stat(removed_share("ste")), 0.9, why=NEARLY_ALL),
        Part(
            f"rise of R({gamma:g}) by WM less that by STE",
            trials.stat(lambda trial: rise("wm", last)(trial) - rise("ste", last)(trial)),
            0.0,
        ),
        Part("barrier between the permuted b and c, STE's less WM's", trials.stat(third), 0.0),
    ]


def searches_below_weight_matching(results: Results) -> str:
    """Says which STE the verdict is about, and names every search that leaves less between b and c than WM."""
    found = [CHOSEN_STE]
    for trials in results.networks:
        left = {m: trials.method(m, lambda n: n["third_barrier"]) for m in trials.methods if m != "none"}
        below = [f"{METHODS[m]}: {stat}" for m, stat in left.items() if stat.mean < left["wm"].mean]
        if below:
            found.append(
                f"On {trials.name}, WM leaves {left['wm']} between b and c. Less is left by {'; '.join(below)}."
            )
    if len(found) == 1:
        return f"{CHOSEN_STE} No other search leaves less of a barrier between b and c than WM."
    return " ".join(found)


def training_matters(results: Results, trials: Trials) -> list[Part]:
    """The barrier after WM is smaller at the largest width, weight decay and learning rate than at the smallest."""
    parts = []
    for sweep in results.settings.sweeps:
        if sweep.network:
            continue
        name, by_value = sweep.name, results.sweeps[sweep.key]
        values = sorted(by_value)
        low, high = by_value[values[0]], by_value[values[-1]]
        falls = [a["barrier_after"] - b["barrier_after"] for a, b in zip(low, high, strict=True)]
        text = f"barrier after WM at {name.replace('_', ' ')} {values[0]:g} less that at {values[-1]:g}"
        parts.append(Part(text, Stat.of(falls), 0.0))
    return parts

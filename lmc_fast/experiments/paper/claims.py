"""The claims of Ito, Yamada, Kumagai (ICLR 2025), each as a function from measurements to a verdict.

A part of a claim is a mean over independent trials and a threshold that it must pass by more than two standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...report.tables import Stat
from .results import Results, Trials
from .settings import METHODS

__all__ = ["CLAIMS", "MARGIN", "Claim", "Part", "Verdict", "judge"]

MARGIN = 2.0
CHOSEN_STE = (
    "The verdict is about STE from random permutations, with larger steps than it takes by default. That start and "
    "that rate were chosen on MLPs of seeds 0 to 5, for a barrier between a and b about as low as WM's: other seeds "
    "(--seed) are an independent check."
)
Numbers = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """One comparison.

    Attributes:
        text: what is measured.
        stat: over the trials.
        threshold: which the mean must be above, or below.
        above: which of the two.
    """

    text: str
    stat: Stat
    threshold: float
    above: bool = True

    @property
    def margin(self) -> float:
        """How many standard errors the mean is on the right side; negative on the wrong one, 0 for a single trial."""
        distance = (self.stat.mean - self.threshold) * (1 if self.above else -1)
        if self.stat.n == 1 or distance == 0:
            return 0.0
        return distance / self.stat.error if self.stat.error > 0 else math.copysign(math.inf, distance)

    @property
    def holds(self) -> bool:
        """Whether the margin is more than two standard errors."""
        return self.margin > MARGIN

    def __str__(self) -> str:
        side = "above" if self.above else "below"
        return f"{self.text}: {self.stat}, must be {side} {self.threshold:g} (margin {self.margin:.1f} standard errors)"


@dataclass(frozen=True)
class Verdict:
    """What came out for one network; `line` says it."""

    network: str
    parts: tuple[Part, ...]

    @property
    def holds(self) -> bool:
        """Whether every part does."""
        return bool(self.parts) and all(part.holds for part in self.parts)

    @property
    def margin(self) -> float:
        """That of the weakest part."""
        return min((part.margin for part in self.parts), default=0.0)

    @property
    def line(self) -> str:
        """The verdict in one line."""
        word = "holds" if self.holds else "does not hold here"
        return f"{self.network}: {word} (weakest margin {self.margin:.1f} standard errors)"


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        number: in the package's list of claims.
        title, statement: what it says.
        parts: gives the comparisons for one network; for a claim about sweeps `networks` is False.
        why: on what the claim hangs, for a reader whose numbers do not show it.
        remark: says more from the numbers, whatever the verdict; empty where there is nothing to say.
    """

    number: int
    title: str
    statement: str
    parts: Callable[[Results, Trials], list[Part]]
    why: str
    networks: bool = True
    remark: Callable[[Results], str] = lambda results: ""


def judge(results: Results) -> dict[int, list[Verdict]]:
    """The verdicts by number of the claim; the sweeps are of the first network."""
    found = {}
    for claim in CLAIMS:
        asked = results.networks if claim.networks else results.networks[:1]
        found[claim.number] = [Verdict(trials.name, tuple(claim.parts(results, trials))) for trials in asked]
    return found


def removed_share(method: str) -> Callable[[Numbers], float]:
    """1 - barrier after / barrier before, of a trial."""
    return lambda trial: 1.0 - trial["methods"][method]["barrier"] / trial["methods"]["none"]["barrier"]


def rise(method: str, g: int) -> Callable[[Numbers], float]:
    """R after minus R before at threshold number g, of a trial."""

    def of(trial: Numbers) -> float:
        after, before = (trial["methods"][m]["r"]["overall"][g] for m in (method, "none"))
        return float(after - before)

    return of


def barrier_without_distance(results: Results, trials: Trials) -> list[Part]:
    """WM removes more than 90 % of the barrier, and less than 20 % of the L2 distance."""
    return [
        Part("share of the barrier that WM removes", trials.stat(removed_share("wm")), 0.9),
        Part("share of the L2 distance that WM removes", trials.method("wm", lambda m: m["l2_reduction"]), 0.2, False),
    ]


def second_order_falls_short(results: Results, trials: Trials) -> list[Part]:
    """The fall of the Taylor estimate is less than half of the barrier's, and after WM it is off by more than 25 %."""

    def share(trial: Numbers) -> float:
        before, after = trial["methods"]["none"], trial["methods"]["wm"]
        return float((before["taylor"] - after["taylor"]) / (before["barrier"] - after["barrier"]))

    def off(trial: Numbers) -> float:
        after = trial["methods"]["wm"]
        return float(abs(after["taylor"] - after["barrier"]) / max(after["barrier"], 1e-12))

    return [
        Part("fall of the estimate over fall of the barrier", trials.stat(share), 0.5, False),
        Part("error of the estimate after WM, relative to the barrier", trials.stat(off), 0.25),
    ]


def equal_singular_values(results: Results, trials: Trials) -> list[Part]:
    """||s_a - s_b|| / ||s_a|| is below 10 % in the worst layer, and permuting moves no value by 1e-5 of the largest."""
    worst = trials.stat(lambda trial: max(layer["difference"] for layer in trial["spectra"].values()))
    moved = trials.stat(lambda trial: max(layer["permuting"] for layer in trial["spectra"].values()))
    return [
        Part("relative difference of singular values, worst layer", worst, 0.1, False),
        Part("largest change of a singular value by permuting, relative", moved, 1e-5, False),
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
    return [Part("mean cosine with vectors of large values over others, worst layer", ratio, 1.0)]


def activations_do_the_same(results: Results, trials: Trials) -> list[Part]:
    """AM raises R, more at the last threshold than at 0, there by more than half of WM's rise."""
    last = len(results.settings.gammas) - 1
    gamma = results.settings.gammas[last]
    return [
        Part(f"rise of R({gamma:g}) by AM", trials.stat(rise("am", last)), 0.0),
        Part(
            f"rise of R({gamma:g}) by AM less that of R(0)",
            trials.stat(lambda trial: rise("am", last)(trial) - rise("am", 0)(trial)),
            0.0,
        ),
        Part(
            f"rise of R({gamma:g}) by AM over that by WM",
            trials.stat(lambda trial: rise("am", last)(trial) / rise("wm", last)(trial)),
            0.5,
        ),
    ]


def straight_through_differs(results: Results, trials: Trials) -> list[Part]:
    """STE removes more than 90 % of the barrier, raises R less than WM, and leaves more of one between b and c."""
    last = len(results.settings.gammas) - 1
    gamma = results.settings.gammas[last]

    def third(trial: Numbers) -> float:
        return float(trial["methods"]["ste"]["third_barrier"] - trial["methods"]["wm"]["third_barrier"])

    return [
        Part("share of the barrier that STE removes", trials.stat(removed_share("ste")), 0.9),
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
    for name, by_value in results.sweeps.items():
        values = sorted(by_value)
        low, high = by_value[values[0]], by_value[values[-1]]
        falls = [a["barrier_after"] - b["barrier_after"] for a, b in zip(low, high, strict=True)]
        text = f"barrier after WM at {name.replace('_', ' ')} {values[0]:g} less that at {values[-1]:g}"
        parts.append(Part(text, Stat.of(falls), 0.0))
    return parts


CLAIMS = (
    Claim(
        1,
        "The barrier goes, the distance stays",
        "Weight matching takes away nearly the whole loss barrier, and yet little of the L2 distance.",
        barrier_without_distance,
        "How much of the barrier is left hangs on width and training (claim 9): narrow or briefly trained networks "
        "keep more of it. With BatchNorm it falls only where statistics are measured again at every point.",
    ),
    Claim(
        2,
        "A second-order picture does not explain it",
        "The Taylor estimate from both ends does not account for the barrier that goes.",
        second_order_falls_short,
        "Where models are small in number of weights or strongly regularised, the permuted ends come close enough for "
        "the expansion to be right to a fraction of the barrier that is left; the fall of the barrier itself is "
        "still not in it, as the first line shows.",
    ),
    Claim(
        3,
        "Singular values are nearly equal",
        "Models trained apart have nearly the same singular values layer by layer; permutations leave them unchanged.",
        equal_singular_values,
        "In a narrow layer, or one that few steps have moved from its random start, values are few and scatter more; "
        "the threshold is on the worst layer.",
    ),
    Claim(
        4,
        "Matching aligns the large singular values",
        "Weight matching raises R, and more over large singular values than over all.",
        large_values_first,
        "The difference comes from layers with a few dominant values. Where all values are of one size, both "
        "thresholds take in the same vectors.",
    ),
    Claim(
        5,
        "The merged model keeps the originals' directions",
        "The merged model is closer in R to both originals after weight matching.",
        merged_is_closer,
        "The mean of two models shares half of each in any case, so that R with an original starts well above 0.",
    ),
    Claim(
        6,
        "Inputs lie along large singular values",
        "Inputs of hidden layers point along the right singular vectors with large singular values.",
        inputs_along_large_values,
        "Activations behind a ReLU have a large mean, which any one vector may carry; in convolutions every patch of "
        "a map counts, its empty background too.",
    ),
    Claim(
        7,
        "Activation matching does the same",
        "Activation matching raises R as weight matching does.",
        activations_do_the_same,
        "Units that few examples wake correlate by chance, and are placed by chance: with little data activation "
        "matching raises R by less.",
    ),
    Claim(
        8,
        "Straight-through estimation differs",
        "STE finds as low a barrier between two models with less alignment, and leaves more of one between two models "
        "that were brought to a third.",
        straight_through_differs,
        "STE projects by weight matching in every step, so that R rises with it too; what it leaves between b and c "
        "hangs on its start and on how far its steps lead away from weight matching's solution.",
        remark=searches_below_weight_matching,
    ),
    Claim(
        9,
        "Width, weight decay and learning rate matter",
        "Wider and more regularised models, and those of a larger learning rate, match better.",
        training_matters,
        "The ends of a sweep are compared. Barriers are differences of losses, so that a setting with higher losses "
        "at its ends has larger ones; and on a small data set every setting may already match nearly without one.",
        networks=False,
    ),
)

"""Every verdict, on made-up numbers that must hold and that must not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from lmc_fast.experiments.paper.claims import CLAIMS, judge
from lmc_fast.experiments.paper.comparisons import input_ratio
from lmc_fast.experiments.paper.results import Results, Trials
from lmc_fast.experiments.paper.settings import Sweep, quick_settings

Numbers = dict[str, Any]


def method(barrier: float, taylor: float, r: tuple[float, float], merged: float, third: float) -> Numbers:
    return {
        "barrier": barrier,
        "taylor": taylor,
        "r": {"overall": list(r)},
        "merged_r": [[0.5, merged], [0.5, merged]],
        "third_barrier": third,
        "l2_reduction": 0.15,
    }


def trial(noise: float) -> Numbers:
    """A trial in which every claim holds."""
    return {
        "methods": {
            "none": method(1.0 + noise, 0.2 + noise, (0.0, 0.01 + noise), 0.6 + noise, 1.0),
            "wm": method(0.01, 0.03, (0.08, 0.36), 0.8, 0.02),
            "am": method(0.02, 0.03, (0.03, 0.28), 0.78, 0.02),
            "ste": method(0.01, 0.03, (0.05, 0.30 + noise), 0.78, 0.05 + noise),
        },
        "spectra": {"fc": {"difference": 0.03 + noise, "permuting": 1e-7}},
        "inputs": {
            "first": {"cosines": [0.1, 0.9], "values": [1.0, 0.1]},
            "second": {"cosines": [0.5 + noise, 0.1], "values": [1.0, 0.1]},
        },
    }


def results(change: Callable[[Numbers], None] = lambda trial: None, falls: bool = True) -> Results:
    trials = [trial(noise) for noise in (-0.002, 0.0, 0.003)]
    for each in trials:
        change(each)
    after = {8.0: 0.5, 64.0: 0.1} if falls else {8.0: 0.1, 64.0: 0.5}
    sweep = {v: [{"barrier_after": a + n} for n in (-0.01, 0.0, 0.02)] for v, a in after.items()}
    networks = [Trials("MLP", trials, ("none", "wm", "am", "ste"))]
    settings = replace(quick_settings(), sweeps=(Sweep("width", (8, 64), 3), Sweep("width", (2, 4), 3, "ResNet")))
    # One of another network is shown, and not judged.
    return Results(settings, "digits", networks, {"width": sweep, "resnet-width": {}}, 1.0)


def set_in(path: str, value: Any) -> Callable[[Numbers], None]:
    def change(trial: Numbers) -> None:
        *way, last = path.split("/")
        for key in way:
            trial = trial[key]
        trial[last] = copy.deepcopy(value)

    return change


BREAKS = {
    "1-barrier-stays": (1, set_in("methods/wm/barrier", 0.3)),
    "1-distance-goes": (1, set_in("methods/wm/l2_reduction", 0.4)),
    "1-distance-explains": (1, set_in("methods/wm/l2_reduction", 0.95)),
    "2-estimate-is-right": (2, set_in("methods/wm/taylor", 0.0101)),
    "2-estimate-is-nearly-right": (2, set_in("methods/wm/taylor", 0.0093)),
    "3-values-differ": (3, set_in("spectra/fc/difference", 0.3)),
    "3-permuting-moves": (3, set_in("spectra/fc/permuting", 1e-3)),
    "4-no-rise": (4, set_in("methods/wm/r/overall", [0.0, 0.0])),
    "4-all-alike": (4, set_in("methods/wm/r/overall", [0.5, 0.36])),
    "5-merged-is-farther": (5, set_in("methods/wm/merged_r", [[0.5, 0.8], [0.5, 0.4]])),
    "6-along-small": (6, set_in("inputs/second/cosines", [0.1, 0.5])),
    "7-no-rise": (7, set_in("methods/am/r/overall", [0.0, 0.0])),
    "7-all-alike": (7, set_in("methods/am/r/overall", [0.2, 0.15])),
    "8-barrier-stays": (8, set_in("methods/ste/barrier", 0.5)),
    "8-aligned-as-well": (8, set_in("methods/ste/r/overall", [0.1, 0.4])),
    "8-third-is-smaller": (8, set_in("methods/ste/third_barrier", 0.01)),
}


def test_every_claim_holds_where_it_should() -> None:
    verdicts = judge(results())
    assert list(verdicts) == list(range(1, 10)) == [claim.number for claim in CLAIMS]
    for (verdict,) in verdicts.values():
        assert verdict.holds and verdict.state == "yes"
        assert verdict.line.startswith("MLP: holds (weakest part p ") and verdict.line.endswith(", 3 trials)")


@pytest.mark.parametrize(("number", "change"), BREAKS.values(), ids=BREAKS.keys())
def test_a_claim_falls_with_its_numbers_and_no_other_does(number: int, change: Callable[[Numbers], None]) -> None:
    verdicts = judge(results(change))
    (verdict,) = verdicts[number]
    assert not verdict.holds and verdict.line.startswith("MLP: does not hold here")
    # Numbers of weight matching are in several claims.
    related = {1: {1}, 2: {2}, 4: {4, 7, 8}, 7: {7}}.get(number, {number})
    assert {n for n, (v,) in verdicts.items() if not v.holds} <= related


def test_a_sweep_the_other_way_does_not_hold() -> None:
    assert not judge(results(falls=False))[9][0].holds


@pytest.mark.parametrize("noise", [0.0, 0.1], ids=["alike", "scattered"])
def test_an_estimate_is_judged_by_how_far_pairs_lie_apart(noise: float) -> None:
    """It is off by 0.02 everywhere: too much where barriers are alike, and not where they scatter more than that."""
    barriers = iter((0.1 - noise / 2, 0.1, 0.1 + noise))

    def change(trial: Numbers) -> None:
        barrier = next(barriers)
        trial["methods"]["wm"] |= {"barrier": barrier, "taylor": barrier + 0.02}

    (verdict,) = judge(results(change))[2]
    assert verdict.holds is (noise == 0.0)
    assert verdict.parts[0].stat.mean == pytest.approx(0.2, abs=0.07)
    # In units of the mean barrier: 0.02 less the mean difference to the two others.
    mean = 0.1 + noise / 6
    expected = sum(0.02 - noise * off for off in (1.0, 0.75, 1.25)) / 3 / mean
    assert verdict.parts[1].stat.mean == pytest.approx(expected)


def test_inputs_of_the_first_layer_do_not_count() -> None:
    found = trial(0.0)
    assert input_ratio(found, 0.3) == pytest.approx(5.0)
    found["inputs"]["second"]["values"] = [1.0, 0.9]
    assert input_ratio(found, 0.3) == 0.0

"""A search over all groups at once: Frank-Wolfe over doubly stochastic matrices, rounded to permutations.

Relaxed, <theta_a, pi(theta_b)> is linear in each group's matrix, and its gradient with respect to one is that group's
gain matrix, so that the linear step is one assignment for every group (Frank and Wolfe, "An algorithm for quadratic
programming", 1956; for matching many models: Crisostomi et al., "C2M3", NeurIPS 2024).

No product with a dense relaxed matrix is ever taken. A parameter lies on two permuted axes at most, which makes each
gain affine in the other groups' matrices: a step of length t to the vertex S takes gain(P) to (1 - t) gain(P) +
t gain(S). So only gains at vertices are computed, and from one vertex to the next they are corrected by what moved.
The objective along a step is a quadratic, known from its ends and its slope: the best length is exact.

The search begins between its start and the mean of all permutations, whose gains need no large product either.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..._progress import Progress, tracking
from ...symmetry import PermutationSpec
from ...symmetry.views import Units, check_owners_around
from .barycentre import Barycentre
from .descent import CoordinateDescent
from .nested import Choices, Gain, best_choices, flat_choices, value_of

__all__ = ["check_affine", "frank_wolfe", "rounded"]

# Ends where a whole step could gain no more than this share of the objective: descent gains the rest sooner.
SMALL_GAP = 1e-3
# The part of the starting point that is the start itself; the rest is spread over all permutations. A start at a
# permutation alone would end at once wherever no single group can gain.
SHARE_OF_START = 0.02


@dataclass
class _Point:
    """A relaxed point: what it is made of, the objective there, <gradient, point>, and the gains by group.

    What is missing from the parts is spread evenly.
    """

    parts: list[tuple[float, Choices]]
    objective: float
    slope: float
    gains: dict[Units, Gain]


def check_affine(spec: PermutationSpec) -> None:
    """Raise ValueError, naming a parameter, where its gains are not affine in the matrices of the other groups.

    Where it has more than two permuted axes, or groups inside others that do not own them.
    """
    for name, axes in spec.axes.items():
        moving = sum(not axis.is_fixed for axis in axes)
        if moving > 2:
            raise ValueError(f"search='frank_wolfe' takes two permuted axes at most, and {name!r} has {moving}")
    check_owners_around(spec, "search='frank_wolfe'")


def frank_wolfe(descent: CoordinateDescent, max_steps: int, progress: Progress) -> None:
    """Move the choices of a search to the rounded end of a Frank-Wolfe run that starts near them.

    The run starts between the choices and the mean of all permutations. What is found can be worse than the choices
    that it came from; it is where coordinate descent goes on from.

    Args:
        max_steps: end after so many steps, converged or not.
    """
    point = _at(descent, dict(descent.choices))
    # The search corrects its own in place.
    point.gains = {name: gain.copy() for name, gain in point.gains.items()}
    middle = Barycentre(descent)
    total = sum(middle.value(root, point.gains) for root in descent.spec.roots)
    _step(point, _at_middle(middle), 1 - SHARE_OF_START, total)
    with tracking(progress, "Frank-Wolfe", max_steps) as advance:
        for _ in range(max_steps):
            choices, total = _linear_optimum(descent, point.gains)
            gap = total - point.slope
            if gap <= SMALL_GAP * abs(point.objective):
                break
            vertex = _at(descent, choices)
            _step(point, vertex, _best_length(point.objective, gap, vertex.objective), total)
            advance(f"objective at most {point.objective + gap:.6g}", objective=point.objective, gap=gap)
    point.gains.clear()
    descent.choose_all(rounded(descent.spec, descent.open, point.parts, descent.choices, descent.frozen))


def _at(descent: CoordinateDescent, choices: Choices) -> _Point:
    """The point that is a permutation; the search is left there."""
    descent.choose_all(choices)
    gains = {name: gain for name, gain in descent.gains_of(descent.spec.groups).items() if gain is not None}
    return _Point([(1.0, choices)], descent.objective(), _total(descent.spec, gains, choices), gains)


def _at_middle(middle: Barycentre) -> _Point:
    """The mean of all permutations."""
    spec = middle.descent.spec
    gains: dict[Units, Gain] = {name: gain for name in spec.groups if (gain := middle.gain(name)) is not None}
    return _Point([], middle.objective(), sum(middle.value(root, gains) for root in spec.roots), gains)


def _linear_optimum(descent: CoordinateDescent, gains: Mapping[Units, Gain]) -> tuple[Choices, float]:
    """The permutations of all groups with the greatest total gain, and that total."""
    best = dict(descent.choices)
    for root in descent.open:
        of_tree: dict[Units, Gain | None] = {name: gains.get(name) for name in descent.trees[root]}
        best |= best_choices(descent.spec, root, of_tree, best, descent.solver(root), descent.frozen)[0]
    return best, _total(descent.spec, gains, best)


def _total(spec: PermutationSpec, gains: Mapping[Units, Gain], choices: Choices) -> float:
    return sum(value_of(spec, root, gains, choices) for root in spec.roots)


def _best_length(objective: float, slope: float, end: float) -> float:
    """Where on [0, 1] the quadratic with this value and slope at 0 and this value at 1 is greatest."""
    bend = end - objective - slope
    if bend >= 0:
        return 1.0
    return min(1.0, slope / (-2 * bend))


def _step(point: _Point, vertex: _Point, length: float, total: float) -> None:
    """Go this part of the way to a vertex (or the middle). `total`: the point's gains there."""
    slope = total - point.slope
    bend = vertex.objective - point.objective - slope
    # <gain(S), P> is <gain(S), S> less the slope at the far end.
    back = vertex.slope - (slope + 2 * bend)
    stay = 1 - length
    point.slope = stay * stay * point.slope + length * stay * (total + back) + length * length * vertex.slope
    point.objective += length * (slope + length * bend)
    for name, gain in point.gains.items():
        gain *= stay
        gain += length * vertex.gains[name]
    shares = [(stay, part) for part in point.parts] + [(length, part) for part in vertex.parts]
    point.parts = [(share * weight, choices) for share, (weight, choices) in shares]


def rounded(
    spec: PermutationSpec,
    roots: Iterable[str],
    parts: Sequence[tuple[float, Choices]],
    current: Choices,
    frozen: Collection[str] = (),
) -> Choices:
    """The permutations with the greatest inner product with a mixture; those of other roots stay as they are."""
    best = dict(current)
    for root in roots:
        weights: dict[Units, NDArray[np.float32]] = {}
        for weight, choices in parts:
            for name, flat in flat_choices(spec, root, choices).items():
                if name not in weights:
                    weights[name] = np.zeros((flat.size, flat.size), dtype=np.float32)
                weights[name][np.arange(flat.size), flat] += weight
        best |= best_choices(spec, root, weights, best, frozen=frozen)[0]
    return best

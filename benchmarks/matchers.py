"""The matchers that are compared. To add one: a function (pair, limit) -> what matches it, under `@contender`.

What is done before the returned function is called is not timed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import lmc_fast as lmc

from . import textbook
from .pairs import Pair
from .solvers import OURS, Unavailable

__all__ = [
    "CONTENDERS",
    "DESCENT",
    "IDENTITY",
    "JOINT",
    "RECENTRED",
    "TEXTBOOK",
    "Contender",
    "Found",
    "Match",
    "contender",
]

IDENTITY, DESCENT, JOINT = (f"{OURS} {what}" for what in ("identity", "coordinate_descent", "frank_wolfe"))
TEXTBOOK, RECENTRED = "textbook", "recentred"


@dataclass(frozen=True)
class Found:
    """What a run found: the permuted second model as a state dict (made when called), and its sweeps if known."""

    permuted: Callable[[], dict[str, Tensor]]
    sweeps: int | None = None
    whole: bool = True


# The timed call: a seed, of the order of visits where that is random -> Found.
Match = Callable[[int], Found]
# (pair, seconds after which no new sweep should begin) -> Match.
Prepare = Callable[[Pair, float], Match]


@dataclass(frozen=True)
class Contender:
    """A matcher under the name of its rows, the distribution that it is from, and what makes it ready for a pair."""

    name: str
    distribution: str
    prepare: Prepare

    def __call__(self, pair: Pair, limit: float) -> Match:
        """Make ready; Unavailable if its package is missing or does not take the pair."""
        try:
            return self.prepare(pair, limit)
        except ImportError as error:
            raise Unavailable(f"{self.distribution} is not installed ({error})") from error


CONTENDERS: dict[str, Contender] = {}


def contender(name: str, distribution: str) -> Callable[[Prepare], Prepare]:
    """Register a function as the contender `name`."""

    def register(prepare: Prepare) -> Prepare:
        CONTENDERS[name] = Contender(name, distribution, prepare)
        return prepare

    return register


def _ours(pair: Pair, **options: str) -> Match:
    a, b = pair.a.state_dict(), pair.b.state_dict()

    def run(seed: int) -> Found:
        match = lmc.weight_matching(a, b, pair.spec, seed=seed, **options)
        return Found(lambda: match.apply(b), len(match.history), match.converged)

    return run


@contender(IDENTITY, OURS)
def _ours_identity(pair: Pair, limit: float) -> Match:
    return _ours(pair, init="identity")


@contender(OURS, OURS)
def _ours_default(pair: Pair, limit: float) -> Match:
    return _ours(pair)


@contender(DESCENT, OURS)
def _ours_descent(pair: Pair, limit: float) -> Match:
    return _ours(pair, search="coordinate_descent")


@contender(JOINT, OURS)
def _ours_joint(pair: Pair, limit: float) -> Match:
    return _ours(pair, search="frank_wolfe")


def _textbook(pair: Pair, limit: float, solver: Callable[[], textbook.Assign]) -> Match:
    # An absent package is said before the first run.
    solver()
    a, b = pair.a.state_dict(), pair.b.state_dict()

    def run(seed: int) -> Found:
        found = textbook.textbook_matching(a, b, pair.spec, seed=seed, solver=solver, limit=limit)
        permutations = lmc.Permutations(pair.spec, found.choices)
        return Found(lambda: permutations.apply(b), found.sweeps, found.converged)

    return run


@contender(TEXTBOOK, "scipy")
def _textbook_cold(pair: Pair, limit: float) -> Match:
    return _textbook(pair, limit, textbook.cold)


@contender(RECENTRED, "lapjv")
def _textbook_recentred(pair: Pair, limit: float) -> Match:
    return _textbook(pair, limit, textbook.recentred)


@contender("rebasin", "rebasin")
def _rebasin(pair: Pair, limit: float) -> Match:
    from rebasin import PermutationCoordinateDescent

    def run(seed: int) -> Found:
        # It changes the model that it is given, and draws from the global generator.
        model = copy.deepcopy(pair.b)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            PermutationCoordinateDescent(pair.a, model, pair.inputs[:2]).rebasin()
        return Found(lambda: {name: tensor.detach() for name, tensor in model.state_dict().items()})

    return run

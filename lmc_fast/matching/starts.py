"""Where a search begins, as its caller says it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from .._checks import check_type, fail_type
from ..symmetry import Permutations, PermutationSpec, Transforms
from ..symmetry.transforms import Choice, choice_for, random_choice
from .results.many import ManyMatching

__all__ = ["listed", "shuffled", "start_of", "starts_of_many"]

STARTS = "'anchored', 'identity', 'random', Permutations or Transforms"
OF_MANY = ("anchored", "identity", "random", "activations")


def listed(init: object) -> list[str | Choice]:
    if not isinstance(init, Sequence) or not init:
        fail_type("init", f"{STARTS}, or a list of these", init)
    return list(init)


def start_of(init: str | Choice, spec: PermutationSpec, seed: int) -> Choice:
    """The choice that `init` names; the anchored start begins at the identity."""
    if isinstance(init, (Permutations, Transforms)):
        # Checked against this spec: it may have been made for another model.
        return choice_for(spec, init)
    if not isinstance(init, str):
        fail_type("init", STARTS, init)
    if init in ("anchored", "identity"):
        return choice_for(spec)
    if init == "random":
        return random_choice(spec, seed)
    raise ValueError(f"init must be {STARTS}, got {init!r}")


def shuffled(start: Choice, frozen: Collection[str], seed: int) -> Choice:
    """A random choice for every group that is not frozen."""
    shuffled = random_choice(start.spec, seed)
    return choice_for(start.spec, {name: (start if name in frozen else shuffled)[name] for name in start})


def starts_of_many(init: object, spec: PermutationSpec, order: Sequence[int], seed: int, method: str) -> list[Choice]:
    """Where each model begins, the reference first; starts by weights or activations begin at the identity.

    Args:
        order: the models' places in the caller's list.
    """
    count = len(order)
    if isinstance(init, str):
        if init not in OF_MANY:
            raise ValueError(
                f"init must be one of {', '.join(map(repr, OF_MANY))}, Permutations, Transforms or a result, "
                f"got {init!r}"
            )
        if init == "activations" and method != "learned":
            raise ValueError(f"init='activations' must come with method='learned', got {method!r}")
        identity = choice_for(spec)
        seeds = np.random.SeedSequence(seed).generate_state(count - 1).tolist()
        return [identity, *(random_choice(spec, s) if init == "random" else identity for s in seeds)]
    given = init.permutations if isinstance(init, ManyMatching) else init
    if not isinstance(given, Sequence):
        fail_type("init", "a name, Permutations or Transforms of all models, or a ManyMatching", init)
    if len(given) != count:
        raise ValueError(f"init must have one entry for each of the {count} models, got {len(given)}")
    for m, choice in enumerate(given):
        check_type(f"init[{m}]", choice, (Permutations, Transforms), "Permutations or Transforms")
    # Checked against this spec: they may have been made for another model.
    return [choice_for(spec, given[m]) for m in order]

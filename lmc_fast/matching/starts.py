"""Where a search begins, as its caller says it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from .._checks import fail_type
from ..symmetry import Permutations, PermutationSpec, Transforms
from ..symmetry.transforms import Choice, choice_for, random_choice

__all__ = ["listed", "shuffled", "start_of"]

STARTS = "'anchored', 'identity', 'random', Permutations or Transforms"


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

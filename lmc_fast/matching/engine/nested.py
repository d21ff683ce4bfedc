"""The best choice of a group together with the groups that it owns, exactly."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from ...assignment import AssignmentSolver, Candidates, linear_sum_assignment_batched
from ...symmetry import PermutationSpec

__all__ = ["Choices", "Gain", "best_choices", "flat_choices", "value_of"]

Gain = NDArray[np.float32] | NDArray[np.float64]
Choices = dict[str, NDArray[np.int64]]


def best_choices(
    spec: PermutationSpec,
    root: str,
    gains: Mapping[str, Gain | None],
    current: Mapping[str, NDArray[np.int64]],
    solver: AssignmentSolver | None = None,
    frozen: Collection[str] = (),
    candidates: Candidates | None = None,
) -> tuple[Choices, float]:
    """Maximise the total gain of a root group and of all that it owns.

    Exchanging owner unit i for j gains the entries that are the owner's own, and the optimum of an assignment of
    the units that j owns to the places that i owns. So the exact solution is one inner assignment for every pair
    of owners, and an outer one over the totals.

    Args:
        spec: bound.
        root: a group that nothing owns.
        gains: for the root and every group below it [units, units] (units of all owners end to end; row: place,
            unit of a; column: unit of b), or None where it has no entries of its own.
        current: the choices so far.
        solver: of the root's own assignments (maximising), which goes on from its last one; None: solve from
            nothing. Those inside owners are small, and are solved in one batch.
        frozen: groups that keep their current choice; units that a frozen group's owner moves take along the order
            that they have.
        candidates: of the root's gain, where it owns nothing: what its solver need not read then.

    Returns:
        The best choices of the root and of every group below it, and how much they gain over `current`, in float64.
    """
    held = {group: _held(spec, group, current) for group in frozen if spec.root_of(group) == root}
    picks = _solve(spec, root, gains, solver, held, candidates)[1]
    current_value = value_of(spec, root, gains, current)
    choices: Choices = {}
    _unroll(spec, root, picks, np.zeros(1, dtype=np.int64), choices)
    # The optimum's value summed in the way that the current one's is: their difference decides about progress.
    return choices, value_of(spec, root, gains, choices) - current_value


def _solve(
    spec: PermutationSpec,
    group: str,
    gains: Mapping[str, Gain | None],
    solver: AssignmentSolver | None,
    held: Mapping[str, NDArray[np.int64]],
    candidates: Candidates | None = None,
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.int64]]]:
    """Best value of `group` for every pair of owner units [owners, owners], and the choices that reach it.

    The picks hold, for the group and each below it, [owners, owners, size]: rows by the pair (place, unit).
    """
    size, total = spec.sizes[group], spec.units(group)
    owners = total // size
    picks: dict[str, NDArray[np.int64]] = {}
    gain: Gain | None = gains[group]
    for child in spec.owned_by(group):
        child_value, child_picks = _solve(spec, child, gains, None, held)
        picks.update(child_picks)
        gain = child_value if gain is None else gain + child_value
    if gain is None:
        # Nothing that counts tells these units apart.
        gain = np.zeros((total, total))
    if group in held:
        pick = np.broadcast_to(held[group], (owners, owners, size))
        value = _held_value(gain, pick)
    elif owners == 1:
        pick = (solver or AssignmentSolver(maximize=True)).solve(gain, candidates=candidates)[None, None]
        value = np.full((1, 1), gain[np.arange(size), pick[0, 0]].sum(dtype=np.float64))
    else:
        # [owners, owners, size, size]
        pairs = np.ascontiguousarray(gain.reshape(owners, size, owners, size).transpose(0, 2, 1, 3))
        _, columns = linear_sum_assignment_batched(pairs.reshape(-1, size, size), maximize=True)
        pick = columns.reshape(owners, owners, size)
        value = _held_value(gain, pick)
    picks[group] = pick
    return value, picks


def _held(spec: PermutationSpec, group: str, current: Mapping[str, NDArray[np.int64]]) -> NDArray[np.int64]:
    """For every owner unit of b the order of its units now: [owners, size]."""
    size = spec.sizes[group]
    choice = current[group].reshape(-1, size)
    owner = spec.groups[group].owner
    if owner is None:
        return choice
    held = np.empty_like(choice)
    held[flat_choices(spec, spec.root_of(group), current)[owner]] = choice
    return held


def _held_value(gain: Gain, pick: NDArray[np.int64]) -> NDArray[np.float64]:
    """Total gain of a given pick for every pair of owner units: [owners, owners]."""
    owners, _, size = pick.shape
    pairs = gain.reshape(owners, size, owners, size).transpose(0, 2, 1, 3)
    value: NDArray[np.float64] = np.take_along_axis(pairs, pick[..., None], axis=3).sum(axis=(2, 3), dtype=np.float64)
    return value


def _unroll(
    spec: PermutationSpec,
    group: str,
    picks: Mapping[str, NDArray[np.int64]],
    owner_flat: NDArray[np.int64],
    choices: Choices,
) -> None:
    """Read the choices off the picks from the root down; `owner_flat` is the owner unit put at each place."""
    size = spec.sizes[group]
    choice = picks[group][np.arange(owner_flat.size), owner_flat]  # [owners, size]
    choices[group] = choice.reshape(spec.shape(group))
    flat = (owner_flat[:, None] * size + choice).reshape(-1)
    for child in spec.owned_by(group):
        _unroll(spec, child, picks, flat, choices)


def flat_choices(
    spec: PermutationSpec, root: str, choices: Mapping[str, NDArray[np.int64]]
) -> dict[str, NDArray[np.int64]]:
    """For a root and every group below it the unit at each place, over all units of all owners: int64 [units]."""
    flat: dict[str, NDArray[np.int64]] = {}

    def below(group: str, owner_flat: NDArray[np.int64]) -> None:
        size = spec.sizes[group]
        flat[group] = (owner_flat[:, None] * size + choices[group].reshape(-1, size)).reshape(-1)
        for child in spec.owned_by(group):
            below(child, flat[group])

    below(root, np.zeros(1, dtype=np.int64))
    return flat


def value_of(
    spec: PermutationSpec,
    root: str,
    gains: Mapping[str, Gain | None],
    choices: Mapping[str, NDArray[np.int64]],
) -> float:
    """Total gain of given choices of a root and of every group below it, in float64."""
    total = 0.0
    for group, flat in flat_choices(spec, root, choices).items():
        gain = gains.get(group)
        if gain is not None:
            total += float(gain[np.arange(flat.size), flat].sum(dtype=np.float64))
    return total

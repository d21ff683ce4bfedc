"""The best choice of a group together with the groups that it owns, exactly."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..assignment import linear_sum_assignment
from ..symmetry import PermutationSpec

__all__ = ["best_choices"]

Gain = NDArray[np.float32] | NDArray[np.float64]
Choices = dict[str, NDArray[np.int64]]


def best_choices(
    spec: PermutationSpec,
    root: str,
    gains: Mapping[str, Gain | None],
    current: Mapping[str, NDArray[np.int64]],
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

    Returns:
        The best choices of the root and of every group below it, and how much they gain over `current`, in float64.
    """
    _, picks = _solve(spec, root, gains)
    current_value = _value(spec, root, gains, current)
    choices: Choices = {}
    _unroll(spec, root, picks, np.zeros(1, dtype=np.int64), choices)
    # The optimum's value summed in the way that the current one's is: their difference decides about progress.
    return choices, _value(spec, root, gains, choices) - current_value


def _solve(
    spec: PermutationSpec, group: str, gains: Mapping[str, Gain | None]
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.int64]]]:
    """Best value of `group` for every pair of owner units [owners, owners], and the choices that reach it.

    The picks hold, for the group and each below it, [owners, owners, size]: rows by the pair (place, unit).
    """
    size, total = spec.sizes[group], spec.units(group)
    owners = total // size
    picks: dict[str, NDArray[np.int64]] = {}
    gain: Gain | None = gains[group]
    for child in spec.owned_by(group):
        child_value, child_picks = _solve(spec, child, gains)
        picks.update(child_picks)
        gain = child_value if gain is None else gain + child_value
    if gain is None:
        # Nothing that counts tells these units apart.
        gain = np.zeros((total, total))
    blocks = gain.reshape(owners, size, owners, size)
    pick = np.empty((owners, owners, size), dtype=np.int64)
    value = np.empty((owners, owners))
    for i in range(owners):
        for j in range(owners):
            rows, columns = linear_sum_assignment(blocks[i, :, j, :], maximize=True)
            pick[i, j] = columns
            value[i, j] = blocks[i, rows, j, columns].sum(dtype=np.float64)
    picks[group] = pick
    return value, picks


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


def _value(
    spec: PermutationSpec,
    root: str,
    gains: Mapping[str, Gain | None],
    choices: Mapping[str, NDArray[np.int64]],
) -> float:
    """Total gain of given choices."""

    def below(group: str, owner_flat: NDArray[np.int64]) -> float:
        size = spec.sizes[group]
        flat = (owner_flat[:, None] * size + choices[group].reshape(-1, size)).reshape(-1)
        gain = gains[group]
        own = 0.0 if gain is None else float(gain[np.arange(flat.size), flat].sum(dtype=np.float64))
        return own + sum(below(child, flat) for child in spec.owned_by(group))

    return below(root, np.zeros(1, dtype=np.int64))

"""Do units keep their samples where they show up? Seen by running the model with all its units moved.

Where a value has units of another group beside those that are looked at (heads that share one norm over the dimensions
of each, tokens in the order of the experts that they go to), its samples come in another order in a model whose units
lie otherwise: what is seen there says nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ..._batches import Batch
from ..._calls import Calls, in_eval
from ...symmetry import PermutationSpec, Transforms
from ...symmetry.groups import axis_size
from ...symmetry.kinds import KINDS
from ...symmetry.transforms import moved_along
from .labels import AxisKey
from .moments import Centred
from .seeing import Spot, Weights, run_seen

__all__ = ["steady_spots"]

# Of the variance at a spot: samples in another order differ by twice of it, rounding by far less.
MOST_CHANGE = 0.1
# What does not vary may differ by so many roundings.
ROUNDING = 16


def steady_spots(
    model: nn.Module,
    calls: Calls,
    batch: Batch,
    spec: PermutationSpec,
    weights: Weights,
    used: Mapping[Spot, int],
    missed: dict[AxisKey, str],
) -> dict[Spot, int]:
    """Those spots at which all units, moved, show what they showed before, moved alike.

    Units that may change places all do, by one place; those of other kinds are moved by a random element.

    Args:
        spec: bound.
        used: spots of the model on this batch.
        missed: why axes are not seen; those of spots that are left out are added.
    """
    turned = _turned(spec)
    moves = {spot: _Moves(turned, spot) for spot in used}
    shown: dict[Spot, deque[Tensor]] = {spot: deque() for spot in used}
    change, spread = dict.fromkeys(used, 0.0), dict.fromkeys(used, 0.0)
    some: set[Spot] = set()

    def keep(spot: Spot, value: Tensor) -> None:
        if spot in shown:
            shown[spot].append(spot.rows(value).clone())

    def compare(spot: Spot, value: Tensor) -> None:
        if spot not in shown:
            return
        before, after = shown[spot].popleft() if shown[spot] else None, spot.rows(value)
        if moves[spot].is_partial:
            some.add(spot)
        if before is None or before.shape != after.shape or moves[spot].is_partial:
            change[spot] = torch.inf
            return
        centred = Centred.of(moves[spot].moved(before.to(after.device)))
        now = moves[spot].here(after).to(centred.rest.dtype) - centred.mean.to(centred.rest.dtype).unsqueeze(1)
        rounding = ROUNDING * torch.finfo(value.dtype).eps * float(before.double().norm())
        spread[spot] += float(centred.rest.double().square().sum()) + rounding**2 / MOST_CHANGE
        change[spot] += float((now - centred.rest).double().square().sum())

    run_seen(model, calls, batch, weights, keep)
    other = turned.apply(model)
    with in_eval(other):
        run_seen(other, calls, batch, Weights(other, spec), compare)
    steady = {}
    for spot, times in used.items():
        # What is not a number is told later on.
        if not change[spot] > MOST_CHANGE * spread[spot] and not shown[spot]:
            steady[spot] = times
        else:
            missed[spot.parameter, spot.axis] = (
                f"{spot.op} uses only some of the units on {spot.parameter!r} at a time"
                if spot in some
                else f"samples of {spot.op} with {spot.parameter!r} come in an order of other groups' units"
            )
    return steady


def _turned(spec: PermutationSpec) -> Transforms:
    """All units of all groups moved."""
    rng = np.random.default_rng(0)
    return Transforms(
        spec,
        {
            name: np.broadcast_to(np.roll(np.arange(spec.sizes[name]), 1), spec.shape(name))
            if group.kind == "permutation"
            else KINDS[group.kind].random(spec.shape(name), rng)
            for name, group in spec.groups.items()
        },
    )


class _Moves:
    """How the entries of one spot move.

    Args:
        turned: of the spec on one of whose axes the spot is.
        spot: the entries.
    """

    def __init__(self, turned: Transforms, spot: Spot) -> None:
        self._turned, self._spot = turned, spot
        self._size = axis_size(turned.spec.axes[spot.parameter][spot.axis].segments, turned.spec.sizes)
        numbers = spot.numbers
        self._here = None if numbers is None else (numbers >= 0).nonzero().squeeze(1)
        # Of these their numbers along the axis.
        self._at = None if numbers is None else numbers[numbers >= 0]
        self.is_partial = self._at is not None and self._misses(self._at)

    def here(self, entries: Tensor) -> Tensor:
        """Of a spot's entries those of the axis."""
        return entries if self._here is None else entries[self._here.to(entries.device)]

    def moved(self, entries: Tensor) -> Tensor:
        """[entries, samples] of the spot -> those of the axis, as the model that has been moved shows them."""
        if self._at is None:
            return self._along_axis(entries)
        at = self._at.to(entries.device)
        whole = entries.new_zeros(self._size, entries.shape[1])
        whole[at] = self.here(entries)
        return self._along_axis(whole)[at]

    def _misses(self, at: Tensor) -> bool:
        """Whether some of what comes to stand at the spot is not there."""
        missing = torch.full((self._size, 1), torch.nan, dtype=torch.float64)
        missing[at] = 0.0
        return bool(self._along_axis(missing)[at].isnan().any())

    def _along_axis(self, x: Tensor) -> Tensor:
        return moved_along(self._turned, self._spot.parameter, self._spot.axis, x, 0)

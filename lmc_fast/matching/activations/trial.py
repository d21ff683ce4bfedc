"""Do units keep their samples where they show up? Seen by running the model with all its units in another order.

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
from ...symmetry import Permutations, PermutationSpec
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
    """Those spots at which all units, in another order, show what they showed before.

    Args:
        spec: bound.
        used: spots of the model on this batch.
        missed: why axes are not seen; those of spots that are left out are added.
    """
    turned = Permutations(
        spec, {name: np.broadcast_to(np.roll(np.arange(spec.sizes[name]), 1), spec.shape(name)) for name in spec.groups}
    )
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
        places = _places(turned, spot)
        if places is None:
            some.add(spot)
        if before is None or before.shape != after.shape or places is None:
            change[spot] = torch.inf
            return
        here, there = (each.to(after.device) for each in places)
        centred = Centred.of(before.to(after.device)[there])
        now = after[here].to(centred.rest.dtype) - centred.mean.to(centred.rest.dtype).unsqueeze(1)
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


def _places(turned: Permutations, spot: Spot) -> tuple[Tensor, Tensor] | None:
    """Where entries are that move, and where they were before; None where one comes from elsewhere."""
    index = torch.as_tensor(turned.index(spot.parameter, spot.axis))
    numbers = spot.numbers
    if numbers is None:
        return torch.arange(len(index)), index
    here = (numbers >= 0).nonzero().squeeze(1)
    at = torch.full((len(index),), -1)
    at[numbers[here]] = here
    there = at[index[numbers[here]]]
    return None if bool((there < 0).any()) else (here, there)

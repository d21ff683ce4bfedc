"""The gains of activation matching: two models run side by side, their units' activations crossed as they come."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..._batches import Batch, count_of
from ..._calls import Calls, Forward, in_eval
from ..._progress import Progress, tracking
from ...symmetry import PermutationSpec
from ...symmetry.kinds import KINDS
from ...symmetry.views import Leaf, Units, groups_of, leaves, taken_together
from .labels import AxisKey
from .moments import Centred, CrossMoments, CrossSums, Part, Some, means_of, without_rounding
from .seeing import Seen, Spot, Weights, run_seen, spots_used
from .trial import steady_spots

__all__ = ["activation_gains", "activation_moments", "sizes_of"]


def activation_gains(
    model_a: nn.Module,
    model_b: nn.Module,
    batches: Iterable[Any],
    spec: PermutationSpec,
    statistic: str = "correlation",
    watch: str = "inputs",
    device: torch.device | None = None,
    progress: Progress = False,
    forward: Forward | None = None,
    missed: dict[AxisKey, str] | None = None,
) -> dict[Units, NDArray[np.float64]]:
    """What `activation_matching` maximises, by group: float64 [units, units], row: unit of a; column: unit of b.

    Args:
        spec: bound.
        missed: why an axis does not show its units where its parameter is used, by parameter and axis; written to.

    Returns:
        By group, or by several that lie inside each other, correlations, or ("covariance") sums of products of centred
        activations over all samples: one scale for all groups. Groups that show up nowhere are left out.

    Raises:
        TypeError: a batch that the rule of `_batches` does not cover.
        ValueError: no examples, or activations that are not finite or differ in shape between the models.
    """
    found = activation_moments(model_a, model_b, batches, spec, statistic, watch, device, progress, forward, missed)
    return {units: gain.cpu().numpy() for units, gain in found.items()}


def activation_moments(
    model_a: nn.Module,
    model_b: nn.Module,
    batches: Iterable[Any],
    spec: PermutationSpec,
    statistic: str,
    watch: str,
    device: torch.device | None,
    progress: Progress,
    forward: Forward | None,
    missed: dict[AxisKey, str] | None = None,
) -> dict[Units, Tensor]:
    """As `activation_gains`, as tensors where the sums are kept, each entry of a unit that is a plane a row of its own.

    What may turn has no units that stay apart: a correlation there is taken over the root of the mean square of all
    units that mix, so that units that vary more count more among these, and a head as much as another.
    """
    runs = [_Runs(model, Calls(model, forward), Weights(model, spec)) for model in (model_a, model_b)]
    crossing: _Crossing | None = None
    missed = {} if missed is None else missed
    some = False
    with in_eval(model_a, model_b), tracking(progress, "activations", count_of(batches)) as advance:
        for index, batch in enumerate(batches):
            some = True
            both = [of.calls.read_one("batches", index, batch) for of in runs]
            if not both[0].examples:
                # Nothing is to be seen of no example.
                advance("")
                continue
            if crossing is None:
                used = spots_used(model_a, runs[0].calls, both[0], runs[0].weights, missed)
                used = steady_spots(model_a, runs[0].calls, both[0], spec, runs[0].weights, used, missed)
                crossing = _Crossing(spec, runs[0].weights.sizes, used, watch, device, missed)
                crossing.take_up(runs, both, [crossing.first])
                crossing.watch_still_units()
                crossing.take_up(runs, both, [crossing.second])
            else:
                crossing.take_up(runs, both, [crossing.first, crossing.second])
            advance("")
    if crossing is None:
        raise ValueError(f"batches must hold one {'example' if some else 'batch'} at least, got none")
    return crossing.gains(statistic)


@dataclass(frozen=True)
class _Runs:
    """One of the models, and how it is run."""

    model: nn.Module
    calls: Calls
    weights: Weights

    def see(self, batch: Batch, see: Seen) -> None:
        run_seen(self.model, self.calls, batch, self.weights, see)


class _View:
    """Some of the places, and the sums over what they have shown."""

    def __init__(self, places: dict[Spot, CrossMoments]) -> None:
        self.places = places
        self.sums: dict[Units, CrossSums] = {}

    def done(self, spec: PermutationSpec) -> dict[Units, CrossSums]:
        """The sums so far, centred where units stay apart. ValueError, naming the place, unless they are finite."""
        for place, moments in self.places.items():
            if not bool(torch.isfinite(moments.mean_a).all() and torch.isfinite(moments.mean_b).all()):
                raise ValueError(f"activations must be finite, but the {place.side} of {place.module!r} is not")
        means = means_of(self.places.values())
        return {
            units: without_rounding(of, means[units]) if _stay_apart(spec, units) else of.plus(means[units])
            for units, of in self.sums.items()
        }


class _Crossing:
    """The places of two models: a first view of all units, and a second one of those that are still in the first.

    Args:
        spec: bound.
        used: places that show up.
        watch: the side to look at; groups that do not show up there are looked at on the other.
        device: where the sums are kept; None: where the activations are.
    """

    def __init__(
        self,
        spec: PermutationSpec,
        sizes: dict[AxisKey, int],
        used: Collection[Spot],
        watch: str,
        device: torch.device | None,
        missed: dict[AxisKey, str],
    ) -> None:
        on_axis: dict[AxisKey, dict[Leaf, None]] = {}
        for root in spec.roots:
            for leaf in leaves(spec, root):
                # Root groups that lie inside each other are seen together alone.
                whole = taken_together(spec, leaf, spec.roots)
                on_axis.setdefault((leaf.parameter, leaf.axis), {})[whole] = None
        self._spec = spec
        self._on_spot: dict[Spot, list[Part]] = {}
        for spot in used:
            key, numbers = (spot.parameter, spot.axis), spot.numbers
            parts = [Part(leaf, numbers, sizes[key], _entries(spec, leaf)) for leaf in on_axis[key]]
            self._on_spot[spot] = [part for part in parts if part.is_there]
            if not all(part.is_there for part in parts):
                missed.setdefault(key, f"{spot.op} uses only some of the units on {spot.parameter!r} at a time")
        self._side = watch.removesuffix("s")
        self._there = {part.units for spot, found in self._on_spot.items() if spot.side == self._side for part in found}
        self._device = device
        self._still: dict[Units, tuple[Tensor, Tensor]] = {}
        self.first = self._view(lambda spot, part: (spot.side == self._side) == (part.units in self._there))
        self.second = _View({})

    def _view(self, wanted: Callable[[Spot, Part], bool], some: Some | None = None) -> _View:
        chosen = {spot: [part for part in found if wanted(spot, part)] for spot, found in self._on_spot.items()}
        return _View({spot: CrossMoments(found, some) for spot, found in chosen.items() if found})

    def watch_still_units(self) -> None:
        """From here on look at the units that have not varied so far, in both models, on the other side as well."""
        for group, of in self.first.done(self._spec).items():
            still = [(squares == 0).nonzero().squeeze(1) for squares in (of.squares_a, of.squares_b)]
            if group in self._there and _stay_apart(self._spec, group) and all(each.numel() for each in still):
                self._still[group] = (still[0], still[1])
        self.second = self._view(lambda spot, part: spot.side != self._side and part.units in self._still, self._still)

    def take_up(self, runs: Sequence[_Runs], batches: Sequence[Batch], views: Sequence[_View]) -> None:
        """Run both models on a batch; every activation of b meets that of a, in the order of the spot's calls."""
        waiting: dict[Spot, deque[Centred]] = {place: deque() for view in views for place in view.places}
        if not waiting:
            return

        def keep(place: Spot, shown: Tensor) -> None:
            if place in waiting:
                # Copied at once: what comes next may write to the tensor in place.
                waiting[place].append(Centred.of(place.rows(shown).to(self._device or shown.device)))

        def meet(place: Spot, shown: Tensor) -> None:
            if place not in waiting:
                return
            b = place.rows(shown)
            a = waiting[place].popleft() if waiting[place] else None
            if a is None or a.rest.shape != b.shape:
                ours = "nothing more" if a is None else str(tuple(a.rest.shape))
                raise ValueError(
                    f"model_b must run as model_a does, but the {place.side} of {place.module!r} is {tuple(b.shape)} "
                    f"[entries, samples] there and {ours} in model_a"
                )
            centred = Centred.of(b.to(a.rest.device))
            for view in views:
                if place in view.places:
                    view.places[place].add(a, centred, view.sums)

        for run, batch, see in zip(runs, batches, (keep, meet), strict=True):
            run.see(batch, see)
        left = next((place for place, queue in waiting.items() if queue), None)
        if left is not None:
            raise ValueError(f"model_b must run as model_a does, but does not call {left.module!r} as often")

    def gains(self, statistic: str) -> dict[Units, Tensor]:
        """By group: [units, units]."""
        second = self.second.done(self._spec)
        gains = {}
        for group, of in self.first.done(self._spec).items():
            gain = self._gain(group, of, statistic)
            if group in second:
                rows, columns = self._still[group]
                still = (of.squares_a[rows] == 0).unsqueeze(1) & (of.squares_b[columns] == 0)
                gain[rows.unsqueeze(1), columns] += self._gain(group, second[group], statistic) * still
            gains[group] = gain
        return gains

    def _gain(self, units: Units, of: CrossSums, statistic: str) -> Tensor:
        if _stay_apart(self._spec, units):
            return of.correlation() if statistic == "correlation" else of.cross
        squares = (_over_mixed(self._spec, units, each) for each in (of.squares_a, of.squares_b))
        # What is but rounding tells nothing of how to turn.
        return (of.scaled(*squares) if statistic == "correlation" else of.cross).to(of.dtype)


def sizes_of(spec: PermutationSpec, units: Units) -> tuple[int, ...]:
    """How the rows of a gain split: of each group its units, and the entries that an element takes together."""
    kinds = {name: KINDS[spec.groups[name].kind] for name in groups_of(spec, units)}
    return tuple(size for name, kind in kinds.items() for size in (spec.sizes[name], kind.entries))


def _entries(spec: PermutationSpec, leaf: Leaf) -> int:
    """Of each unit of the innermost group around a leaf, those that are rows of their own."""
    return KINDS[spec.groups[leaf.around[-1]].kind].entries


def _stay_apart(spec: PermutationSpec, units: Units) -> bool:
    """Whether no element of these groups mixes units."""
    return all(KINDS[spec.groups[name].kind].moves_whole for name in groups_of(spec, units))


def _over_mixed(spec: PermutationSpec, units: Units, squares: Tensor) -> Tensor:
    """Of each unit the mean of the squares, summed over its entries, of all that it may mix with."""
    split = squares.reshape(sizes_of(spec, units))
    for k, name in enumerate(groups_of(spec, units)):
        if not KINDS[spec.groups[name].kind].moves_whole:
            split = split.sum(2 * k + 1, keepdim=True).mean(2 * k, keepdim=True)
    return split.expand(sizes_of(spec, units)).reshape(-1)

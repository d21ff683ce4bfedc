"""The gains of activation matching: two models run side by side, their units' activations crossed as they come."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..._batches import Batch, count_of
from ..._calls import Calls, Forward, in_eval
from ..._progress import Progress, tracking
from ...symmetry import PermutationSpec
from ...symmetry.views import Leaf, Units, leaves, taken_together
from .moments import Centred, CrossMoments, CrossSums, Some, without_rounding
from .watching import Place, entries_first, places_of, places_used, run, watching

__all__ = ["activation_gains"]


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
) -> dict[Units, NDArray[np.float64]]:
    """What `activation_matching` maximises, by group: float64 [units, units], row: unit of a; column: unit of b.

    Args:
        spec: bound.

    Returns:
        By group, or by several that lie inside each other, correlations, or ("covariance") sums of products of centred
        activations over all samples: one scale for all groups. Groups that show up nowhere are left out.

    Raises:
        TypeError: a batch that the rule of `_batches` does not cover.
        ValueError: no batches, or activations that are not finite or differ in shape between the models.
    """
    runs = [(model, Calls(model, forward)) for model in (model_a, model_b)]
    crossing: _Crossing | None = None
    with in_eval(model_a, model_b), tracking(progress, "activations", count_of(batches)) as advance:
        for both in _pairs(runs, batches):
            if crossing is None:
                used = places_used(model_a, places_of(model_a, spec), *both[0][1:])
                crossing = _Crossing(spec, used, watch, device)
                crossing.take_up(both, [crossing.first])
                crossing.watch_still_units()
                crossing.take_up(both, [crossing.second])
            else:
                crossing.take_up(both, [crossing.first, crossing.second])
            advance("")
    if crossing is None:
        raise ValueError("batches must hold one batch at least, got none")
    return crossing.gains(statistic)


# A model, how it is called, and a batch for it.
Run = tuple[nn.Module, Calls, Batch]


def _pairs(runs: Sequence[tuple[nn.Module, Calls]], batches: Iterable[Any]) -> Iterable[tuple[Run, Run]]:
    """Every batch as each of the two models takes it, on that model's device."""
    (model_a, calls_a), (model_b, calls_b) = runs
    for index, batch in enumerate(batches):
        yield (
            (model_a, calls_a, calls_a.read_one("batches", index, batch)),
            (model_b, calls_b, calls_b.read_one("batches", index, batch)),
        )


class _View:
    """Some of the places, and the sums over what they have shown."""

    def __init__(self, places: dict[Place, CrossMoments]) -> None:
        self.places = places
        self.sums: dict[Units, CrossSums] = {}

    def done(self) -> dict[Units, CrossSums]:
        """The sums so far, rounding taken for what it is. ValueError, naming the place, unless they are finite."""
        for place, moments in self.places.items():
            if not bool(torch.isfinite(moments.mean_a).all() and torch.isfinite(moments.mean_b).all()):
                raise ValueError(f"activations must be finite, but the {place.side} of {place.module!r} is not")
        return without_rounding(self.sums, self.places.values())


class _Crossing:
    """The places of two models: a first view of all units, and a second one of those that are still in the first.

    Args:
        spec: bound.
        used: places that show up.
        watch: the side to look at; groups that do not show up there are looked at on the other.
        device: where the sums are kept; None: where the activations are.
    """

    def __init__(self, spec: PermutationSpec, used: Collection[Place], watch: str, device: torch.device | None) -> None:
        on_axis: dict[tuple[str, int], dict[Leaf, None]] = {}
        for root in spec.roots:
            for leaf in leaves(spec, root):
                # Root groups that lie inside each other are seen together alone.
                whole = taken_together(spec, leaf, spec.roots)
                on_axis.setdefault((leaf.parameter, leaf.axis), {})[whole] = None
        self._on_place = {place: list(on_axis[place.parameter, place.axis]) for place in used}
        self._side = watch.removesuffix("s")
        self._there = {
            leaf.group for place, found in self._on_place.items() if place.side == self._side for leaf in found
        }
        self._device = device
        self._still: dict[Units, tuple[Tensor, Tensor]] = {}
        self.first = self._view(lambda place, leaf: (place.side == self._side) == (leaf.group in self._there))
        self.second = _View({})

    def _view(self, wanted: Callable[[Place, Leaf], bool], some: Some | None = None) -> _View:
        chosen = {place: [leaf for leaf in found if wanted(place, leaf)] for place, found in self._on_place.items()}
        return _View({place: CrossMoments(found, some) for place, found in chosen.items() if found})

    def watch_still_units(self) -> None:
        """From here on look at the units that have not varied so far, in both models, on the other side as well."""
        for group, of in self.first.done().items():
            still = [(squares == 0).nonzero().squeeze(1) for squares in (of.squares_a, of.squares_b)]
            if group in self._there and all(indices.numel() for indices in still):
                self._still[group] = (still[0], still[1])
        self.second = self._view(
            lambda place, leaf: place.side != self._side and leaf.group in self._still, self._still
        )

    def take_up(self, runs: tuple[Run, Run], views: Sequence[_View]) -> None:
        """Run both models on a batch; every activation of b meets that of a, in the order of the place's calls."""
        waiting: dict[Place, deque[Centred]] = {place: deque() for view in views for place in view.places}
        if not waiting:
            return

        def keep(place: Place, shown: Tensor) -> None:
            # Copied at once: what comes next may write to the tensor in place.
            waiting[place].append(Centred.of(entries_first(shown, place.dim).to(self._device or shown.device)))

        def meet(place: Place, shown: Tensor) -> None:
            b = entries_first(shown, place.dim)
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

        for run_of_model, see in zip(runs, (keep, meet), strict=True):
            with watching(run_of_model[0], waiting, see):
                run(*run_of_model)
        left = next((place for place, queue in waiting.items() if queue), None)
        if left is not None:
            raise ValueError(f"model_b must run as model_a does, but does not call {left.module!r} as often")

    def gains(self, statistic: str) -> dict[Units, NDArray[np.float64]]:
        """By group: [units, units]."""
        second = self.second.done()
        gains = {}
        for group, of in self.first.done().items():
            gain = _gain(of, statistic)
            if group in second:
                rows, columns = self._still[group]
                still = (of.squares_a[rows] == 0).unsqueeze(1) & (of.squares_b[columns] == 0)
                gain[rows.unsqueeze(1), columns] += _gain(second[group], statistic) * still
            gains[group] = gain.cpu().numpy()
        return gains


def _gain(sums: CrossSums, statistic: str) -> Tensor:
    return sums.correlation() if statistic == "correlation" else sums.cross

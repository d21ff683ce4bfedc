"""Coordinate descent over groups of every kind: one search, from its start to where hardly anything is gained.

With all other groups held, <theta_a, g(theta_b)> is linear in the element g of one group, whatever its kind, so that
its best element follows from one gain matrix: an assignment, a polar factor, a phase. A group that turns changes every
entry of its neighbours' gains: what reads them is multiplied out anew.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ..._progress import Progress, tracking
from ...ops.permuted_dot import Overlap
from ...symmetry import PermutationSpec
from ...symmetry.kinds import KINDS
from ...symmetry.transforms import Choice, moved
from ...symmetry.views import Leaf, Units
from .elements import best_elements, best_elements_together
from .layout import Layout
from .steps import Settled, Step
from .trees import Factors
from .turned_gains import TurnedGains

__all__ = ["TurningDescent", "count_moved"]

# Continuous kinds gain a little for ever. A sweep ends the search that gains less than this of the objective, or that
# makes the squared distance of the weights shorter by less than that of it: what was planted comes nearer until
# rounding, models that only resemble each other do not.
STILL = 1e-9
STILL_APART = 5e-4
# Of the objective: two ways to one end differ by about this.
ROUNDING = 1e-12


def is_still(gained: float, objective: float, squares: float) -> bool:
    """Whether a sweep gained next to nothing.

    Args:
        gained: by the sweep.
        objective: after it.
        squares: ||theta_a||^2 + ||theta_b||^2.
    """
    return gained <= STILL * abs(objective) or 2 * gained <= STILL_APART * (squares - 2 * objective)


class TurningDescent(Layout):
    """The state of one search: the models' tensors, and the elements so far.

    Gains of groups that turn are summed in float64, those of groups that change places or signs alone in the weights'
    own sums (float32, float64 for float64).

    Args:
        spec: bound.
        tensors_a, tensors_b: by parameter; read, never written.
        weights: how much each parameter counts; those left out or at 0 do not.
        start: where to begin.
        frozen: groups that keep their element.
        device: where gains and elements are computed; None: where model a's tensors are.
        norms: ||.||^2 of each parameter in both models, where that is known already.

    Raises:
        ValueError: weights so large that their products overflow.
    """

    def __init__(
        self,
        spec: PermutationSpec,
        tensors_a: Mapping[str, Tensor],
        tensors_b: Mapping[str, Tensor],
        weights: Mapping[str, float],
        start: Choice,
        frozen: Collection[str],
        device: torch.device | None,
        norms: Mapping[str, Overlap] | None = None,
    ) -> None:
        super().__init__(spec, tensors_a, tensors_b, weights, frozen, device, norms)
        where = next((tensor.device for tensor in self.a.values()), torch.device("cpu"))
        self.elements = {name: element.to(where) for name, element in start.items()}
        self.gains = TurnedGains(spec, self.a, self.b, self.trees)

    def sums_of(self, root: str) -> torch.dtype:
        whole = all(KINDS[self.spec.groups[name].kind].moves_whole for name in self.trees[root])
        return super().sums_of(root) if whole else torch.float64

    def _anchored(self) -> list[str]:
        """Settle groups one by one, outwards from the fixed axes, each by what is settled around it.

        Returns:
            The groups in the order in which they were settled.
        """
        order: list[str] = []
        for root, known in self.outward():
            order.append(root)
            together = self.known_together(root, order)
            if together is not None:
                roots, leaves = together
                factors = self._factors(roots, leaves)
                found, gained = best_elements_together(self.spec, roots, factors, self.elements, self.frozen)
            else:
                factors = self._factors([root], known)
                found, gained = best_elements(self.spec, root, factors, self.elements, self.frozen)
            if gained > 0:
                self.elements |= found
        return order

    def settle(self, order: Callable[[], Sequence[str]] | None, max_sweeps: int, progress: Progress) -> Settled:
        """Descend to the end: from the elements as they are, or after a pass outwards, unless that ends lower.

        Args:
            order: gives the root groups in the order of the next sweep; None: outwards from the fixed axes, each
                settled by what is settled around it first.
        """
        start, reached = dict(self.elements), self.objective()
        if order is not None:
            return self._run(order, reached, max_sweeps, progress)
        outward = self._anchored()
        found = self._run(lambda: outward, self.objective(), max_sweeps, progress)
        if found.objective <= reached + ROUNDING * abs(reached):
            # Models that lie over each other already, say, and a pass outwards.
            self.elements = start
            found = self._run(lambda: outward, reached, max_sweeps, progress)
        return found

    def in_order(self) -> list[str]:
        """The root groups outwards from the fixed axes."""
        return [root for root, _ in self.outward()]

    def _run(self, order: Callable[[], Sequence[str]], reached: float, max_sweeps: int, progress: Progress) -> Settled:
        """Sweep over stale groups until none is left, or a sweep gains next to nothing."""
        stale, still = set(self.open), False
        squares = sum(map(sum, self.norms.values()))
        steps: list[Step] = []
        with tracking(progress, "weight matching", max_sweeps) as advance:
            while stale and not still and len(steps) < max_sweeps:
                began = time.perf_counter()
                step = Step()
                for root in order():
                    if root not in stale:
                        continue
                    stale.remove(root)
                    gained, count = self.improve(root)
                    step.solved += 1
                    if count:
                        step.gained += gained
                        step.moved += count
                        stale |= self.neighbours[root]
                step.seconds = time.perf_counter() - began
                steps.append(step)
                reached += step.gained
                still = is_still(step.gained, reached, squares)
                note = f"sweep {len(steps)}: {step.moved} units moved, objective {step.gained:+.4g}"
                advance(note, moved=step.moved, solved=step.solved, gained=step.gained)
        return Settled(steps, still or not stale, self.objective())

    def improve(self, root: str) -> tuple[float, int]:
        """Move a root group and all that it owns to where they are best; what that gained, and how many units moved."""
        factors = self._factors([root], {units: self.leaves[units] for units in self.units[root]})
        found, gained = best_elements(self.spec, root, factors, self.elements, self.frozen)
        # Less than the rounding of its sums is no progress.
        if not gained > self.scale[root]:
            return 0.0, 0
        before = {name: self.elements[name] for name in found}
        coupled = root in self.neighbours[root]
        # Where both axes of a parameter move together the gains are a linearisation: look at the objective itself.
        own = self.own_parameters(root) if coupled else set()
        objective = self.objective(own)
        self.elements |= found
        if coupled:
            gained = self.objective(own) - objective
            if not gained > self.scale[root]:
                self.elements |= before
                return 0.0, 0
        return gained, sum(count_moved(before[name], found[name], self.spec.shape(name)) for name in found)

    def objective(self, parameters: Collection[str] | None = None) -> float:
        """<theta_a, g(theta_b)> with the elements so far over all parameters (or some), summed in float64."""
        return objective_of(self.a, self.b, self.a if parameters is None else parameters, self.spec, self.elements)

    def _factors(self, roots: Sequence[str], leaves: Mapping[Units, Sequence[Leaf]]) -> Factors:
        """Gains of root groups, and of what they own, from some leaves, the groups around them as they are now."""
        dtype = torch.float32
        for root in roots:
            dtype = torch.promote_types(dtype, self.sums_of(root))
        return self.gains.factors((leaf for some in leaves.values() for leaf in some), self.elements, dtype)


def count_moved(before: Tensor, after: Tensor, shape: tuple[int, ...]) -> int:
    """How many units an element moves in another way; of a kind that mixes them, those whose rows differ."""
    units = math.prod(shape)
    return int((before != after).reshape(units, -1).any(1).sum())


def objective_of(
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    names: Iterable[str],
    spec: PermutationSpec,
    elements: Mapping[str, Tensor],
) -> float:
    """<theta_a, g(theta_b)> over some parameters, summed in float64."""
    total = 0.0
    for name in names:
        moved_b = moved(spec, name, b[name].double(), elements)
        total += float(torch.dot(a[name].double().reshape(-1), moved_b.reshape(-1)))
    return total

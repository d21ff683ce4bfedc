"""Coordinate descent over permutation groups: one search, from its start to a local optimum."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from ..._progress import Progress, tracking
from ...assignment import AssignmentSolver, Candidates
from ...assignment.solver import last_solution
from ...ops.gain_matrix import gain_candidates
from ...ops.permuted_dot import Overlap
from ...symmetry import Permutations, PermutationSpec, Segment
from ...symmetry.groups import walk
from ...symmetry.permutations import axis_index
from ...symmetry.views import Leaf, Units
from .gains import GainCache
from .layout import Layout
from .leading import LeadingGains, is_worth_leading, seem_to_stand_out
from .nested import Choices, Gain, best_choices, best_together, flat_choices
from .operands import Workspace
from .small import SmallDescent, small_descent
from .steps import Settled, Step
from .transfers import Leaving, placed
from .workers import SideBySide

__all__ = ["CoordinateDescent", "Settled", "Step"]

# Smaller assignments are solved before another thread has taken one up.
SIDE_BY_SIDE_FROM = 256
# Over leading parts: descent over whole weights makes as much of where these lead as of where more would.
LEADING_SWEEPS = 2
# Bytes of gains that are on their way from a GPU together.
IN_FLIGHT = 1 << 30
# Smaller assignments read their gains whatever is known of these.
CANDIDATES_FROM = 513


class CoordinateDescent(Layout):
    """The state of one search: the models' tensors, the choices so far, gains and assignments to go on from.

    Args:
        spec: bound.
        tensors_a, tensors_b: by parameter; read, never written.
        weights: how much each parameter counts; those left out or at 0 do not.
        start: where to begin.
        frozen: groups that keep their choice.
        device: where gains are computed; None: where model a's tensors are.
        norms: ||.||^2 of each parameter in both models, where that is known already.
        room, workspace: as `GainCache` takes them.

    Raises:
        ValueError: weights so large that their products overflow.
    """

    def __init__(
        self,
        spec: PermutationSpec,
        tensors_a: Mapping[str, Tensor],
        tensors_b: Mapping[str, Tensor],
        weights: Mapping[str, float],
        start: Permutations,
        frozen: Collection[str],
        device: torch.device | None,
        norms: Mapping[str, Overlap] | None = None,
        room: int | None = None,
        workspace: Workspace | None = None,
    ) -> None:
        super().__init__(spec, tensors_a, tensors_b, weights, frozen, device, norms)
        self.choices: Choices = start.choices
        self._identity: Choices = Permutations.identity(spec).choices
        self.gains = GainCache(self.a, self.b, self.leaves, self.index, room, workspace)
        self.solvers: dict[str, AssignmentSolver] = {}
        # Takes the place of gains and solvers while a search runs that it can do.
        self._small: SmallDescent | None = None
        # Axes that are split in the same way move in the same way, and have one number; None: they do not move.
        numbers: dict[tuple[Segment, ...], int] = {}
        self._numbers = {
            name: [
                numbers.setdefault(axis.segments, len(numbers)) if roots else None
                for axis, roots in zip(spec.axes[name], self.axis_roots[name], strict=True)
            ]
            for name in self.a
        }
        self._moved_by = [{segment.group for segment in walk(segments)} for segments in numbers]
        # By the number of an axis, the roots that are left in place, and where the tensor is.
        self._indices: dict[tuple[int, tuple[str, ...], torch.device], Tensor] = {}

    def again(self, start: Permutations) -> CoordinateDescent:
        """Another search over the same weights, from elsewhere; this one's is over."""
        other = copy.copy(self)
        other.choices, other.solvers, other._indices = start.choices, {}, {}
        other.gains = GainCache(self.a, self.b, self.leaves, other.index, self.gains.room)
        return other

    def leading(self, *, probe: bool = False) -> CoordinateDescent | None:
        """A search over the leading parts of the weights alone, from these choices.

        None where it would not be short, or where these parts are no more than noise.

        Args:
            probe: whether to look at a few weights before all are factored.
        """
        if not is_worth_leading(self.a, self.leaves):
            return None
        if probe and not seem_to_stand_out(self.a, self.b, self.leaves, self.norms):
            return None
        other = copy.copy(self)
        other.choices, other.solvers, other._indices, other._small = dict(self.choices), {}, {}, None
        gains = LeadingGains(self.a, self.b, self.leaves, other.index)
        other.gains = gains
        if not gains.stand_out(self.norms):
            return None
        if self._small is not None:
            # The core takes these weights, and so what stands in their place.
            other._small = SmallDescent(self, gains.factors)
        return other

    def anchor(self) -> list[str]:
        """Settle groups one by one, outwards from the fixed axes, each by what is settled around it.

        A permutation that was planted in a copy is found in this one pass.

        Returns:
            The groups in the order in which they were settled.
        """
        if self._small is not None:
            self._small.choose_all(self.choices)
            order = self._small.anchor(self.outward())
            self.choose_all(self._small.choices)
            return order
        order = []
        for root, known in self.outward():
            order.append(root)
            self.settle_one(root, known, order)
        return order

    def settle_one(self, root: str, known: Mapping[Units, Sequence[Leaf]], order: Collection[str]) -> bool:
        """Settle a root group by what is settled around it, in a pass outwards.

        Args:
            known: its leaves whose other axes are settled.
            order: the groups settled so far, this one among them.

        Returns:
            Whether that was all there is to know: it can gain no more until a neighbour moves.
        """
        together = self.known_together(root, set(order))
        if together is not None:
            self._settle_together(*together)
            return False
        if any(known.values()):
            gains = {name: _on_cpu(self.gains.partial_gain(name, known[name])) for name in self.units[root]}
            choices, gained = best_choices(self.spec, root, gains, self.choices, self.solver(root), self.frozen)
            if gained > 0:
                self.choose(root, choices)
        whole = all(len(known[name]) == len(self.leaves[name]) for name in self.units[root])
        return whole and root not in self.neighbours[root]

    def asked(
        self, root: str, known: Mapping[Units, Sequence[Leaf]], order: Collection[str]
    ) -> dict[Units, list[Leaf]]:
        """The gains that `settle_one` asks for, each by the leaves that it is summed over."""
        together = self.known_together(root, set(order))
        if together is not None:
            return together[1]
        return {name: list(known[name]) for name in self.units[root] if known[name]}

    def _settle_together(self, roots: Sequence[str], known: Mapping[Units, Sequence[Leaf]]) -> None:
        """Settle root groups that lie inside each other by what is known of them."""
        gains = {units: _on_cpu(self.gains.gain_of(some)) for units, some in known.items()}
        choices, gained = best_together(self.spec, roots, gains, self.choices, self.frozen)
        if gained > 0:
            for one in roots:
                self.choose(one, {name: choices[name] for name in self.trees[one]})

    def begin(self, anchored: bool, max_sweeps: int, progress: Progress) -> list[str]:
        """Go where the leading parts of the weights point, or where `anchor` does if they do not stand out.

        Args:
            anchored: whether to settle groups outwards first, instead of going on from the choices as they are.
            max_sweeps: over leading parts, at most; more than a few are never made.

        Returns:
            The groups outwards from the fixed axes, the order to go on in.
        """
        leading = self.leading()
        first = self if leading is None else leading
        order = first.anchor() if anchored else [root for root, _ in first.outward()]
        if leading is not None:
            leading.run(lambda: order, min(LEADING_SWEEPS, max_sweeps), progress, title="leading parts")
            self.choose_all(leading.choices)
        return order

    def settle(self, anchored: bool, max_sweeps: int, progress: Progress) -> Settled:
        """`descend` outwards from the fixed axes after `begin`."""

        def begin() -> Callable[[], Sequence[str]]:
            order = self.begin(anchored, max_sweeps, progress)
            return lambda: order

        return self.descend(begin, self.objective(), max_sweeps, progress)

    def descend(
        self, begin: Callable[[], Callable[[], Sequence[str]]], reached: float, max_sweeps: int, progress: Progress
    ) -> Settled:
        """`run` from where `begin` leads; from the choices as they are, if that ends below their objective.

        Args:
            begin: may put groups elsewhere; gives what `run` takes for the orders of its sweeps.
            reached: the objective with the choices as they are.
        """
        start = dict(self.choices)
        if type(self.gains) is GainCache:
            self._small = small_descent(self, self.gains.room)
        try:
            order = begin()
            found = Settled(*self.run(order, max_sweeps, progress), self.objective())
            if found.objective < reached:
                # Models that lie over each other already, say, and a pass outwards.
                self.choose_all(start)
                found = Settled(*self.run(order, max_sweeps, progress), self.objective())
            return found
        finally:
            # Weights may change before the next search.
            self._small = None

    def run(
        self,
        order: Callable[[], Sequence[str]],
        max_sweeps: int,
        progress: Progress,
        *,
        side_by_side: bool = True,
        title: str = "weight matching",
    ) -> tuple[list[Step], bool]:
        """Sweep over stale groups until none is left.

        Args:
            order: gives the root groups in the order of the next sweep.
            side_by_side: whether groups that share no parameter are solved at once, where they can be: for those
                that are nearly solved, handing them out takes longer.
            title: what progress is told of.
        """
        if self._small is not None:
            self._small.choose_all(self.choices)
            found = self._small.run(lambda: self.apart(order()), max_sweeps, progress, title)
            self.choose_all(self._small.choices)
            return found
        stale = set(self.open)
        steps: list[Step] = []
        with tracking(progress, title, max_sweeps) as advance, SideBySide() as workers:
            while len(steps) < max_sweeps:
                if not stale:
                    for group in self.gains.off(self.norms):
                        self.gains.forget(group)
                        stale.update(self.leaves[group][0].roots)
                    if not stale:
                        break
                began = time.perf_counter()
                step = Step()
                for batch in self.apart(order()) if side_by_side else [[root] for root in order()]:
                    visited = [root for root in batch if root in stale]
                    stale.difference_update(visited)
                    for root, (gained, moved) in zip(visited, self.improve(visited, workers), strict=True):
                        step.solved += 1
                        if moved:
                            step.gained += gained
                            step.moved += moved
                            stale |= self.neighbours[root]
                step.seconds = time.perf_counter() - began
                steps.append(step)
                note = f"sweep {len(steps)}: {step.moved} units moved, objective {step.gained:+.4g}"
                advance(note, moved=step.moved, solved=step.solved, gained=step.gained)
        return steps, not stale

    def improve(self, roots: Sequence[str], workers: SideBySide) -> list[tuple[float, int]]:
        """Put root groups, none of which another's gain depends on, and all that they own where they are best.

        Returns:
            For each what that gained, and how many units moved.
        """
        return [found for wave in self._waves(roots) for found in self._improve(wave, workers)]

    def _waves(self, roots: Sequence[str]) -> list[list[str]]:
        """Groups in runs whose gains may be on their way from a GPU together; all in one where they need not travel."""
        waves: list[list[str]] = [[]]
        size = 0
        for root in roots:
            found = [self.gains.uses(name)[0] for name in self.units[root] if self.leaves[name]]
            travels = sum(4 * use.count**2 for use in found if use.a.device.type != "cpu")
            if waves[-1] and size + travels > IN_FLIGHT:
                waves.append([])
                size = 0
            waves[-1].append(root)
            size += travels
        return waves

    def _improve(self, roots: Sequence[str], workers: SideBySide) -> list[tuple[float, int]]:
        # A GPU goes on with the next gains while the assignments of those that have arrived are solved.
        gains: dict[str, dict[Units, Leaving | None]] = {root: {} for root in roots}
        candidates: dict[Units, list[Leaving] | None] = {}
        root_of = {name: root for root in roots for name in self.units[root]}
        for name, gain in self.gains.gains(root_of):
            candidates[name] = self._candidates(name, gain)
            gains[root_of[name]][name] = None if gain is None else Leaving(gain)
        share = workers.share(len(roots))
        for root in roots:
            self.solver(root).threads = share
        tasks = [partial(self._best, root, gains[root], candidates[root]) for root in roots]
        large = any(self.spec.units(root) >= SIDE_BY_SIDE_FROM for root in roots)
        found = workers.run(tasks) if large else [task() for task in tasks]
        return [self._accept(root, *best) for root, best in zip(roots, found, strict=True)]

    def _best(
        self, root: str, gains: Mapping[Units, Leaving | None], candidates: Sequence[Leaving] | None
    ) -> tuple[Choices, float]:
        """The best choices of a root group, once its gains have arrived."""
        here = {name: None if gain is None else gain.arrived().numpy() for name, gain in gains.items()}
        known = None if candidates is None else Candidates(*(part.arrived() for part in candidates))
        return best_choices(self.spec, root, here, self.choices, self.solver(root), self.frozen, known)

    def gains_of(self, groups: Iterable[Units]) -> dict[Units, Gain | None]:
        """Gain matrices of groups with all others where they are, None without entries. Not to be written to."""
        return {name: _on_cpu(gain) for name, gain in self.gains.gains(groups)}

    def _candidates(self, group: Units, gain: Tensor | None) -> list[Leaving] | None:
        """What the next solve of a group need not read, where a GPU has its gain and the solver goes on."""
        if gain is None or not _searches(gain) or not isinstance(group, str) or len(gain) < CANDIDATES_FROM:
            return None
        last = last_solution(self.solver(group)) if self.trees.get(group) == [group] else None
        if last is None:
            return None
        return [Leaving(part) for part in gain_candidates(gain, torch.from_numpy(last.column_duals))]

    def _accept(self, root: str, choices: Choices, gained: float) -> tuple[float, int]:
        # Sums of n * fan_in products are uncertain by about this much; less is no progress.
        if not gained > self.scale[root]:
            return 0.0, 0
        before = {name: self.choices[name] for name in self.trees[root]}
        coupled = root in self.neighbours[root]
        # Where both axes of a parameter move together the gains are a linearisation: look at the objective itself.
        own = self.own_parameters(root) if coupled else set()
        objective = self.objective(own)
        self.choose(root, choices)
        if coupled:
            gained = self.objective(own) - objective
            if not gained > self.scale[root]:
                self.choose(root, before)
                return 0.0, 0
        if len(before) == 1:
            return gained, int((choices[root] != before[root]).sum())
        now, old = flat_choices(self.spec, root, choices), flat_choices(self.spec, root, before)
        return gained, sum(int((now[name] != old[name]).sum()) for name in self.trees[root])

    def objective(self, parameters: Iterable[str] | None = None) -> float:
        """<theta_a, pi(theta_b)> with the choices so far over all parameters (or some), summed in float64."""
        return self.gains.dots(self.a if parameters is None else parameters)

    def index(self, parameter: str, axis: int, still: tuple[str, ...] = ()) -> Tensor | None:
        """The indices that permute an axis now, of all groups but those of roots that are to be still."""
        number = self._numbers[parameter][axis]
        if number is None:
            return None
        key = number, still, self.b[parameter].device
        if key not in self._indices:
            left = {name: self._identity[name] for root in still for name in self.trees[root]}
            index = axis_index(self.spec, parameter, axis, self.choices | left if left else self.choices)
            self._indices[key] = placed(index, key[2])
        return self._indices[key]

    def choose(self, root: str, choices: Choices) -> None:
        """Put a root group and all that it owns elsewhere."""
        self.choices.update(choices)
        for key in list(self._indices):
            number, still, _ = key
            if root not in still and root in self._moved_by[number]:
                del self._indices[key]

    def choose_all(self, choices: Choices) -> None:
        """Put every group elsewhere."""
        for root, tree in self.trees.items():
            self.choose(root, {name: choices[name] for name in tree})

    def solver(self, root: str) -> AssignmentSolver:
        """The solver that goes on from a root group's last assignment."""
        return self.solvers.setdefault(root, AssignmentSolver(maximize=True))


def _searches(gain: Tensor) -> bool:
    """Whether a search costs nothing beside what the solve then saves: on a CPU it reads as much."""
    return gain.device.type != "cpu"


def _on_cpu(gain: Tensor | None) -> Gain | None:
    return None if gain is None else Leaving(gain).arrived().numpy()

"""Many models at once: each in turn laid over the sum of the others, until none moves.

Ainsworth, Hayase, Srinivasa, "Git Re-Basin" (ICLR 2023), algorithm 3. All models are carried into one common frame;
the objective is sum over pairs k < m of <pi_k(theta_k), pi_m(theta_m)>, and with all else held it is linear in one
group of one model. The gain against the others' sum is the sum of the gains between pairs, each taken between the
models as they are: what moves in model k gathers the rows of its own pairs anew, and changes the gains of its
neighbouring groups by the entries that moved, so that no sum of weights is ever kept or corrected.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..._progress import Progress, tracking
from ...assignment import AssignmentSolver
from ...ops.permuted_dot import Overlap
from ...symmetry import Permutations, PermutationSpec
from ...symmetry.views import Units
from .descent import CoordinateDescent, Step
from .nested import Choices, Gain, best_choices, flat_choices, units_at_places
from .operands import Workspace

__all__ = ["ManyDescent"]


class ManyDescent:
    """The state of one search over several models: where each is in the common frame, and gains between all pairs.

    Args:
        spec: bound.
        models: the tensors of each; read, never written.
        names: the parameters that count.
        overlaps: for each pair (k, m) with k < m, norms and inner product of every parameter.
        device: where gains are computed.
        frozen: groups that no model moves; they are in place in all.
        room: as `GainCache` takes it. With 0 no gain and no assignment is kept: memory is that of a few gains of the
            largest group, however many models there are.
    """

    def __init__(
        self,
        spec: PermutationSpec,
        models: Sequence[Mapping[str, Tensor]],
        names: Sequence[str],
        overlaps: Mapping[tuple[int, int], Mapping[str, Overlap]],
        device: torch.device,
        frozen: Collection[str] = (),
        room: int | None = None,
    ) -> None:
        weights, identity = dict.fromkeys(names, 1.0), Permutations.identity(spec)
        here = [{name: model[name].to(device) for name in names} for model in models]
        self.spec, self.count, self.device = spec, len(models), device
        self.frozen, self.keeps = frozenset(frozen), room != 0
        workspace = None if self.keeps else Workspace(come_back=True)
        # Row: the first model's units, column: the second's; its choices carry the second onto the first.
        self.pairs = {
            (k, m): CoordinateDescent(
                spec, here[k], here[m], weights, identity, frozen, device, overlaps[k, m], room, workspace
            )
            for k, m in overlaps
        }
        first = self.pairs[0, 1]
        self.trees, self.units = first.trees, first.units
        self.neighbours, self.leaves = first.neighbours, first.leaves
        self.axis_roots = first.axis_roots
        self.tensors = [first.a, *(self.pairs[0, m].b for m in range(1, self.count))]
        self.order = [root for root, _ in first.outward()]
        self.choices: list[Choices] = [identity.choices for _ in models]
        self.solvers = [{root: AssignmentSolver(maximize=True) for root in spec.roots} for _ in models]

    def begin_at(self, choices: Sequence[Choices]) -> None:
        """Put every model elsewhere."""
        for m, of_model in enumerate(choices):
            self.choices[m].update(of_model)
        for pair in self.pairs:
            for root in self.trees:
                self._relate(pair, root)

    def anchor(self, max_sweeps: int) -> None:
        """Lay every model over the first, by weight matching."""
        for m in range(1, self.count):
            self.pairs[0, m].settle(True, max_sweeps, False)
        self.begin_at([self.choices[0], *(self.pairs[0, m].choices for m in range(1, self.count))])

    def run(self, max_sweeps: int, progress: Progress) -> tuple[list[Step], bool]:
        """Sweep over all groups of all models until nothing can gain alone; the steps, and whether that was reached."""
        every = {(m, root) for m in range(self.count) for root in self.order}
        stale = set(every)
        steps: list[Step] = []
        with tracking(progress, "many models", max_sweeps) as advance:
            while len(steps) < max_sweeps:
                if not stale:
                    stale = {(m, root) for pair in self.pairs for root in self._off(pair) for m in pair}
                    if not stale:
                        break
                began, step = time.perf_counter(), Step()
                for m in range(self.count):
                    for root in self.order:
                        if (m, root) in stale:
                            stale.remove((m, root))
                            gained, moved = self.improve(m, root)
                            step.solved += 1
                            if moved:
                                step.gained += gained
                                step.moved += moved
                                stale |= self.touched(m, root)
                step.seconds = time.perf_counter() - began
                steps.append(step)
                note = f"sweep {len(steps)}: {step.moved} units moved, objective {step.gained:+.4g}"
                advance(note, moved=step.moved, solved=step.solved, gained=step.gained)
        return steps, not stale

    def improve(self, m: int, root: str) -> tuple[float, int]:
        """Put one root group of a model, and all that it owns, where they are best; what it gained, units moved."""
        before = {name: self.choices[m][name] for name in self.trees[root]}
        gains, solver = self.gains(m, root), self.solver(m, root)
        choices, gained = best_choices(self.spec, root, gains, self.choices[m], solver, self.frozen)
        scale = sum(self.pairs[pair].scale[root] for pair in self._pairs_of(m))
        # Sums of n * fan_in products are uncertain by about this much; less is no progress.
        if not gained > scale:
            return 0.0, 0
        coupled = root in self.neighbours[root]
        # Where both axes of a parameter move together the gains are a linearisation: look at the objective itself.
        own = {leaf.parameter for name in self.units[root] for leaf in self.leaves[name]} if coupled else set()
        objective = self.objective(m, own)
        self.place(m, root, choices)
        if coupled:
            gained = self.objective(m, own) - objective
            if not gained > scale:
                self.place(m, root, before)
                return 0.0, 0
        now, old = flat_choices(self.spec, root, choices), flat_choices(self.spec, root, before)
        return gained, sum(int((now[name] != old[name]).sum()) for name in self.trees[root])

    def gains(self, m: int, root: str) -> dict[Units, Gain | None]:
        """For the groups of a tree [places, units of m]: the gain against the sum of the other models as they lie."""
        found: dict[Units, Gain | None] = {}
        places = {k: self._places(k, root) for k in range(self.count) if k != m}
        for name in self.units[root]:
            total: Tensor | None = None
            for pair in self._pairs_of(m):
                gain = self.pairs[pair].gains.gain(name)
                if gain is None:
                    continue
                other = pair[0] if pair[1] == m else pair[1]
                rows = torch.from_numpy(places[other][name]).to(gain.device)
                part = gain.index_select(0, rows) if pair[1] == m else gain.index_select(1, rows).T
                # A copy of it: the next pair's is summed where this one was, if none is kept.
                self.pairs[pair].gains.take_back()
                total = part if total is None else total.add_(part)
            found[name] = None if total is None else np.ascontiguousarray(total.cpu().numpy())
        return found

    def solver(self, m: int, root: str) -> AssignmentSolver:
        """What solves a root group of a model; it goes on from its last assignment, if these are kept."""
        return self.solvers[m][root] if self.keeps else AssignmentSolver(maximize=True)

    def _places(self, m: int, root: str) -> dict[Units, NDArray[np.int64]]:
        """For what a root's gains are of the unit of a model at each place of the common frame."""
        return {name: units_at_places(self.spec, name, self.choices[m]) for name in self.units[root]}

    def place(self, m: int, root: str, choices: Choices) -> None:
        """Put a root group of a model, and all that it owns, elsewhere in the common frame."""
        self.choices[m].update(choices)
        for pair in self._pairs_of(m):
            self._relate(pair, root)

    def objective(self, m: int | None = None, parameters: set[str] | None = None) -> float:
        """The sum over all pairs (or those of one model), over all parameters (or some), in float64."""
        pairs = self.pairs if m is None else self._pairs_of(m)
        return sum(self.pairs[pair].objective(parameters) for pair in pairs)

    def _pairs_of(self, m: int) -> Iterator[tuple[int, int]]:
        return (pair for pair in self.pairs if m in pair)

    def _relate(self, pair: tuple[int, int], root: str) -> None:
        """Tell a pair how its second model lies over its first."""
        onto, moved = (flat_choices(self.spec, root, self.choices[m]) for m in pair)
        relative: Choices = {}
        for name in self.trees[root]:
            flat: NDArray[np.int64] = np.empty_like(moved[name])
            flat[onto[name]] = moved[name]
            relative[name] = (flat % self.spec.sizes[name]).reshape(self.spec.shape(name))
        self.pairs[pair].choose(root, relative)

    def touched(self, m: int, root: str) -> set[tuple[int, str]]:
        """What can gain anew once a group has moved: its neighbours in all models, and itself in the others."""
        moving = self.neighbours[root].intersection(self.order)
        touched = {(other, near) for other in range(self.count) for near in moving}
        return touched | {(other, root) for other in range(self.count) if other != m}

    def _off(self, pair: tuple[int, int]) -> set[str]:
        """Roots of the groups whose corrected gain is not what its parameters say; these are forgotten."""
        of = self.pairs[pair]
        groups = of.gains.off(of.norms)
        for group in groups:
            of.gains.forget(group)
        return {self.leaves[group][0].roots[0] for group in groups}

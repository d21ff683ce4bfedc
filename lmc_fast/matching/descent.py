"""Coordinate descent over permutation groups: one search, from its start to a local optimum."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._progress import Progress, tracking
from ..assignment import AssignmentSolver
from ..symmetry import Permutations, PermutationSpec
from ..symmetry.permutations import axis_index
from ..symmetry.views import Leaf, leaves
from .gains import GainCache, settled_leaves
from .nested import best_choices, flat_choices
from .result import Sweep

__all__ = ["CoordinateDescent"]

Choices = dict[str, NDArray[np.int64]]


class CoordinateDescent:
    """The state of one search: the models' tensors, the choices so far, gains and assignments to go on from.

    Args:
        spec: bound.
        tensors_a, tensors_b: by parameter; read, never written.
        names: the parameters that count.
        start: where to begin.
        device: where gains are computed; None: where model a's tensors are.

    Raises:
        ValueError: weights so large that their products overflow.
    """

    def __init__(
        self,
        spec: PermutationSpec,
        tensors_a: dict[str, Tensor],
        tensors_b: dict[str, Tensor],
        names: Iterable[str],
        start: Permutations,
        device: torch.device | None,
    ) -> None:
        self.spec = spec
        self.a: dict[str, Tensor] = {}
        self.b: dict[str, Tensor] = {}
        for name in names:
            where = tensors_a[name].device if device is None else device
            dtype = torch.promote_types(tensors_a[name].dtype, tensors_b[name].dtype)
            self.a[name] = spec.view(name, tensors_a[name].to(where, dtype))
            self.b[name] = spec.view(name, tensors_b[name].to(where, dtype))
        # ||.|| of each parameter, of a and of b.
        self.norms = [
            {name: float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) for name, tensor in part.items()}
            for part in (self.a, self.b)
        ]
        self.choices: Choices = start.choices
        self.trees = {root: [name for name in spec.groups if spec.root_of(name) == root] for root in spec.roots}
        self.leaves: dict[str, list[Leaf]] = {name: [] for name in spec.groups}
        for root in spec.roots:
            for leaf in leaves(spec, root):
                if leaf.parameter in self.a:
                    self.leaves[leaf.group].append(leaf)
        self.neighbours = self._find_neighbours()
        self.scale = {root: self._find_scale(root) for root in spec.roots}
        self.gains = GainCache(self.a, self.b, self.leaves, self._index)
        self.solvers: dict[str, AssignmentSolver] = {}
        self._indices: dict[tuple[str, int], Tensor] = {}

    def anchor(self) -> None:
        """Start outwards from the fixed axes: settle groups one by one, each by what is settled around it.

        Next comes the group with the largest share of its weights (by norms) in parameters whose other axes are
        fixed or settled. A permutation that was planted in a copy is found in this one pass.
        """
        settled: set[str] = set()
        while len(settled) < len(self.spec.roots):
            shares = {root: self._settled_share(root, settled) for root in self.spec.roots if root not in settled}
            root = max(shares, key=lambda name: shares[name])
            if shares[root] > 0:
                gains = {}
                for name in self.trees[root]:
                    known = settled_leaves(self.leaves[name], self.spec.roots_of, settled)
                    gains[name] = self.gains.partial_gain(known).cpu().numpy() if known else None
                choices, gained = best_choices(self.spec, root, gains, self.choices)
                if gained > 0:
                    self._choose(root, choices)
            settled.add(root)

    def run(self, rng: np.random.Generator, max_sweeps: int, progress: Progress) -> tuple[list[Sweep], bool]:
        """Sweep over stale groups until none is left, not even by gains that are summed anew."""
        stale = set(self.spec.roots)
        history: list[Sweep] = []
        objective = self.objective()
        with tracking(progress, "weight matching", max_sweeps) as advance:
            while len(history) < max_sweeps:
                if not stale:
                    stale = {self.spec.root_of(group) for group in self.gains.forget_corrected()}
                    if not stale:
                        break
                began = time.perf_counter()
                moved = solved = 0
                for position in rng.permutation(len(self.spec.roots)):
                    root = self.spec.roots[position]
                    if root not in stale:
                        continue
                    stale.discard(root)
                    solved += 1
                    gained, change = self.improve(root)
                    if change:
                        objective += gained
                        moved += change
                        stale |= self.neighbours[root]
                history.append(Sweep(objective, moved, solved, time.perf_counter() - began))
                advance(f"sweep {len(history)}: objective {objective:.6g}, {moved} units moved")
        return history, not stale

    def improve(self, root: str) -> tuple[float, int]:
        """Put a root group and all that it owns where they are best; return what that gained and how many moved."""
        tree = self.trees[root]
        gains = {}
        for name in tree:
            gain = self.gains.gain(name)
            gains[name] = None if gain is None else gain.cpu().numpy()
        solver = self.solvers.setdefault(root, AssignmentSolver(maximize=True))
        choices, gained = best_choices(self.spec, root, gains, self.choices, solver)
        # Sums of n * fan_in products are uncertain by about this much; less is no progress.
        if not gained > self.scale[root]:
            return 0.0, 0
        before = {name: self.choices[name] for name in tree}
        coupled = root in self.neighbours[root]
        # Where both axes of a parameter move together the gains are a linearisation: look at the objective itself.
        objective = self.objective() if coupled else 0.0
        self._choose(root, choices)
        if coupled:
            gained = self.objective() - objective
            if not gained > self.scale[root]:
                self._choose(root, before)
                return 0.0, 0
        now, old = flat_choices(self.spec, root, choices), flat_choices(self.spec, root, before)
        return gained, sum(int((now[name] != old[name]).sum()) for name in tree)

    def objective(self) -> float:
        """<theta_a, pi(theta_b)> with the choices so far, summed in float64."""
        total = 0.0
        for name, a in self.a.items():
            b = self.b[name]
            for axis in range(b.ndim):
                index = self._index(name, axis)
                if index is not None:
                    b = b.index_select(axis, index)
            total += float(torch.dot(a.reshape(-1).double(), b.reshape(-1).double()))
        return total

    def _index(self, parameter: str, axis: int) -> Tensor | None:
        if self.spec.axes[parameter][axis].is_fixed:
            return None
        key = (parameter, axis)
        if key not in self._indices:
            index = axis_index(self.spec, parameter, axis, self.choices)
            self._indices[key] = torch.from_numpy(index).to(self.b[parameter].device)
        return self._indices[key]

    def _choose(self, root: str, choices: Choices) -> None:
        self.choices.update(choices)
        for parameter, axis in list(self._indices):
            if root in self.spec.roots_of(parameter)[axis]:
                del self._indices[parameter, axis]

    def _settled_share(self, root: str, settled: set[str]) -> float:
        own = [leaf for name in self.trees[root] for leaf in self.leaves[name]]
        total = sum(self._energy(leaf.parameter) for leaf in own)
        known = settled_leaves(own, self.spec.roots_of, settled)
        return sum(self._energy(leaf.parameter) for leaf in known) / total if total > 0 else 0.0

    def _energy(self, parameter: str) -> float:
        """What a parameter can add to the objective at most."""
        return self.norms[0][parameter] * self.norms[1][parameter]

    def _find_neighbours(self) -> dict[str, set[str]]:
        """For each root group the roots whose gains it changes: those on another axis of one of its parameters."""
        neighbours: dict[str, set[str]] = {root: set() for root in self.spec.roots}
        for parameter in self.a:
            axes = self.spec.roots_of(parameter)
            for i, here in enumerate(axes):
                for j, there in enumerate(axes):
                    if i != j:
                        for root in here:
                            neighbours[root].update(there)
        return neighbours

    def _find_scale(self, root: str) -> float:
        """Rounding of the group's part of the objective: eps * ||A|| * ||B|| over its parameters."""
        parameters = dict.fromkeys(leaf.parameter for name in self.trees[root] for leaf in self.leaves[name])
        # The dtype that the gains are summed in.
        double = any(self.a[name].dtype == torch.float64 for name in parameters)
        numbers = torch.finfo(torch.float64 if double else torch.float32)
        bound = math.prod(math.hypot(*(norms[name] for name in parameters)) for norms in self.norms)
        if not bound < numbers.max:
            raise ValueError(f"the weights of group {root!r} must be smaller: their products overflow {numbers.dtype}")
        exact = all(self.a[name].dtype == torch.float64 for name in parameters)
        return float(torch.finfo(torch.float64 if exact else torch.float32).eps) * bound

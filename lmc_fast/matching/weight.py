"""Weight matching: permutations that bring one model's weights closest to another's.

argmin_pi ||theta_a - pi(theta_b)||^2 = argmax_pi <theta_a, pi(theta_b)>, by coordinate descent over groups
(Ainsworth, Hayase, Srinivasa, "Git Re-Basin", ICLR 2023, algorithm 1). With all other groups held, the objective is
linear in one group's permutation, so that its best choice is a linear assignment problem.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._backend import check_device
from .._checks import check_int, check_type, fail_type
from .._models import Model, check_numbers, check_same_tensors, counted_names, tensors_of
from .._progress import Progress, tracking
from ..ops.gain_matrix import Term, gain_matrix
from ..symmetry import Permutations, PermutationSpec
from ..symmetry.permutations import axis_index
from ..symmetry.views import Leaf, leaves
from .nested import best_choices
from .result import Matching, Sweep

__all__ = ["weight_matching"]

Choices = dict[str, NDArray[np.int64]]


def weight_matching(
    model_a: Model,
    model_b: Model,
    spec: PermutationSpec,
    *,
    init: str | Permutations = "identity",
    max_sweeps: int = 100,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Progress = False,
) -> Matching:
    """Find permutations of model b's units that maximise <theta_a, pi(theta_b)>.

    All weights and biases count, affine parameters of normalisation layers too; running statistics and integer
    buffers do not (they are permuted with their units all the same). A group is solved again only if a neighbour
    moved since. Each step raises the objective, so that the search ends, in a local optimum.

    Args:
        model_a, model_b: modules or state dicts of one architecture, in any mix. Neither is changed.
        spec: what may be permuted; bound to the models here.
        init: where to start: "identity", "random" (by `seed`), or Permutations (not changed).
        max_sweeps: end after so many passes over the groups, converged or not.
        seed: of the order in which groups are visited, and of a random start. Same inputs and same seed, same
            result; the global generators are neither read nor moved.
        device: where gain matrices are computed; None: where model a's tensors are. Assignments are solved on the
            CPU.
        progress: True for a bar, or a function (description, done, total).

    Returns:
        A `Matching`; ``.apply(model_b)`` gives the permuted model.

    Raises:
        TypeError: a model that is neither a module nor a state dict, or another argument of the wrong kind.
        ValueError: models of different shapes, a spec that does not fit them, weights that are not finite or so
            large that their products are not, or an option out of range.
    """
    tensors_a, tensors_b = tensors_of("model_a", model_a), tensors_of("model_b", model_b)
    check_same_tensors("model_b", tensors_b, "model_a", tensors_a)
    check_numbers("model_a", tensors_a)
    check_numbers("model_b", tensors_b)
    check_type("spec", spec, PermutationSpec, "a PermutationSpec")
    check_int("max_sweeps", max_sweeps, 1)
    check_int("seed", seed, 0)
    device = check_device("device", device)
    spec = spec.bind(tensors_a)
    start = _start(init, spec, seed)
    counted = set(counted_names(model_a, tensors_a)) & set(counted_names(model_b, tensors_b))
    names = [name for name in tensors_a if name in counted]
    _check_finite("model_a", tensors_a, names)
    _check_finite("model_b", tensors_b, names)

    began = time.perf_counter()
    descent = _CoordinateDescent(spec, tensors_a, tensors_b, names, start, device)
    history, converged = descent.run(np.random.default_rng(seed), max_sweeps, progress)
    seconds = time.perf_counter() - began
    permutations = Permutations(spec, descent.choices)
    identity = Permutations.identity(spec)
    return Matching(
        permutations=permutations,
        objective=descent.objective(),
        l2_before=_distance(tensors_a, tensors_b, names, identity),
        l2_after=_distance(tensors_a, tensors_b, names, permutations),
        converged=converged,
        history=tuple(history),
        seconds=seconds,
        method="weight matching",
    )


class _CoordinateDescent:
    """The state of one search: the models' tensors, the choices so far, and which groups are stale."""

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
        self.choices: Choices = start.choices
        self.leaves: dict[str, list[Leaf]] = {
            root: [leaf for leaf in leaves(spec, root) if leaf.parameter in self.a] for root in spec.roots
        }
        self.neighbours = self._find_neighbours()
        self.scale = {root: self._find_scale(root) for root in spec.roots}
        self._indices: dict[tuple[str, int], Tensor] = {}

    def run(self, rng: np.random.Generator, max_sweeps: int, progress: Progress) -> tuple[list[Sweep], bool]:
        """Sweep over stale groups until none is left."""
        stale = set(self.spec.roots)
        history: list[Sweep] = []
        with tracking(progress, "weight matching", max_sweeps) as advance:
            while stale and len(history) < max_sweeps:
                began = time.perf_counter()
                moved = solved = 0
                for position in rng.permutation(len(self.spec.roots)):
                    root = self.spec.roots[position]
                    if root not in stale:
                        continue
                    stale.discard(root)
                    solved += 1
                    change = self.improve(root)
                    if change:
                        moved += change
                        stale |= self.neighbours[root]
                objective = self.objective()
                history.append(Sweep(objective, moved, solved, time.perf_counter() - began))
                advance(f"sweep {len(history)}: objective {objective:.6g}, {moved} units moved")
        return history, not stale

    def improve(self, root: str) -> int:
        """Put a root group and all that it owns where they are best; return how many units moved."""
        tree = [name for name in self.spec.groups if self.spec.root_of(name) == root]
        gains = {name: self.gain(root, name) for name in tree}
        choices, gained = best_choices(self.spec, root, gains, self.choices)
        # float32 sums of n * fan_in products are uncertain by about this much; less is no progress.
        if not gained > self.scale[root]:
            return 0
        before = {name: self.choices[name] for name in tree}
        if root in self.neighbours[root]:
            # Both axes of a parameter move together: the gains are a linearisation, so look at the objective itself.
            objective = self.objective()
            self._choose(root, choices)
            if not self.objective() - objective > self.scale[root]:
                self._choose(root, before)
                return 0
        else:
            self._choose(root, choices)
        flat = Permutations(self.spec, self.choices).units
        old = Permutations(self.spec, {**self.choices, **before}).units
        return sum(int((flat(name) != old(name)).sum()) for name in tree)

    def gain(self, root: str, group: str) -> NDArray[np.float64] | None:
        """Gain matrix over all units of `group` from the entries that are its own: [units, units], or None."""
        terms = []
        for leaf in self.leaves[root]:
            if leaf.group != group:
                continue
            indices = [
                self._index(leaf.parameter, axis) if axis != leaf.axis else None
                for axis in range(len(self.spec.axes[leaf.parameter]))
            ]
            indices[leaf.axis : leaf.axis + 1] = [None] * (leaf.added_dims + 1)
            a, b = leaf.view(self.a[leaf.parameter]), leaf.view(self.b[leaf.parameter])
            terms.append(Term(a, b, leaf.unit_dims, tuple(indices)))
        return gain_matrix(terms).cpu().numpy() if terms else None

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
        parameters = dict.fromkeys(leaf.parameter for leaf in self.leaves[root])
        squares = [sum(float(part[name].double().square().sum()) for name in parameters) for part in (self.a, self.b)]
        # The dtype that the gains are summed in.
        double = any(self.a[name].dtype == torch.float64 for name in parameters)
        numbers = torch.finfo(torch.float64 if double else torch.float32)
        bound = math.sqrt(squares[0]) * math.sqrt(squares[1])
        if not bound < numbers.max:
            raise ValueError(f"the weights of group {root!r} must be smaller: their products overflow {numbers.dtype}")
        exact = all(self.a[name].dtype == torch.float64 for name in parameters)
        return float(torch.finfo(torch.float64 if exact else torch.float32).eps) * bound


def _start(init: str | Permutations, spec: PermutationSpec, seed: int) -> Permutations:
    if isinstance(init, Permutations):
        # Checked against this spec: it may have been made for another model.
        return Permutations(spec, init.choices)
    if not isinstance(init, str):
        fail_type("init", "'identity', 'random' or Permutations", init)
    if init == "identity":
        return Permutations.identity(spec)
    if init == "random":
        return Permutations.random(spec, seed)
    raise ValueError(f"init must be 'identity', 'random' or Permutations, got {init!r}")


def _check_finite(argument: str, tensors: dict[str, Tensor], names: Iterable[str]) -> None:
    for name in names:
        if not bool(torch.isfinite(tensors[name]).all()):
            raise ValueError(f"{argument} must have finite weights, but {name!r} holds nan or infinity")


def _distance(
    tensors_a: dict[str, Tensor],
    tensors_b: dict[str, Tensor],
    names: Iterable[str],
    permutations: Permutations,
) -> float:
    """||theta_a - pi(theta_b)|| over the named tensors, summed in float64."""
    total = 0.0
    for name in names:
        a = tensors_a[name].double()
        total += float((a - permutations.apply_to(name, tensors_b[name]).to(a.device).double()).square().sum())
    return math.sqrt(total)

"""Two models as a search looks at them: where each group's units lie, and whose gains depend on whom."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence, Set
from functools import cached_property

import torch
from torch import Tensor

from ..._models import accumulate_dtype
from ...ops.permuted_dot import Overlap
from ...symmetry import PermutationSpec
from ...symmetry.views import Leaf, Units, groups_of, leaves, taken_together
from .sums import squared_norm
from .uses import around

__all__ = ["Layout"]


class Layout:
    """The models' tensors by the spec's axes, and the graph of its groups.

    Args:
        spec: bound.
        tensors_a, tensors_b: by parameter; read, never written.
        weights: how much each parameter counts; those left out or at 0 do not.
        frozen: groups that keep their choice.
        device: where gains are computed; None: where model a's tensors are.
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
        frozen: Collection[str],
        device: torch.device | None,
        norms: Mapping[str, Overlap] | None = None,
    ) -> None:
        self.spec, self.frozen = spec, frozenset(frozen)
        self.a: dict[str, Tensor] = {}
        self.b: dict[str, Tensor] = {}
        for name, weight in weights.items():
            if weight == 0:
                continue
            where = tensors_a[name].device if device is None else device
            dtype = torch.promote_types(tensors_a[name].dtype, tensors_b[name].dtype)
            a = tensors_a[name].to(where, dtype if weight == 1 else accumulate_dtype(dtype))
            self.a[name] = spec.view(name, a if weight == 1 else a * weight)
            self.b[name] = spec.view(name, tensors_b[name].to(where, dtype if weight == 1 else a.dtype))
        # Of the tensors as they are here: a times its weight.
        self.norms = (
            {name: (squared_norm(a), squared_norm(self.b[name])) for name, a in self.a.items()}
            if norms is None
            else {name: (weights[name] ** 2 * norms[name].a, norms[name].b) for name in self.a}
        )
        # What each parameter can add to the objective at most.
        self._most = {name: math.sqrt(math.prod(of)) for name, of in self.norms.items()}
        self.trees = {root: [name for name in spec.groups if spec.root_of(name) == root] for root in spec.roots}
        # Where a root and all that it owns are frozen, there is nothing to visit.
        self.open = [root for root in spec.roots if not self.frozen.issuperset(self.trees[root])]
        self.leaves: dict[Units, list[Leaf]] = {name: [] for name in spec.groups}
        # What a root's gains are of: its groups, and those that lie inside each other.
        self.units: dict[str, list[Units]] = {root: list(tree) for root, tree in self.trees.items()}
        for root in spec.roots:
            for leaf in leaves(spec, root):
                if leaf.parameter in self.a:
                    if leaf.group not in self.leaves:
                        self.leaves[leaf.group] = []
                        self.units[root].append(leaf.group)
                    self.leaves[leaf.group].append(leaf)
        self.axis_roots = {name: spec.roots_of(name) for name in self.a}
        self.neighbours = self._find_neighbours()
        self.scale = {root: self._find_scale(root) for root in spec.roots}

    def outward(self) -> list[tuple[str, dict[Units, list[Leaf]]]]:
        """Root groups from the fixed axes outwards, each with the leaves of its tree that are settled by then.

        Next comes the group with the largest share of its weights (by norms) in parameters whose other axes are
        fixed or settled.
        """
        return self._outward

    @cached_property
    def _outward(self) -> list[tuple[str, dict[Units, list[Leaf]]]]:
        found = []
        settled = set(self.spec.roots) - set(self.open)
        while len(settled) < len(self.spec.roots):
            known = {root: self._settled_leaves(root, settled) for root in self.open if root not in settled}
            root = max(known, key=lambda name: self._share(name, known[name]))
            found.append((root, known[root]))
            settled.add(root)
        return found

    def apart(self, order: Sequence[str]) -> list[list[str]]:
        """The groups in batches, each group in the first that holds none of its neighbours."""
        batches: list[list[str]] = []
        for root in order:
            fits = (batch for batch in batches if self.neighbours[root].isdisjoint(batch))
            batch = next(fits, None)
            if batch is None:
                batches.append([root])
            else:
                batch.append(root)
        return batches

    def known_together(self, root: str, order: Collection[str]) -> tuple[list[str], dict[Units, list[Leaf]]] | None:
        """A root group with those that lie inside it or around it and are not settled yet, if that is known.

        None of them can be told by itself where it shows up beside the others alone. One that is known by itself
        somewhere is settled by that: the others come after it, and gains of several at once are large.

        Args:
            order: the groups so far, this one among them.

        Returns:
            The root groups, and the leaves that are known of them; None where there are no others.
        """
        unsettled = (set(self.open) - set(order)) | {root}
        roots, found = {root}, list(self.units[root])
        for units in found:
            for leaf in self.leaves[units]:
                for other in leaf.beside:
                    if other in unsettled - roots:
                        roots.add(other)
                        found.extend(self.units[other])
        settled = set(self.spec.roots) - unsettled
        if len(roots) == 1 or self._is_known_alone(root, settled):
            return None
        known: dict[Units, dict[Leaf, None]] = {}
        for units in found:
            for leaf in self.leaves[units]:
                whole = taken_together(self.spec, leaf, roots)
                if around(whole, self.axis_roots[whole.parameter]) <= settled:
                    known.setdefault(whole.group, {})[whole] = None
        # What is known of each alone is better taken alone, and the others after that.
        if all(isinstance(units, str) or len({self.spec.root_of(name) for name in units}) == 1 for units in known):
            return None
        return sorted(roots), {units: list(some) for units, some in known.items()}

    def own_parameters(self, root: str) -> set[str]:
        """The parameters that a root group and what it owns show up in."""
        return {leaf.parameter for name in self.units[root] for leaf in self.leaves[name]}

    def sums_of(self, root: str) -> torch.dtype:
        """The dtype whose rounding decides whether a root group gains."""
        exact = all(self.a[name].dtype == torch.float64 for name in self.own_parameters(root))
        return torch.float64 if exact else torch.float32

    def _is_known_alone(self, root: str, settled: Set[str]) -> bool:
        """Whether a root group and all that it owns show up where everything else is settled."""
        known = {
            name
            for units, of in self._settled_leaves(root, settled).items()
            if of
            for name in groups_of(self.spec, units)
        }
        return all(name in known for name in self.trees[root] if self.spec.sizes[name] > 1)

    def _settled_leaves(self, root: str, settled: Set[str]) -> dict[Units, list[Leaf]]:
        return {
            name: [leaf for leaf, roots in zip(self.leaves[name], self._around[name], strict=True) if roots <= settled]
            for name in self.units[root]
        }

    @cached_property
    def _around(self) -> dict[Units, list[frozenset[str]]]:
        """Of every leaf the root groups that are to be settled before it is known."""
        return {
            name: [around(leaf, self.axis_roots[leaf.parameter]) for leaf in of] for name, of in self.leaves.items()
        }

    def _share(self, root: str, known: Mapping[Units, Sequence[Leaf]]) -> float:
        """The part of a group's weights that is in these leaves, by what their parameters can add at most."""
        total, settled = (
            sum(self._most[leaf.parameter] for name in self.units[root] for leaf in of[name])
            for of in (self.leaves, known)
        )
        return settled / total if total > 0 else 0.0

    def _find_neighbours(self) -> dict[str, set[str]]:
        """For each root group the roots whose gains it changes.

        Those on another axis of one of its parameters, and those around it or inside it on the same axis.
        """
        neighbours: dict[str, set[str]] = {root: set() for root in self.spec.roots}
        for parameter in self.a:
            axes = self.axis_roots[parameter]
            for i, here in enumerate(axes):
                for j, there in enumerate(axes):
                    if i != j:
                        for root in here:
                            neighbours[root].update(there)
        for found in self.leaves.values():
            for leaf in found:
                for root in leaf.roots:
                    neighbours[root].update(leaf.beside)
        return neighbours

    def _find_scale(self, root: str) -> float:
        """Rounding of the group's part of the objective: eps * ||A|| * ||B|| over its parameters."""
        parameters = list(dict.fromkeys(leaf.parameter for name in self.units[root] for leaf in self.leaves[name]))
        # The dtype that the gains are summed in.
        double = any(self.a[name].dtype == torch.float64 for name in parameters)
        numbers = torch.finfo(torch.float64 if double else torch.float32)
        bound = math.prod(math.sqrt(sum(self.norms[name][side] for name in parameters)) for side in (0, 1))
        if not bound < numbers.max:
            raise ValueError(f"the weights of group {root!r} must be smaller: their products overflow {numbers.dtype}")
        return float(torch.finfo(self.sums_of(root)).eps) * bound

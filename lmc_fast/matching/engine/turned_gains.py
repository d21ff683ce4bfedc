"""Gains of groups of any kind between two models, the second one moved on all other axes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...symmetry import PermutationSpec
from ...symmetry.kinds import KINDS
from ...symmetry.placing import Run
from ...symmetry.transforms import moved
from ...symmetry.views import Leaf, groups_of
from .trees import Factor, Factors

__all__ = ["TurnedGains"]


class TurnedGains:
    """What gains are summed from.

    Args:
        spec: bound.
        a, b: the models' tensors by parameter, one dimension for each axis of the spec.
        trees: of each root group its name and those of what it owns.
    """

    def __init__(
        self,
        spec: PermutationSpec,
        a: Mapping[str, Tensor],
        b: Mapping[str, Tensor],
        trees: Mapping[str, Sequence[str]],
    ) -> None:
        self.spec, self.a, self.b, self.trees = spec, a, b, trees
        self._order = {name: k for k, name in enumerate(a)}

    def factors(self, leaves: Iterable[Leaf], elements: Mapping[str, Tensor], dtype: torch.dtype) -> Factors:
        """The gains of leaves, of one pair, summed in `dtype`, with model b moved by `elements` around them."""
        found: Factors = {}
        # One parameter after another: of each no more than one copy is in memory.
        each = sorted(
            dict.fromkeys(map(self._whole, leaves)), key=lambda leaf: (self._order[leaf.parameter], leaf.axis)
        )
        last, pair = None, (torch.empty(0), torch.empty(0))
        for leaf in each:
            groups = groups_of(self.spec, leaf.group)
            key = leaf.parameter, leaf.axis, leaf.roots, leaf.beside
            if key != last:
                last, pair = key, (self.a[leaf.parameter].to(dtype), self._moved_around(leaf, elements, dtype))
            left, right = (self._rows(leaf, x) for x in pair)
            if groups in found:
                found[groups].gain.view(len(left), len(left)).addmm_(left, right.T)
            else:
                shape = [size for name in groups for size in (self.spec.sizes[name], self._entries(name))]
                found[groups] = Factor(groups, (left @ right.T).reshape(1, *shape, *shape))
        return found

    def _whole(self, leaf: Leaf) -> Leaf:
        """The leaf, with all entries of a unit whose kind takes them together."""
        if self._entries(leaf.around[-1]) == 1:
            return leaf
        return replace(leaf, tail=Run(0, leaf.levels[-1][3]))

    def _moved_around(self, leaf: Leaf, elements: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """The leaf's parameter of model b with its other axes moved, and its own by the other roots' groups."""
        name, tensor = leaf.parameter, self.b[leaf.parameter].to(dtype)
        others = [axis for axis in range(tensor.ndim) if axis != leaf.axis]
        tensor = moved(self.spec, name, tensor, elements, others)
        if leaf.beside:
            still = {
                member: KINDS[self.spec.groups[member].kind].identity(self.spec.shape(member))
                for root in leaf.roots
                for member in self.trees[root]
            }
            tensor = moved(self.spec, name, tensor, {**elements, **still}, [leaf.axis])
        return tensor

    def _rows(self, leaf: Leaf, tensor: Tensor) -> Tensor:
        """[units and entries of the leaf's groups, columns]."""
        view = leaf.view(tensor)
        # Of each level: dimension 2 * level runs over its views, the next over its units; the tail follows them all.
        tail = leaf.axis + 2 * len(leaf.levels)
        front: list[int] = []
        for level in leaf.turning:
            front.append(leaf.axis + 2 * level + 1)
            if self._entries(leaf.around[level]) > 1:
                # As elements take them: the inner entries, or else those of the views.
                front += [tail, leaf.axis + 2 * level]
        units = 1
        for dim in front:
            units *= view.shape[dim]
        rest = [dim for dim in range(view.ndim) if dim not in front]
        return view.permute(*front, *rest).reshape(units, -1)

    def _entries(self, group: str) -> int:
        return KINDS[self.spec.groups[group].kind].entries

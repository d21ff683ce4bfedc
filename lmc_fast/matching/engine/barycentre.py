"""The mean of all permutations: a relaxed point at which every unit is spread evenly over the places it can go to.

There the gains need no product of two large matrices: an axis that is spread is the same at all its units, so that a
parameter of a is summed over them, one of b is averaged, and what is left to multiply is as narrow as the axis has
kinds of entries.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..._models import accumulate_dtype
from ...ops.gain_matrix import Term, gain_matrix
from ...ops.permuted_dot import permuted_dot
from ...symmetry import PermutationSpec, Segment
from ...symmetry.views import Units, axis_orbits
from .descent import CoordinateDescent
from .nested import Gain, flat_choices

__all__ = ["Barycentre"]


class Barycentre:
    """The mean over all choices of the groups that are not frozen, seen from a search.

    Frozen groups stay as the search has them now; units inside an owner that moves keep their order, as everywhere.

    Args:
        descent: read, not moved.
    """

    def __init__(self, descent: CoordinateDescent) -> None:
        self.descent, self.choices = descent, dict(descent.choices)
        self.open = set(descent.spec.groups) - descent.frozen
        self._orbits: dict[tuple[Segment, ...], tuple[Tensor, int] | None] = {}

    def gain(self, group: str) -> Gain | None:
        """A group's gain matrix with all others spread: [units, units]; None for one without entries."""
        terms = []
        for use in self.descent.gains.uses(group):
            name, own = use.leaf.parameter, use.leaf.axis
            axes = {use.dims[axis]: axis for axis in range(len(use.dims)) if axis != own}
            a, b = self._spread(name, use.a, use.b, axes)
            terms.append(Term(a, b, use.units, (None,) * b.ndim))
        return gain_matrix(terms).cpu().numpy() if terms else None

    def objective(self) -> float:
        """<theta_a, theta_b spread on every axis>, summed in float64."""
        total = 0.0
        for name, a in self.descent.a.items():
            b = self.descent.b[name]
            a, b = self._spread(name, a, b, {axis: axis for axis in range(a.ndim)})
            total += permuted_dot(a, b, (None,) * a.ndim)
        return total

    def value(self, root: str, gains: Mapping[Units, Gain]) -> float:
        """<gains, the spread point> over a root group and all that it owns, in float64."""
        flat = flat_choices(self.descent.spec, root, self.choices)
        return sum(
            _spread_value(gains[name], places, self.descent.spec, name, self.open)
            for name, places in flat.items()
            if name in gains
        )

    def _spread(self, parameter: str, a: Tensor, b: Tensor, axes: Mapping[int, int]) -> tuple[Tensor, Tensor]:
        """a summed and b averaged over the entries of these axes that change places, the rest gathered.

        Args:
            axes: the tensors' dimension -> the parameter's axis.
        """
        dtype = accumulate_dtype(torch.promote_types(a.dtype, b.dtype))
        gathers = self.descent.gains.gathers(parameter)
        for dim, axis in axes.items():
            orbits, index = self._axis_orbits(parameter, axis), gathers[axis]
            # Entries that all change places with each other can be averaged wherever they are.
            if index is not None and (orbits is None or orbits[1] > 1):
                b = b.index_select(dim, index)
            if orbits is not None:
                labels, count = orbits
                sizes = torch.bincount(labels, minlength=count).to(dtype)
                a = _pooled(a, dim, labels, count, dtype)
                b = _pooled(b, dim, labels, count, dtype)
                b = b / sizes.reshape([-1 if other == dim else 1 for other in range(b.ndim)])
        return a.to(dtype), b.to(dtype)

    def _axis_orbits(self, parameter: str, axis: int) -> tuple[Tensor, int] | None:
        """Labels of an axis's entries and how many there are, None where every entry stays."""
        segments = self.descent.spec.axes[parameter][axis].segments
        if segments not in self._orbits:
            labels = axis_orbits(self.descent.spec, segments, self.open)
            count = int(labels.max(initial=-1)) + 1
            device = self.descent.b[parameter].device
            self._orbits[segments] = (torch.from_numpy(labels).to(device), count) if count < labels.size else None
        return self._orbits[segments]


def _pooled(tensor: Tensor, dim: int, labels: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    if count == 1:
        return tensor.sum(dim, keepdim=True, dtype=dtype)
    shape = [count if other == dim else size for other, size in enumerate(tensor.shape)]
    return torch.zeros(shape, dtype=dtype, device=tensor.device).index_add_(dim, labels, tensor.to(dtype))


def _spread_value(
    gain: Gain, flat: NDArray[np.int64], spec: PermutationSpec, group: str, groups: Collection[str]
) -> float:
    """The inner product of a gain [units, units] and the mean permutation matrix of a group, in float64."""
    levels = [group]
    while (owner := spec.groups[levels[0]].owner) is not None:
        levels.insert(0, owner)
    if all(level in groups for level in levels):
        return float(gain.sum(dtype=np.float64)) / flat.size
    shape = spec.shape(group)
    # Rows and columns by place: [levels..., levels...].
    total = gain[:, flat].astype(np.float64).reshape(shape + shape)
    for depth, level in enumerate(levels):
        far = len(levels) - depth
        total = total.sum(axis=(0, far)) / shape[depth] if level in groups else np.trace(total, axis1=0, axis2=far)
    return float(total)

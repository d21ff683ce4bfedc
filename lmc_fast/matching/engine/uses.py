"""Where each group's entries are in both models, as gains are summed over them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..._models import accumulate_dtype
from ...ops.gain_matrix import Term
from ...symmetry.views import Leaf, Units

__all__ = ["IndexOf", "Indices", "Use", "Uses", "around", "dtype_of", "use_of"]

# The indices that permute an axis of a parameter of b now, or None for an axis that stays. Asked with root
# groups as well, those that leave these and all that they own in place.
IndexOf = Callable[..., Tensor | None]
Indices = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Use:
    """A leaf, with its part of both models, and for each axis of the parameter the dimension that it became.

    `whole` is the parameter of b that `b` is a part of.
    """

    leaf: Leaf
    a: Tensor
    b: Tensor
    whole: Tensor
    dims: tuple[int, ...]
    units: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many units the gain has."""
        return math.prod(self.a.shape[dim] for dim in self.units)

    def beside_units(self, indices: Indices) -> list[Tensor | None]:
        """What gathers each dimension of `b` that does not run over the units."""
        gathers: list[Tensor | None] = [None] * self.b.ndim
        for axis, index in enumerate(indices):
            if axis != self.leaf.axis:
                gathers[self.dims[axis]] = index
        return [index for dim, index in enumerate(gathers) if dim not in self.units]

    def term(self, indices: Indices) -> Term:
        """What the leaf adds to the gain, with b's axes gathered; its own by the other roots' groups, if any."""
        gathers: list[Tensor | None] = [None] * self.b.ndim
        for axis, index in enumerate(indices):
            if axis != self.leaf.axis:
                gathers[self.dims[axis]] = index
        own = indices[self.leaf.axis]
        b = self.b if own is None else self.leaf.view(self.whole.index_select(self.leaf.axis, own))
        return Term(self.a, b, self.units, tuple(gathers))


class Uses(dict[Units, list[Use]]):
    """Where each group's entries are, looked at when first asked for: searches in the core ask for none."""

    def __init__(
        self, leaves: Mapping[Units, Sequence[Leaf]], a: Mapping[str, Tensor], b: Mapping[str, Tensor]
    ) -> None:
        super().__init__()
        self._leaves, self._a, self._b = leaves, a, b

    def __missing__(self, group: Units) -> list[Use]:
        found = self[group] = [use_of(leaf, self._a, self._b) for leaf in self._leaves[group]]
        return found


def around(leaf: Leaf, axis_roots: Sequence[Collection[str]]) -> frozenset[str]:
    """The root groups on a leaf's other axes, and beside its units.

    Args:
        axis_roots: of each axis of the leaf's parameter.
    """
    return frozenset(leaf.beside).union(*(roots for axis, roots in enumerate(axis_roots) if axis != leaf.axis))


def use_of(leaf: Leaf, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Use:
    dims = tuple(axis if axis <= leaf.axis else axis + leaf.added_dims for axis in range(b[leaf.parameter].ndim))
    whole = b[leaf.parameter]
    return Use(leaf, leaf.view(a[leaf.parameter]), leaf.view(whole), whole, dims, leaf.unit_dims)


def dtype_of(uses: Iterable[Use]) -> torch.dtype:
    dtype = torch.float32
    for use in uses:
        dtype = torch.promote_types(dtype, accumulate_dtype(use.a.dtype))
    return dtype

"""Gains of small groups on a CPU, where the calls of torch would take longer than what they do.

All that a group's units show up in is laid out once, a row for each unit: A and B, of which the other groups permute
the columns alone. So a gain is one gather and one product, and a correction takes the columns that have moved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..._models import accumulate_dtype
from ...ops.gain_matrix import units_first
from ...symmetry.views import Leaf

__all__ = ["MOST_ENTRIES", "Columns", "columns_of"]

# Entries of one side: the copies are small beside the models, and a product takes no longer than the calls around it.
MOST_ENTRIES = 1 << 19


class Columns:
    """The entries of one group in both models: A and B [units, columns], B with all other groups in place."""

    def __init__(self, a: Tensor, b: Tensor, sizes: Sequence[tuple[int, ...]]) -> None:
        self._a, self._b, self._sizes = a, b, sizes

    def places(self, indices: Sequence[Sequence[Tensor | None]]) -> NDArray[np.int64]:
        """Where each column of the permuted B is in B.

        Args:
            indices: of each leaf what gathers its dimensions that are no units', or None.
        """
        found, start = [], 0
        for sizes, of_axes in zip(self._sizes, indices, strict=True):
            count = math.prod(sizes)
            if all(index is None for index in of_axes):
                found.append(np.arange(start, start + count))
            else:
                place = np.zeros((), dtype=np.int64)
                for size, index in zip(sizes, of_axes, strict=True):
                    if size == 1:
                        continue
                    own = np.arange(size) if index is None else index.numpy()
                    place = (place * size)[..., None] + own
                found.append(place.reshape(-1) + start)
            start += count
        return np.concatenate(found)

    def gain(self, places: NDArray[np.int64], out: Tensor | None) -> Tensor:
        """A @ B[:, places]^T, in `out` if it is given."""
        b = self._b.index_select(1, torch.from_numpy(places))
        return torch.mm(self._a, b.T) if out is None else torch.mm(self._a, b.T, out=out)

    def correct(self, gain: Tensor, old: NDArray[np.int64], new: NDArray[np.int64], moved: NDArray[np.int64]) -> None:
        """Bring a gain of the columns at `old` to those at `new`, which differ where `moved` says."""
        gone, come = (self._b.index_select(1, torch.from_numpy(places[moved])) for places in (old, new))
        gain.addmm_(self._a.index_select(1, torch.from_numpy(moved)), come.sub_(gone).T)


def columns_of(leaves: Sequence[Leaf], a: Sequence[Tensor], b: Sequence[Tensor]) -> Columns | None:
    """The columns of a group; None where they are many, elsewhere than on a CPU, or entangled with other groups'.

    Args:
        leaves: of the group, one at least.
        a, b: each leaf's part of both models, as `Leaf.view` gives it.
    """
    if any(tensor.device.type != "cpu" for tensor in a) or any(leaf.beside for leaf in leaves):
        return None
    if sum(tensor.numel() for tensor in a) > MOST_ENTRIES:
        return None
    dtype = torch.float32
    for one in (*a, *b):
        dtype = torch.promote_types(dtype, accumulate_dtype(one.dtype))
    sizes = [
        tuple(size for dim, size in enumerate(one.shape) if dim not in leaf.unit_dims)
        for leaf, one in zip(leaves, a, strict=True)
    ]
    sides = [
        torch.cat([units_first(one.to(dtype), leaf.unit_dims) for leaf, one in zip(leaves, side, strict=True)], 1)
        for side in (a, b)
    ]
    return Columns(sides[0], sides[1], sizes)

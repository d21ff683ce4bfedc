"""Products on a CPU in memory that is used again: both sides, gathered, cast and put in order in one pass, and sums.

Memory that is new to a process is given to it page by page as it is first written to, which takes longer than the
writing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...ops.gain_matrix import Term
from ...ops.laid_out import laid_out
from .products import Products

__all__ = ["Operands", "Sums", "Workspace"]


class Operands:
    """What products are taken of, one after another."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, torch.dtype], Tensor] = {}

    def sides(self, term: Term, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """A and B [units, entries] of a term without `before`, in `dtype`; they hold until the next call."""
        still = (None,) * term.a.ndim
        return (
            self._side("a", term.a, still, term.units, dtype),
            self._side("b", term.b, term.gathers, term.units, dtype),
        )

    def _side(
        self, side: str, tensor: Tensor, gathers: Sequence[Tensor | None], units: Sequence[int], dtype: torch.dtype
    ) -> Tensor:
        others = [dim for dim in range(tensor.ndim) if dim not in units]
        # Entries that lie in one run stay in one: a product reads its sides turned as well as not.
        long = [dim for dim in range(tensor.ndim) if tensor.shape[dim] > 1]
        turned = min(long, key=tensor.stride, default=None) in units
        order = [*others, *units] if turned else [*units, *others]
        moved, at = tensor.permute(order), [gathers[dim] for dim in order]
        # A part of a term gathers fewer entries than there are.
        sizes = [size if index is None else len(index) for size, index in zip(moved.shape, at, strict=True)]
        if tensor.dtype != dtype or any(index is not None for index in at):
            moved = laid_out(moved, at, dtype, out=self._memory(side, sizes, dtype))
        count = math.prod(tensor.shape[dim] for dim in units)
        entries = math.prod(sizes[: -len(units)] if turned else sizes[len(units) :])
        return moved.reshape(entries, count).T if turned else moved.reshape(count, entries)

    def _memory(self, side: str, sizes: Sequence[int], dtype: torch.dtype) -> Tensor:
        held, needed = self._held.get((side, dtype)), math.prod(sizes)
        if held is None or held.numel() < needed:
            # The old one goes first.
            self._held.pop((side, dtype), None)
            held = self._held[side, dtype] = torch.empty(needed, dtype=dtype)
        return held[:needed].view(sizes)


class Sums:
    """Matrices to sum products in, a few at a time.

    Args:
        come_back: whether `take_back` is called when those given out so far are used no more: the largest of them
            then serves for the next ones.
    """

    def __init__(self, come_back: bool) -> None:
        self._come_back = come_back
        self._spare: Tensor | None = None
        # The largest of those that are out; the others go when nobody holds them.
        self._lent: Tensor | None = None

    def empty(self, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """[count, count] of anything."""
        if not self._come_back or device.type != "cpu":
            return torch.empty(count, count, dtype=dtype, device=device)
        held = self._spare
        if held is not None and held.dtype == dtype and held.numel() >= count * count:
            self._spare = None
        else:
            held = torch.empty(count * count, dtype=dtype)
        if self._lent is None or held.nbytes > self._lent.nbytes:
            self._lent = held
        return held[: count * count].view(count, count)

    def take_back(self) -> None:
        """Nobody looks at what was given out any more."""
        held = [one for one in (self._lent, self._spare) if one is not None]
        self._spare = max(held, key=lambda one: one.nbytes, default=None)
        self._lent = None


class Workspace:
    """Where gains are summed, by one search after another or by several that take turns.

    Args:
        come_back: as `Sums` takes it.
        by_rows: as `Products` takes it.
    """

    def __init__(self, come_back: bool, by_rows: bool = False) -> None:
        self.operands, self.sums, self.products = Operands(), Sums(come_back), Products(by_rows)

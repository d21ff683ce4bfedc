"""Terms of a gain in pieces that fit a CPU's caches, and how they are added."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from ...ops.gain_matrix import Term, gain_matrix
from .operands import Workspace
from .uses import Indices, Use

__all__ = ["COLUMNS", "PIECE", "added", "at_once", "corrections", "pieces"]

# On a CPU an operand is a copy: of this many entries at a time, but of so many columns that the product does not spend
# its time on reading and writing the gain.
PIECE = 1 << 21
COLUMNS = 512


def at_once(tensor: Tensor) -> bool:
    """Whether terms are gathered as they are read, as a GPU's kernels do; on a CPU each of them needs a copy."""
    return tensor.device.type != "cpu"


def added(
    terms: Iterable[Term], gain: Tensor, workspace: Workspace, is_new: bool, told: Callable[[float], None]
) -> Tensor:
    """The gain with all terms added in place; to nothing, if it is new."""
    if at_once(gain):
        every = list(terms)
        gain = gain.zero_() if is_new else gain
        return gain_matrix(every, gain) if every else gain
    for term in terms:
        if term.before is not None:
            gain = gain_matrix([term], gain)
            continue
        a, b = workspace.operands.sides(term, gain.dtype)
        workspace.products.add(gain, a, b, is_new)
        is_new = False
        told(2.0 * len(a) * a.shape[1] * len(b))
    return gain.zero_() if is_new else gain


def corrections(use: Use, axis: int, before: Indices, now: Indices, moved: Tensor) -> Iterator[Term]:
    """What the entries of one axis that have moved add, and what they added where they were."""
    dim = use.dims[axis]
    term, gone = use.term(now), use.term(before)
    for some in torch.split(moved, _length(use.a, dim)):
        gathers = [list(places) for places in (term.gathers, gone.gathers)]
        for places in gathers:
            index = places[dim]
            assert index is not None
            places[dim] = index[some]
        yield Term(term.a.index_select(dim, some), term.b, use.units, tuple(gathers[0]), tuple(gathers[1]))


def pieces(term: Term) -> Iterator[Term]:
    """The term in parts whose gathered copies are small."""
    others = [dim for dim in range(term.a.ndim) if dim not in term.units]
    if not others:
        yield term
        return
    dim = max(others, key=lambda other: term.a.shape[other])
    size, length = term.a.shape[dim], _length(term.a, dim, term.entry_count() // max(1, term.a.shape[dim]))
    for start in range(0, size, length):
        part = min(length, size - start)
        index = term.gathers[dim]
        gathers = list(term.gathers)
        gathers[dim] = None if index is None else index.narrow(0, start, part)
        b = term.b.narrow(dim, start, part) if index is None else term.b
        yield Term(term.a.narrow(dim, start, part), b, term.units, tuple(gathers))


def _length(tensor: Tensor, dim: int, columns: int = COLUMNS) -> int:
    """How many entries of a dimension to gather at a time, of which each is so many columns of the operand."""
    size = tensor.shape[dim]
    if at_once(tensor):
        return max(1, size)
    return max(1, PIECE * size // max(1, tensor.numel()), COLUMNS // max(1, columns))

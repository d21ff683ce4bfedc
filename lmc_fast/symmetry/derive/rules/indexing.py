"""Entries looked up by number: what is numbered stays in its order."""

from __future__ import annotations

from torch.fx import Node

from ..look import Dims, Look, rule

__all__ = ["embedding"]

NUMBERED = "looked up by number"


@rule("aten.embedding")
def embedding(look: Look) -> Dims:
    """[entries, n], indices [...] -> [..., n]."""
    weight, indices = look.dims("weight"), look.dims("indices")
    look.pin([weight[0]], NUMBERED)
    return [*indices, weight[1]]


@rule("aten.index_select", "aten.gather", "aten.take_along_dim")
def looked_up(look: Look) -> Dims:
    """[..., n, ...] -> [..., k, ...]: n is pinned."""
    dims, index = look.dims("self"), look.dims("index")
    dim = look.dim("dim", len(dims))
    look.pin([dims[dim]], NUMBERED)
    if look.name == "aten.index_select":
        return [look.told(look.shape[dim], NUMBERED) if d == dim else each for d, each in enumerate(dims)]
    return [
        each if d == dim else look.same(each, dims[d]) if each.size == dims[d].size else each
        for d, each in enumerate(index)
    ]


@rule("aten.index")
def index(look: Look) -> Dims:
    """[n, ...] at lists of numbers -> [k, ...]: dimensions that are indexed are pinned, others stay."""
    dims = look.dims("self")
    given = list(look["indices"]) + [None] * (len(dims) - len(look["indices"]))
    used = [d for d, each in enumerate(given) if isinstance(each, Node)]
    look.pin([dims[d] for d in used], NUMBERED)
    if used and used != list(range(used[0], used[-1] + 1)):
        return look.all_pinned(NUMBERED)[0]
    picks = look.broadcast(look.of(given[d]) for d in used)
    return [*dims[: used[0]], *picks, *dims[used[-1] + 1 :]] if used else dims

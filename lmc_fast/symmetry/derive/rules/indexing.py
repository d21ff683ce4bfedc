"""Entries looked up by number: what is numbered stays in its order, unless the numbers go with the units."""

from __future__ import annotations

from dataclasses import replace

from torch.fx import Node

from ..look import Dims, Look, Numbers, rule
from .shapes import run_of

__all__ = ["embedding"]

NUMBERED = "looked up by number"
MASKED = "chosen by a mask"


@rule("aten.embedding", reads=True)
def embedding(look: Look) -> Dims:
    """[entries, n], indices [...] -> [..., n]."""
    weight, indices = look.dims("weight"), look.dims("indices")
    look.unread(look["weight"])
    look.pick(weight[0], look["indices"], NUMBERED)
    return [*indices, weight[1]]


@rule("aten.index_select", "aten.gather", "aten.take_along_dim", reads=True)
def looked_up(look: Look) -> Dims:
    """[..., n, ...] -> [..., k, ...] at places of n."""
    places = look["indices"] if look.name == "aten.take_along_dim" else look["index"]
    dims, index = look.dims("self"), look.of(places)
    if look["dim"] is None:
        return look.all_pinned(NUMBERED)[0]
    look.unread(look["self"])
    dim = look.dim("dim", len(dims))
    look.pick(dims[dim], places, NUMBERED)
    if look.name == "aten.index_select":
        return [*dims[:dim], *index, *dims[dim + 1 :]]
    look.mixed(dims, dim)
    result: Dims = []
    for d, (each, own) in enumerate(zip(index, dims, strict=True)):
        if d == dim or each.size == own.size:
            result.append(each if d == dim else look.same(own, each))
        elif look.name == "aten.take_along_dim":
            result.append(look.same(own, each))
        else:
            # Of the first of them.
            look.pin([own, each], NUMBERED)
            result.append(each)
    return result


@rule("aten.index", reads=True)
def index(look: Look) -> Dims:
    """[n, ...] at lists of numbers -> [k, ...]: at places of the dimensions that are indexed; others stay.

    A list of numbers that follow each other, written in the code, is a run."""
    dims = look.dims("self")
    given = list(look["indices"]) + [None] * (len(dims) - len(look["indices"]))
    used = [d for d, each in enumerate(given) if isinstance(each, Node)]
    if any(given[d].meta["val"].dtype.itemsize == 1 for d in used) or used != list(range(used[0], used[-1] + 1)):
        mask = look.of(given[used[0]])
        if len(used) > 1 or not used[0] + len(mask) <= len(dims):
            return look.all_pinned(NUMBERED)[0]
        look.unread(*look.tensors())
        end = used[0] + len(mask)
        look.pin([*dims[used[0] : end], *mask], MASKED)
        return [*dims[: used[0]], look.told(look.shape[used[0]], MASKED), *dims[end:]]
    run = look.run(given[used[0]], dims[used[0]].size) if len(used) == 1 else None
    if run is not None and look.numbers(look["self"]) is None:
        return run_of(look, look["self"], used[0], *run)
    for d in used:
        look.pick(dims[d], given[d], NUMBERED)
    picks = look.broadcast(look.of(given[d]) for d in used)
    result = [*dims[: used[0]], *picks, *dims[used[-1] + 1 :]]
    numbers = look.numbers(look["self"])
    if numbers is not None:
        source = object()
        look.gives[0] = replace(numbers, dims=result, source=source, among=source, is_order=False, is_sorted=False)
    return result


@rule("aten.scatter", "aten.scatter_add", "aten.scatter_reduce", "aten.index_add", "aten.index_copy", reads=True)
def scattered(look: Look) -> Dims:
    """[..., n, ...] with entries of another value written to, or added at, places of n."""
    dims, index = look.dims("self"), look.dims("index")
    dim = look.dim("dim", len(dims))
    source = look["src"] if look.has("src") else look["source"]
    look.unread(look["self"], source)
    look.pick(dims[dim], look["index"], NUMBERED)
    values = look.of(source)
    if look.name in ("aten.index_add", "aten.index_copy"):
        # [..., k, ...] to the k places that the index names.
        if values:
            look.same(values[dim], index[0])
        index = [index[0] if d == dim else each for d, each in enumerate(values or dims)]
        values = []
    for of in (index, values):
        for d, (each, own) in enumerate(zip(of, dims, strict=False)):
            if d != dim and each.size == own.size:
                look.same(own, each)
            elif d != dim:
                look.pin([each, own], NUMBERED)
    if values:
        for one, other in zip(index, values, strict=True):
            look.same(one, other) if one.size == other.size else look.pin([one, other], NUMBERED)
    look.inside.append([*dims[:dim], *index[dim : dim + 1], *dims[dim + 1 :]])
    look.mixed(dims, dim)
    look.looked_up.clear()
    return dims


@rule("aten.index_put", reads=True)
def put(look: Look) -> Dims:
    """[n, ...] with values written to places of n."""
    dims, places, values = look.dims("self"), look["indices"], look["values"]
    if len(places) == 1 and isinstance(places[0], Node) and places[0].meta["val"].dtype.itemsize == 1:
        return _put_by_mask(look, dims)
    numbers = look.numbers(places[0])
    if len(places) != 1 or numbers is None or numbers.kind != "unit" or len(look.of(places[0])) != 1:
        return look.all_pinned("written over in part")[0]
    look.unread(look["self"])
    look.pick(dims[0], places[0], NUMBERED)
    rows, carried = look.of(places[0]), look.numbers(values)
    given = look.of(values)
    look.broadcast([[*rows, *dims[1:]], given])
    look.mixed(dims, 0)
    if carried is None:
        return dims
    if numbers.is_order and len(dims) == 1 and carried.kind == "unit":
        # Every place is written to: of an order and the numbers in turn, where each one stands in it.
        look.gives[0] = Numbers(carried.of, dims, carried.why, object(), carried.among, is_order=carried.is_order)
    else:
        look.unread(values)
    return dims


def _put_by_mask(look: Look, dims: Dims) -> Dims:
    """[places..., n] with values [k, n], [n] or [] written to the k places of a mask [places...]."""
    mask, values = look.of(look["indices"][0]), look.of(look["values"])
    look.unread(*look.tensors())
    ahead, kept = dims[: len(mask)], dims[len(mask) :]
    own = max(0, len(values) - len(kept))
    look.pin([*ahead, *mask, *values[:own]], MASKED)
    look.mixed(dims, *range(len(mask)))
    return [*ahead, *look.broadcast([kept, values[own:]])]


@rule("aten.floor_divide", reads=True)
def divided(look: Look) -> Dims:
    """[...] by [...], entry by entry; the numbers of pairs by how many there are of the second."""
    node = look.tensors()[0]
    dims, given, by = look.of(node), look.numbers(node), look["other"]
    if given is not None and given.kind == "unit" and isinstance(by, int) and given.of.size % by == 0 < by:
        first = look.terms.atom(given.of.size // by)
        look.terms.unify(given.of, look.terms.product([first, look.terms.atom(by)]), look.why("pairs of numbers"))
        source = object()
        look.gives[0] = Numbers(first, dims, given.why, source, source)
        return dims
    look.unread(*look.tensors())
    return look.broadcast(look.of(each) for each in look.tensors())

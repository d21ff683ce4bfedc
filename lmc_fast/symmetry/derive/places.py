"""Where the units of a dimension come to lie, as values are laid out anew: dimensions followed through a graph."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Node

from .look import packet_name

__all__ = [
    "SAME",
    "SHAPED",
    "VIEWS",
    "Place",
    "after_shape",
    "has_own",
    "letter",
    "onward",
    "origin",
    "shape_of",
    "written",
]

SAME = (
    *("aten._to_copy", "aten.clone", "aten.alias", "aten.detach", "aten.contiguous", "aten.dropout", "aten.to"),
    *("aten.lift_fresh_copy", "aten.native_dropout", "aten.type_as"),
)
VIEWS = ("aten.view", "aten.reshape", "aten._unsafe_view", "aten.flatten", "aten.unflatten", "aten.view_copy")
SHAPED = (*VIEWS, "aten.unsqueeze", "aten.squeeze")
ORDERED = ("aten.transpose", "aten.permute", "aten.t", "aten.numpy_T", "aten.mT")
RUNS = ("aten.slice", "aten.narrow", "aten.repeat_interleave")
PICKED = ("aten.index", "aten.index_select", "aten.select", "aten.slice")
SEVERAL = ("aten.split", "aten.split_with_sizes", "aten.chunk", "aten.unbind", "aten.tensor_split")


@dataclass(frozen=True)
class Place:
    """Where n units lie: on a dimension, from `offset` on, as a view (outer, n, inner)."""

    dim: int
    offset: int = 0
    outer: int = 1
    inner: int = 1


def shape_of(node: Any) -> list[int]:
    """A value's shape; of several results that of the first."""
    value = node.meta.get("val") if isinstance(node, Node) else None
    value = value[0] if isinstance(value, (list, tuple)) else value
    return [int(size) for size in value.shape] if isinstance(value, torch.Tensor) else []


def _argument(node: Node, place: int, name: str, default: Any = None) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def after_shape(place: Place, before: Sequence[int], after: Sequence[int]) -> Place | None:
    """The place after a view; None where units are cut apart, or lie in no such view."""
    ahead, size = math.prod(before[: place.dim]), before[place.dim]
    start = 1
    for dim, length in enumerate(after):
        if start == ahead and length == size:
            return replace(place, dim=dim)
        if start * length > ahead and ahead % start == 0:
            outer = ahead // start
            if place.offset or length % (outer * size):
                return None
            return Place(dim, 0, place.outer * outer, place.inner * (length // (outer * size)))
        start *= length
    return None


def has_own(node: Any, dim_from_last: int) -> bool:
    """Whether a value has a dimension of more than one entry there, counted from the last."""
    shape = shape_of(node)
    return dim_from_last < len(shape) and shape[-1 - dim_from_last] != 1


def onward(user: Node, node: Node, place: Place, *, is_affine: bool) -> list[tuple[Node, Place]] | None:
    """The results of an operation that lays a value's units out anew, or sums what is alike; None of any other.

    Args:
        user: the operation.
        node: the value that goes in.
        place: where its units lie.
        is_affine: whether a constant along the units has to come out as it went in: then nothing is scaled or summed.
    """
    name = packet_name(user.target)
    if user.target is operator.getitem or name == "getitem":
        return [(user, place)]
    if name in ("aten.cat", "aten.concat"):
        return _joined(user, node, place)
    if not user.args or user.args[0] is not node:
        if name in ("aten.mul", "aten.multiply") and not is_affine:
            return _scaled(user, node, place)
        return None
    before, after = shape_of(node), shape_of(user)
    found: Place | None = None
    if name in SAME:
        found = place
    elif name in SHAPED:
        found = after_shape(place, before, after)
    elif name in ORDERED:
        found = replace(place, dim=_order(user, len(before)).index(place.dim))
    elif name in ("aten.expand", "aten.broadcast_to", "aten.expand_as", "aten.repeat"):
        dim = place.dim + len(after) - len(before)
        found = replace(place, dim=dim) if after[dim] == before[place.dim] else None
    elif name in RUNS:
        dim = _argument(user, 2 if name == "aten.repeat_interleave" else 1, "dim", 0)
        is_whole = dim is not None and (dim % len(before) != place.dim or after == before)
        found = place if is_whole else None
    elif name in SEVERAL:
        dim = _argument(user, 1 if name == "aten.unbind" else 2, "dim", 0) % len(before)
        if dim == place.dim:
            return None
        kept = place if name != "aten.unbind" or dim > place.dim else replace(place, dim=place.dim - 1)
        return [step for each in user.users for step in onward(each, user, kept, is_affine=is_affine) or []]
    elif name in ("aten.select", "aten.index_select"):
        dim = _argument(user, 1, "dim", 0) % len(before)
        gone = name == "aten.select" and dim < place.dim
        found = None if dim == place.dim else replace(place, dim=place.dim - int(gone))
    elif name == "aten.index":
        found = _indexed(user, place, before, after)
    elif name == "aten.mean" or (name == "aten.sum" and not is_affine):
        found = _reduced(user, place, before, after)
    elif name in ("aten.mul", "aten.multiply", "aten.div", "aten.divide", "aten.neg") and not is_affine:
        return _scaled(user, node, place)
    return None if found is None else [(user, found)]


def _order(user: Node, rank: int) -> list[int]:
    """For each dimension of the result the one that it was."""
    name = packet_name(user.target)
    order = list(range(rank))
    if name == "aten.permute":
        given: Any = user.args[1]
        return [d % rank for d in given]
    if name == "aten.numpy_T":
        return order[::-1]
    one, other = (_argument(user, 1, "dim0"), _argument(user, 2, "dim1")) if name == "aten.transpose" else (-2, -1)
    if rank > 1:
        order[one % rank], order[other % rank] = other % rank, one % rank
    return order


def _joined(user: Node, node: Node, place: Place) -> list[tuple[Node, Place]] | None:
    """Units beside others on one dimension."""
    parts: Any = user.args[0]
    rank = len(shape_of(node))
    if _argument(user, 1, "dim", 0) % rank != place.dim:
        return None
    found, start = [], 0
    for part in parts:
        if part is node:
            found.append((user, replace(place, offset=place.offset + start)))
        start += shape_of(part)[place.dim]
    return found


def _indexed(user: Node, place: Place, before: Sequence[int], after: Sequence[int]) -> Place | None:
    given: Any = user.args[1]
    used = [d for d, each in enumerate(given) if each is not None]
    if place.dim in used or used != list(range(used[0], used[-1] + 1)):
        return None
    return place if place.dim < used[0] else replace(place, dim=place.dim + len(after) - len(before))


def _reduced(user: Node, place: Place, before: Sequence[int], after: Sequence[int]) -> Place | None:
    given: Any = _argument(user, 1, "dim")
    gone = {d % len(before) for d in ([given] if isinstance(given, int) else given or range(len(before)))}
    if place.dim in gone:
        return None
    return place if len(after) == len(before) else replace(place, dim=place.dim - sum(d < place.dim for d in gone))


def _scaled(user: Node, node: Node, place: Place) -> list[tuple[Node, Place]] | None:
    """All units times the same."""
    others = [each for each in user.args if isinstance(each, Node) and each is not node]
    from_last = len(shape_of(node)) - 1 - place.dim
    if list(user.args).count(node) > 1 or any(has_own(other, from_last) for other in others):
        return None
    return [(user, replace(place, dim=len(shape_of(user)) - 1 - from_last))]


def origin(node: Any, dim: int) -> tuple[Node, int] | None:
    """The input of the graph that a value is laid out from, and the dimension of that which this one is, whole."""
    while isinstance(node, Node):
        if node.op == "placeholder":
            return node, dim
        source: Any = node.args[0] if node.args else None
        if not isinstance(source, Node) or node.op != "call_function":
            return None
        before = shape_of(source)
        dims = [d for d in range(len(before)) if dict(_steps(node, source, d)).get(node) == Place(dim)]
        if len(dims) != 1:
            return None
        node, dim = source, dims[0]
    return None


def _steps(node: Node, source: Node, dim: int) -> Iterator[tuple[Node, Place]]:
    if packet_name(node.target) in (
        *SAME,
        *SHAPED,
        *ORDERED,
        "aten.index",
        "aten.index_select",
        "aten.select",
        "aten.slice",
    ):
        yield from onward(node, source, Place(dim), is_affine=True) or []


def written(user: Node, node: Node, place: Place) -> list[tuple[Node, Place]] | None:
    """Where what is added along a dimension comes to lie after an operation: nowhere after a LayerNorm over it; None
    where it comes to count."""
    name, args = packet_name(user.target), user.args
    rank, after = len(shape_of(node)), shape_of(user)
    times = list(args).count(node)
    last = Place(len(after) - 1)
    if user.op != "call_function" or times > 1:
        return None
    if "layer_norm" in name:
        shape: Any = args[1]
        is_whole = len(shape) == 1 and place == Place(rank - 1) and args[0] is node
        return [] if is_whole else None
    if name in ("aten.add", "aten.sub"):
        return [(user, Place(len(after) - rank + place.dim))] if place == Place(place.dim) else None
    if name == "aten.linear" and args[0] is not node:
        return [(user, last)] if place == Place(0) else None
    if name == "aten.addmm" and args[1] is not node:
        return [(user, last)] if place == Place(rank - 1) else None
    if name in ("aten.matmul", "aten.mm") and args[1] is node and rank == 2:
        return [(user, last)] if place == Place(1) else None
    if name == "aten.embedding":
        return [(user, last)] if place == Place(1) and args[0] is node else None
    if name in ("aten.conv1d", "aten.conv2d", "aten.conv3d") and args[0] is not node:
        kernel = len(shape_of(args[1])) - 2
        return [(user, Place(len(after) - kernel - 1))] if place == Place(0) else None
    if name in ("aten.cat", "aten.concat"):
        dim: Any = args[1] if len(args) > 1 else 0
        return [(user, place)] if dim % rank != place.dim else None
    return onward(user, node, place, is_affine=False)


def letter(user: Node, node: Node, place: Place) -> tuple[Any, int]:
    """Of an einsum the other factor, and its axis with the letter that is summed over; (None, 0) where it is none."""
    tensors: Any = user.args[1]
    sides = str(user.args[0]).replace(" ", "").split("->")
    given = sides[0].split(",")
    if len(tensors) != 2 or len(sides) != 2 or "." in sides[0] or tensors[0] is tensors[1]:
        return None, 0
    own = 0 if tensors[0] is node else 1
    letter = given[own][place.dim]
    if letter in sides[1] or given[1 - own].count(letter) != 1 or given[own].count(letter) != 1:
        return None, 0
    return tensors[1 - own], given[1 - own].index(letter)

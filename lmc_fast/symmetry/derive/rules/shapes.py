"""Other views of the same entries."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

from torch.fx import Node

from ..look import Dims, Look, bound, packet_name, rule
from ..terms import Term

__all__ = ["VIEWS", "is_cut", "piece", "run_of", "view"]

VIEWS = (
    *("aten.view", "aten.reshape", "aten._unsafe_view", "aten.flatten", "aten.unflatten", "aten.ravel"),
    *("aten.reshape_as", "aten.view_as", "aten.view_copy"),
)


@rule(*VIEWS, carries=True)
def view(look: Look) -> Dims:
    """[a, b * c] -> [a * b, c] and the like: dimensions in order, cut and joined anew."""
    if is_cut(look, look.node):
        # Each of its runs is seen for itself: there the units behind them are its own.
        return [look.terms.atom(size) for size in look.shape]
    return regrouped(look, look.of(look.tensors()[0]), look.shape)


def regrouped(look: Look, dims: Dims, shape: list[int]) -> Dims:
    """The same entries in order with another shape."""
    terms = look.terms
    if [dim.size for dim in dims] == shape:
        return dims
    made = [terms.atom(size) for size in shape]
    if 0 not in shape:
        _take_apart(look, dims, shape)
        terms.unify(terms.product(dims), terms.product(made), look.why("cut where units end in no common way"))
    return made


def _take_apart(look: Look, dims: Dims, shape: list[int]) -> None:
    """Values laid end to end, and now taken as rows of which each is one of them, keep units of their own."""
    starts = {math.prod(shape[:k]): size for k, size in enumerate(shape) if size > 1}
    for k, dim in enumerate(dims):
        count = starts.get(math.prod(each.size for each in dims[:k]), 1)
        if 1 < count < dim.size:
            look.terms.apart(dim, count, look.why("each is another value"))


def is_cut(look: Look, node: Node) -> bool:
    """Whether a value is a view that splits a dimension and is used in runs along the first of its parts alone."""
    node = _whole(node)
    if packet_name(node.target) not in VIEWS or look.numbers(node.args[0]) is not None:
        return False
    along = {_cut_along(look, user, node) for user in _users(node)}
    (dim, *others) = along or {None}
    return dim is not None and not others and 0 not in _shape(node) and len(_split_off(node, dim)) > 1


def _whole(node: Node) -> Node:
    """A value of which a node holds all: older torch slices every dimension that is not indexed from end to end."""
    while packet_name(node.target) == "aten.slice" and _shape(node) == _shape(node.args[0]):
        node = cast(Node, node.args[0])
    return node


def _users(node: Node) -> Iterator[Node]:
    """Operations that use a value, or all of it."""
    for user in node.users:
        if _whole(user) is user:
            yield user
        else:
            yield from _users(user)


def _cut_along(look: Look, user: Node, node: Node) -> int | None:
    """The dimension of a value along which an operation takes a run, or several; None for any other."""
    name, given, shape = packet_name(user.target), bound(user), _shape(node)
    if name == "aten.slice":
        is_run = given["step"] == 1 and not any(isinstance(given[side], Node) for side in ("start", "end"))
        return int(given["dim"]) % len(shape) if is_run else None
    if name == "aten.index":
        at = [d for d, each in enumerate(given["indices"]) if each is not None]
        return at[0] if len(at) == 1 and look.run(given["indices"][at[0]], shape[at[0]]) is not None else None
    return None


def _split_off(node: Node, dim: int) -> range:
    """Of a view the dimensions that were split off one together, from this one on."""
    shape, before = _shape(node), _shape(node.args[0])
    # Where both shapes have come to the same number of entries.
    ends = {math.prod(before[: k + 1]) for k in range(len(before))}
    last = next(k for k in range(dim, len(shape)) if math.prod(shape[: k + 1]) in ends)
    return range(dim, last + 1)


def _shape(node: Any) -> list[int]:
    return [int(size) for size in node.meta["val"].shape]


def run_of(look: Look, node: Node, dim: int, start: int, length: int) -> Dims:
    """Entries of a value in a run along a dimension."""
    if not is_cut(look, node):
        dims = look.of(node)
        dims[dim] = piece(look, dims[dim], start, length)
        return dims
    node = _whole(node)
    shape, split = _shape(node), _split_off(node, dim)
    behind = [shape[d] for d in split[1:]]
    unit = math.prod(behind)
    dims = regrouped(look, look.of(node.args[0]), [*shape[:dim], shape[dim] * unit, *shape[split.stop :]])
    run = piece(look, dims[dim], start * unit, length * unit)
    made = [look.terms.atom(size) for size in (length, *behind)]
    look.terms.unify(run, look.terms.product(made), look.why("cut where units end in no common way"))
    return [*dims[:dim], *made, *dims[dim + 1 :]]


def piece(look: Look, term: Term, start: int, length: int) -> Term:
    """A run of units."""
    atoms = look.terms.atoms(term)
    if atoms and all(atom.pin for atom in atoms):
        # Nothing is learnt from cutting what stays anyway.
        return look.terms.atom(length, atoms[0].pin)
    why = look.why("cut within a unit")
    _, rest = look.terms.cut(term, start, why)
    return look.terms.cut(rest, length, why)[0]


@rule("aten.permute", "aten.numpy_T", "aten.permute_copy", carries=True)
def permute(look: Look) -> Dims:
    """[a, b, c] -> these in another order."""
    dims = look.of(look.tensors()[0])
    order = look["dims"] or list(reversed(range(len(dims))))
    return [dims[d] for d in order]


@rule("aten.transpose", "aten.swapaxes", "aten.swapdims", "aten.t", "aten.mT", "aten.adjoint", carries=True)
def transpose(look: Look) -> Dims:
    """[..., a, ..., b, ...] -> [..., b, ..., a, ...]."""
    dims = look.of(look.tensors()[0])
    if len(dims) < 2:
        return dims
    one = look.dim("dim0", len(dims), -2) if look.name != "aten.t" else 0
    other = look.dim("dim1", len(dims), -1) if look.name != "aten.t" else 1
    dims[one], dims[other] = dims[other], dims[one]
    return dims


@rule("aten.squeeze", "aten.unsqueeze", "aten.squeeze_copy", "aten.unsqueeze_copy", carries=True)
def singles(look: Look) -> Dims:
    """[a, 1, b] -> [a, b] and back."""
    dims = look.of(look.tensors()[0])
    kept = [dim for dim in dims if dim.size != 1]
    return [look.terms.atom(1) if size == 1 else kept.pop(0) for size in look.shape]


@rule("aten.expand", "aten.expand_as", "aten.broadcast_to", "aten.expand_copy", carries=True)
def expand(look: Look) -> Dims:
    """[..., 1, ...] -> [..., n, ...]: the same at every one of n, which are whatever they are laid over."""
    dims = look.of(look.tensors()[0])
    shape = look.shape
    dims = [look.terms.atom(1)] * (len(shape) - len(dims)) + dims
    return [look.terms.atom(size) if dim.size == 1 else dim for dim, size in zip(dims, shape, strict=True)]


@rule("aten.repeat", "aten.tile", carries=True)
def repeat(look: Look) -> Dims:
    """[n] -> [k * n]: k times the same, one behind the other."""
    dims = look.of(look.tensors()[0])
    shape = look.shape
    dims = [look.terms.atom(1)] * (len(shape) - len(dims)) + dims
    return [
        dim if dim.size == size else look.terms.product([look.terms.atom(size // max(dim.size, 1)), dim])
        for dim, size in zip(dims, shape, strict=True)
    ]


@rule("aten.repeat_interleave", carries=True)
def repeat_interleave(look: Look) -> Dims:
    """[n] -> [n * k]: each k times."""
    dims = look.of(look.tensors()[0])
    if not isinstance(look["repeats"], int):
        return look.all_pinned("repeats differ from unit to unit")[0]
    if look["dim"] is None:
        dims = [look.terms.product(dims)]
    dim = look.dim("dim", len(dims))
    dims[dim] = look.terms.product([dims[dim], look.terms.atom(int(look["repeats"]))])
    return dims


@rule("aten.pixel_shuffle", "aten.pixel_unshuffle", "aten.channel_shuffle")
def shuffle(look: Look) -> Dims:
    """[batch, c * r * r, h, w] -> [batch, c, h * r, w * r] and back: channels c stay free, places are told apart."""
    dims, shape, terms = look.of(look.tensors()[0]), look.shape, look.terms
    at = len(dims) - 3
    if look.name == "aten.channel_shuffle":
        groups = int(look["groups"])
        first, second = terms.atom(groups), terms.atom(dims[1].size // groups)
        terms.unify(dims[1], terms.product([first, second]), look.why("channels in groups"))
        dims[1] = terms.product([second, first])
        return dims
    few, many = sorted([dims[at].size, shape[at]])
    channels = terms.atom(few)
    both = terms.product([channels, look.told(many // few, "places within a unit's square")])
    if dims[at].size == many:
        terms.unify(dims[at], both, look.why("channels by places"))
    else:
        channels = dims[at]
        both = terms.product([channels, look.told(many // few, "places within a unit's square")])
    places = [look.told(size, "places of a map") for size in shape[at + 1 :]]
    return [*dims[:at], channels if shape[at] == few else both, *places]

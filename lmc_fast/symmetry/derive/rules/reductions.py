"""Reductions: units that are treated alike are gone, or told apart by what is found of them."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from ..look import Dims, Look, Numbers, packet_name, rule

__all__ = ["reduced"]

WHICH = "the result tells which of them"


@rule(
    *("aten.sum", "aten.mean", "aten.prod", "aten.amax", "aten.amin", "aten.any", "aten.all", "aten.var", "aten.std"),
    *("aten.var_mean", "aten.std_mean", "aten.logsumexp", "aten.nansum", "aten.nanmean", "aten.count_nonzero"),
    *("aten.aminmax", "aten.linalg_vector_norm", "aten.norm", "aten.frobenius_norm"),
)
def reduced(look: Look) -> Dims | list[Dims]:
    """[..., n, ...] -> without n, or with a single in its place."""
    dims = look.of(look.tensors()[0])
    gone = _gone(look["dim"], len(dims))
    kept = [dim for d, dim in enumerate(dims) if d not in gone]
    results = []
    for shape in look.shapes:
        if len(shape) == len(dims):
            results.append([look.terms.atom(1) if d in gone else dim for d, dim in enumerate(dims)])
        else:
            results.append(list(kept))
    return results if len(results) > 1 else results[0]


def _gone(given: Any, rank: int) -> set[int]:
    if given is None or given == []:
        return set(range(rank))
    return {d % max(1, rank) for d in ([given] if isinstance(given, int) else given)}


@rule(
    *("aten.argmax", "aten.argmin", "aten.max", "aten.min", "aten.topk", "aten.sort", "aten.argsort", "aten.median"),
    *("aten.nanmedian", "aten.kthvalue", "aten.mode"),
    reads=True,
)
def ranked(look: Look) -> Dims | list[Dims]:
    """[..., n, ...] -> [..., k, ...] by their values, and the numbers that these have among n."""
    node = look.tensors()[0]
    dims, given = look.of(node), look.numbers(node)
    if given is not None and given.kind == "unit" and len(dims) == 1 and look.name in ("aten.sort", "aten.argsort"):
        return _in_order(look, dims, given)
    look.unread(*look.tensors())
    if look.name in ("aten.max", "aten.min") and len(look.tensors()) == 2:
        return look.broadcast(look.of(each) for each in look.tensors())
    if look["dim"] is None and look.name not in (
        "aten.topk",
        "aten.sort",
        "aten.argsort",
        "aten.kthvalue",
        "aten.mode",
    ):
        if look.name in ("aten.argmax", "aten.argmin"):
            look.pin(dims, WHICH)
        return [look.told(size, WHICH) for size in look.shape]
    dim = look.dim("dim", len(dims), -1)
    look.mixed(dims, dim)
    results: list[Dims] = []
    for shape in look.shapes:
        made = [look.told(shape[dim], "in the order of their values")] if len(shape) == len(dims) and dims else []
        if made and look["sorted"] is False:
            made = [look.terms.atom(shape[dim])]
            look.terms.follow(made[0], [dims[dim]], [*dims[:dim], *dims[dim + 1 :]])
        if results:
            made = results[0][dim : dim + len(made)]
        results.append([*dims[:dim], *made, *dims[dim + 1 :]])
    # Of equal values it is chance which comes first.
    place = len(results) - 1
    if dims and _is_read(look.node, place) and may_tie(node):
        look.pin([dims[dim]], f"{WHICH}, and some may be equal")
    if dims and (place or look.name.startswith("aten.arg")):
        source = object()
        look.gives[place] = Numbers(
            dims[dim], results[place], look.why(WHICH), source, source, is_order=look.name.endswith("sort")
        )
    return results if len(results) > 1 else results[0]


def _in_order(look: Look, dims: Dims, given: Numbers) -> Dims | list[Dims]:
    """[s] of numbers of units -> [s] in the units' order, and the numbers that these have among s."""
    if look["descending"]:
        look.unread(look.tensors()[0])
    rows = look.terms.atom(dims[0].size)
    look.terms.follow(rows, [given.of, dims[0]])
    order = Numbers(dims[0], [rows], look.why("which of them had the number"), object(), object(), is_order=True)
    if look.name == "aten.argsort":
        look.gives[0] = order
        return [rows]
    look.gives = {0: Numbers(given.of, [rows], given.why, object(), given.among, is_sorted=True), 1: order}
    return [[rows], [rows]]


def _is_read(node: Node, place: int) -> bool:
    """Whether a result is used."""
    if not isinstance(node.meta.get("val"), (list, tuple)):
        return True
    return any(user.args[1] == place and user.users for user in node.users if len(user.args) > 1)


# What gives the same value for many, unless it is then put together with others.
LEVELLING = ("relu", "relu6", "hardtanh", "hardsigmoid", "hardswish", "clamp", "clamp_min", "clamp_max", "threshold")
ROUNDING = ("round", "floor", "ceil", "trunc", "sign", "heaviside", "eq", "ne", "lt", "le", "gt", "ge", "hardshrink")
MASKING = ("masked_fill", "where", "zeros_like", "ones_like", "full_like", "zeros", "ones", "full", "expand", "repeat")
TIES = {f"aten.{name}" for name in (*LEVELLING, *ROUNDING, *MASKING, "softshrink", "one_hot", "scatter", "index_put")}
MIXING = ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "conv1d", "conv2d", "conv3d", "embedding")


def may_tie(node: Any) -> bool:
    """Whether entries of a value may be equal by more than chance: past a rectifier, a rounding, a mask."""
    while isinstance(node, Node) and node.op == "call_function":
        name = packet_name(node.target)
        if name == "aten.masked_fill" and node.args[2] == float("-inf"):
            # Never chosen before others.
            node = node.args[0]
        elif name in TIES or not node.all_input_nodes:
            return True
        elif name.removeprefix("aten.") in MIXING:
            return False
        elif name == "aten.add" and len(node.all_input_nodes) > 1:
            return all(may_tie(each) for each in node.all_input_nodes)
        elif len(node.all_input_nodes) > 1:
            return any(may_tie(each) for each in node.all_input_nodes)
        else:
            node = node.all_input_nodes[0]
    return False


@rule(
    *("aten.cumsum", "aten.cumprod", "aten.logcumsumexp", "aten.cummax", "aten.cummin", "aten.diff"),
    reads=True,
)
def cumulated(look: Look) -> Dims | list[Dims]:
    """[..., n, ...] -> n is pinned: the result goes by their order."""
    node = look.tensors()[0]
    dims, given = look.of(node), look.numbers(node)
    if look.name == "aten.cumsum" and given is not None and given.kind == "count":
        look.gives[0] = Numbers(given.of, dims, given.why, object(), given.among, kind="end")
        return dims
    look.unread(*look.tensors())
    dim = look.dim("dim", len(dims), -1)
    look.mixed(dims, dim)
    look.pin([dims[dim]], "the result goes by their order")
    results = [
        [look.told(shape[d], "differences") if shape[d] != each.size else each for d, each in enumerate(dims)]
        for shape in look.shapes
    ]
    return results if len(results) > 1 else results[0]


@rule("aten.histc", "aten.bincount", reads=True)
def counted(look: Look) -> Dims:
    """[...] of numbers of n units -> [n]: how often each came."""
    node, size = look.tensors()[0], look.shape[0]
    given = look.numbers(node)
    ends = (look["min"], look["max"])
    is_each = look.name == "aten.bincount" or (ends[0] == 0 and ends[1] in (size - 1, size))
    if given is None or given.kind != "unit" or given.of.size != size or not is_each or len(look.tensors()) > 1:
        look.unread(*look.tensors())
        return [look.told(size, "how often values came")]
    look.gives[0] = Numbers(given.of, [given.of], given.why, object(), given.among, kind="count")
    return [given.of]


@rule("aten.one_hot", reads=True)
def one_hot(look: Look) -> Dims:
    """[...] of numbers of n units -> [..., n]."""
    node = look.tensors()[0]
    dims, given = look.of(node), look.numbers(node)
    if given is not None and given.kind == "unit" and given.of.size == look.shape[-1]:
        return [*dims, given.of]
    look.unread(node)
    return [*dims, look.told(look.shape[-1], "numbers")]

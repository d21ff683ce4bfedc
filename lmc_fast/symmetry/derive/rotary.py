"""Rotary position embedding, as models write it: planes of two entries that each place turns by an angle.

What is found is complex multiplication of z = x + i y by what is the same for x and y of a plane: it commutes with a
phase for each plane. Where the factors are not seen to be the same for both (tables that are read from buffers), the
axis stays as it is.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.fx import Graph, Node

from .look import packet_name
from .places import SAME, SHAPED, VIEWS, shape_of

__all__ = ["Rotary", "rotaries"]

MULTIPLY, ADD, SUBTRACT = ("aten.mul", "aten.multiply"), ("aten.add",), ("aten.sub", "aten.subtract")
# What keeps two entries the same that were: of one value, entry by entry or laid out anew elsewhere.
_ALIKE = (
    *SAME,
    *SHAPED,
    *("aten.cos", "aten.sin", "aten.neg", "aten.expand", "aten.slice", "aten.select", "aten.index", "aten.transpose"),
    *("aten.mul", "aten.div", "aten.index_select", "aten.permute", "aten.exp"),
)


@dataclass(frozen=True)
class Rotary:
    """One value whose planes are turned.

    Attributes:
        source: the value, turned along its last dimension.
        view: where the two entries of a plane stand: "outer", in two halves, or "inner", side by side.
        factors: what it is multiplied by.
        inside: the operations on the way.
    """

    source: Node
    view: str
    factors: tuple[Node, ...]
    inside: frozenset[Node]


def rotaries(graph: Graph) -> dict[Node, Rotary]:
    """By the operation that gives the result, all that is found in a graph."""
    found: dict[Node, Rotary] = {}
    for node in graph.nodes:
        if node.op == "call_function":
            one = _by_rotated(node) or _by_parts(node) or _complex(node)
            if one is not None and _is_closed(node, one.inside):
                found[node] = one
    return found


def _is_closed(root: Node, inside: frozenset[Node]) -> bool:
    """Whether nothing else uses what is computed on the way."""
    return all(user in inside or user is root for node in inside for user in node.users if _gives(user))


def _gives(node: Node) -> bool:
    return node.op == "output" or node.meta.get("val") is not None


def _calls(node: Any, names: Sequence[str], count: int = 0) -> bool:
    is_call = isinstance(node, Node) and node.op == "call_function" and packet_name(node.target) in names
    return is_call and (not count or len(node.args) == count)


def _factors(node: Any) -> list[tuple[Node, Node]]:
    """Of a product both ways of taking one value times another one."""
    if not _calls(node, MULTIPLY, 2) or not all(isinstance(each, Node) for each in node.args):
        return []
    one, other = node.args
    return [(one, other), (other, one)]


def _by_rotated(root: Any) -> Rotary | None:
    """x * c + r * s, with r of the planes a quarter further: halves (-y, x), or side by side."""
    if not _calls(root, ADD, 2) or root.kwargs:
        return None
    for first, second in (root.args, root.args[::-1]):
        for source, cos in _factors(first):
            for rotated, sin in _factors(second):
                for view, inside in _rotations(rotated, source):
                    if all(_are_alike(each, view, shape_of(source)[-1]) for each in (cos, sin)):
                        assert isinstance(first, Node) and isinstance(second, Node)
                        return Rotary(source, view, (cos, sin), frozenset({*inside, first, second}))
    return None


def _rotations(rotated: Any, source: Node) -> list[tuple[str, list[Node]]]:
    """The ways in which a value is another one, a quarter further."""
    size = shape_of(source)[-1] if shape_of(source) else 0
    if size % 2 or not size:
        return []
    rank = len(shape_of(source))
    if _calls(rotated, ("aten.cat",)):
        parts: Any = rotated.args[0]
        dim: Any = rotated.args[1] if len(rotated.args) > 1 else 0
        if len(parts) == 2 and dim % rank == rank - 1:
            halves = [_negated(each) for each in parts]
            runs = [_run(part, source) for part, _, _ in halves]
            signs = [sign for _, sign, _ in halves]
            if [run and run[0] for run in runs] == [(size // 2, size // 2, 1), (0, size // 2, 1)] and sum(signs) == 0:
                return [("outer", _inside(rotated, halves, runs))]
    if _calls(rotated, VIEWS):
        stacked: Any = rotated.args[0]
        if _calls(stacked, ("aten.stack",)) and shape_of(stacked)[-1] == 2 and len(shape_of(stacked)) == rank + 1:
            parts = stacked.args[0]
            halves = [_negated(each) for each in parts]
            runs = [_run(part, source) for part, _, _ in halves]
            signs = [sign for _, sign, _ in halves]
            if [run and run[0] for run in runs] == [(1, size // 2, 2), (0, size // 2, 2)] and sum(signs) == 0:
                return [("inner", [stacked, *_inside(rotated, halves, runs)])]
    return []


def _negated(node: Any) -> tuple[Any, int, list[Node]]:
    if _calls(node, ("aten.neg", "aten.negative")):
        return node.args[0], -1, [node]
    return node, 1, []


def _inside(rotated: Node, halves: Sequence[Any], runs: Sequence[Any]) -> list[Node]:
    return [rotated, *(node for _, _, nodes in halves for node in nodes), *(node for run in runs for node in run[1])]


# (start, length, step), and the operations that take it.
_Run = tuple[tuple[int, int, int], list[Node]]


def _run(node: Any, source: Node) -> _Run | None:
    """Which entries of a value's last dimension another one is."""
    size, rank = shape_of(source)[-1], len(shape_of(source))
    if node is source:
        return (0, size, 1), []
    if not isinstance(node, Node) or node.op != "call_function" or not node.args:
        return None
    above: Any = node.args[0]
    name = packet_name(node.target)
    if name == "aten.slice" and above is source:
        args: Any = (*node.args[1:], *(0, 0, None, 1)[len(node.args) - 1 :])
        dim, start, _, step = args
        if dim % rank == rank - 1 and isinstance(start, int):
            start = 0 if start is None else start + size if start < 0 else start
            return (start, shape_of(node)[-1], step), [node]
    if node.target is operator.getitem and _calls(above, ("aten.split", "aten.chunk", "aten.split_with_sizes")):
        dim = above.args[2] if len(above.args) > 2 else above.kwargs.get("dim", 0)
        if above.args[0] is source and dim % rank == rank - 1:
            lengths = [int(each.shape[-1]) for each in above.meta["val"]]
            place: Any = node.args[1]
            return (sum(lengths[:place]), lengths[place], 1), [node, above]
    if name == "aten.select" and _calls(above, VIEWS) and above.args[0] is source:
        args = node.args
        shape = shape_of(above)
        if shape == [*shape_of(source)[:-1], size // 2, 2] and args[1] % (rank + 1) == rank:
            return (args[2] % 2, size // 2, 2), [node, above]
        if shape == [*shape_of(source)[:-1], 2, size // 2] and args[1] % (rank + 1) == rank - 1:
            return ((args[2] % 2) * (size // 2), size // 2, 1), [node, above]
    return None


def _by_parts(root: Any) -> Rotary | None:
    """(x * c - y * s, y * c + x * s), one behind the other or side by side."""
    stacked: Any = root
    if _calls(root, VIEWS):
        stacked = root.args[0]
        if not _calls(stacked, ("aten.stack",)):
            return None
    elif not _calls(root, ("aten.cat",)):
        return None
    parts: Any = stacked.args[0]
    rank = len(shape_of(root))
    dim: Any = stacked.args[1] if len(stacked.args) > 1 else 0
    if len(parts) != 2 or dim % len(shape_of(stacked)) != len(shape_of(stacked)) - 1:
        return None
    first, second = parts
    is_minus = [_calls(each, SUBTRACT, 2) for each in parts]
    if sum(is_minus) != 1 or not all(_calls(each, (*ADD, *SUBTRACT), 2) and not each.kwargs for each in parts):
        return None
    for x, cos in _factors(first.args[0]):
        for y, sin in _factors(first.args[1]):
            if not _is_product(second, y, cos, x, sin, is_minus[1]):
                continue
            source = _whole(x, y)
            runs = None if source is None else (_run(x, source), _run(y, source))
            if source is None or runs is None or None in runs or len(shape_of(source)) != rank:
                continue
            view = _view_of([run[0] for run in runs if run], shape_of(source)[-1], is_side_by_side=stacked is not root)
            # Half as many factors as entries: the same for both of a plane.
            if view and shape_of(root) == shape_of(source) and not any(_is_long(each, x) for each in (cos, sin)):
                nodes = [node for run in runs if run for node in run[1]]
                products = [each for part in parts for each in part.args]
                inside = {*nodes, *parts, *products, *([stacked] if stacked is not root else [])}
                return Rotary(source, view, (cos, sin), frozenset(inside))
    return None


def _is_product(second: Any, y: Node, cos: Node, x: Node, sin: Node, is_minus: bool) -> bool:
    """Whether the other part is y * cos and x * sin, added, or subtracted in this order."""
    ways = [(second.args[0], second.args[1])] if is_minus else [second.args, second.args[::-1]]
    return any((y, cos) in _factors(one) and (x, sin) in _factors(other) for one, other in ways)


def _is_long(factor: Node, part: Node) -> bool:
    return shape_of(factor)[-1:] not in ([1], shape_of(part)[-1:], [])


def _whole(x: Node, y: Node) -> Node | None:
    """The value that both are parts of."""

    def above(node: Node) -> Node | None:
        source: Any = node.args[0] if node.args else None
        if node.target is operator.getitem or (_calls(node, ("aten.select",)) and _calls(source, VIEWS)):
            source = source.args[0]
        return source if isinstance(source, Node) else None

    one, other = above(x), above(y)
    return one if one is not None and one is other and shape_of(one) else None


def _view_of(runs: Sequence[tuple[int, int, int]], size: int, *, is_side_by_side: bool) -> str:
    half = size // 2
    if list(runs) == [(0, half, 1), (half, half, 1)] and not is_side_by_side:
        return "outer"
    return "inner" if list(runs) == [(0, half, 2), (1, half, 2)] and is_side_by_side else ""


def _complex(root: Any) -> Rotary | None:
    """Pairs as complex numbers, times others, as pairs again."""
    if not _calls(root, VIEWS):
        return None
    real: Any = root.args[0]
    product: Any = real.args[0] if _calls(real, ("aten.view_as_real",)) else None
    for numbers, factor in _factors(product):
        taken: Any = numbers
        pairs: Any = taken.args[0] if _calls(numbers, ("aten.view_as_complex",)) else None
        source = pairs.args[0] if _calls(pairs, VIEWS) else None
        if isinstance(source, Node) and shape_of(source) == shape_of(root):
            shape = shape_of(source)
            if shape_of(pairs) == [*shape[:-1], shape[-1] // 2, 2]:
                assert isinstance(product, Node) and isinstance(pairs, Node)
                return Rotary(source, "inner", (factor,), frozenset({real, product, numbers, pairs}))
    return None


def _are_alike(factor: Node, view: str, size: int) -> bool:
    """Whether both entries of each plane are multiplied by the same."""
    node: Any = factor
    if shape_of(node)[-1:] in ([1], []):
        return True
    while isinstance(node, Node) and node.op == "call_function":
        name = packet_name(node.target)
        if shape_of(node)[-1:] != [size]:
            return False
        if name == "aten.cat" and view == "outer":
            parts: Any = node.args[0]
            dim: Any = node.args[1] if len(node.args) > 1 else 0
            return len(parts) == 2 and _are_equal(*parts) and dim % len(shape_of(node)) == len(shape_of(node)) - 1
        if name == "aten.repeat_interleave" and view == "inner":
            dim = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim")
            return bool(node.args[1] == 2) and dim is not None and dim % len(shape_of(node)) == len(shape_of(node)) - 1
        if name in VIEWS and view == "inner" and _calls(node.args[0], ("aten.stack",)):
            stacked: Any = node.args[0]
            parts = stacked.args[0]
            return len(parts) == 2 and _are_equal(*parts) and shape_of(stacked)[-1] == 2
        if name not in _ALIKE or len(node.all_input_nodes) != 1:
            return False
        node = node.args[0]
    return False


def _are_equal(one: Any, other: Any) -> bool:
    """Whether two values are one, or computed in the same way from the same."""
    if not isinstance(one, Node) or not isinstance(other, Node):
        return type(one) is type(other) and bool(one == other)
    if one is other:
        return True
    is_call = one.op == other.op == "call_function" and one.target is other.target and one.kwargs == other.kwargs
    is_noise = "rand" in packet_name(one.target) or "bernoulli" in packet_name(one.target)
    if not is_call or is_noise or len(one.args) != len(other.args):
        return False
    return all(_are_equal(a, b) for a, b in zip(one.args, other.args, strict=True))

"""An exported program's graph of functional operations, rewritten operation by operation: nothing is traced again."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature, OutputKind, TensorArgument
from torch.fx import Graph, Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Program", "lightened"]

_ATEN = torch.ops.aten
# What a second trace makes a copy of.
_COPIES = frozenset({_ATEN.lift_fresh_copy.default, _ATEN.dropout.default})


@dataclass(frozen=True)
class Program:
    """What a walk reads of an exported program.

    Attributes:
        graph: of functional operations.
        graph_signature: what the graph's inputs and outputs are.
        constants: tensors of the model's code, by name.
        places: of every output where it stands in what the model returns, as `outputs.places_of` tells it.
    """

    graph: Graph
    graph_signature: ExportGraphSignature
    constants: Mapping[str, Any]
    places: tuple[str | None, ...] = ()


class _UnsureError(Exception):
    """Something stands in the graph of which it is not sure what a second trace would make."""


def lightened(program: ExportedProgram, stays: Callable[[OpOverload], bool | None]) -> Program | None:
    """The graph that a second trace would give; None where that is not sure.

    An operation that writes over a value, of which nothing else is used, gives a new value instead. What looks at a
    value that was written over may stand earlier than in a second trace, which has it wait for its first use.

    Args:
        program: left as it is.
        stays: whether a second trace leaves an operation as it is, but for its writing over what it takes; False where
            it takes it apart into others of which that is true, None where that is not known.
    """
    if {spec.kind for spec in program.graph_signature.output_specs} != {OutputKind.USER_OUTPUT}:
        return None
    nodes = list(program.graph.nodes)
    place = {node: p for p, node in enumerate(nodes)}
    rewrite = _Rewrite(stays, {node: max(map(place.__getitem__, node.users), default=-1) for node in nodes})
    try:
        for rewrite.place, node in enumerate(nodes):
            rewrite.add(node)
    # Also what an operation raises that does not run by itself: torch's own way is there for all of it.
    except Exception:  # noqa: BLE001
        return None
    rewrite.graph.eliminate_dead_code()
    names = {old.name: new.name for old, new in rewrite.new.items()}
    outputs = [
        replace(spec, arg=TensorArgument(name=names[spec.arg.name])) if isinstance(spec.arg, TensorArgument) else spec
        for spec in program.graph_signature.output_specs
    ]
    return Program(rewrite.graph, replace(program.graph_signature, output_specs=outputs), program.constants)


@dataclass
class _Rewrite:
    """A new graph on its way.

    Attributes:
        stays: see `lightened`.
        last: by old node the place of the last one that uses it.
        place: of the old node that is rewritten.
        graph: the new one.
        new: by old node the new one that has its value now.
        old: the other way.
        homes: by new node what is equal for all that share entries.
        sharing: by home the new nodes that do.
        kept: new nodes that may not be written over: a value beside them would change, or a second trace says so.
    """

    stays: Callable[[OpOverload], bool | None]
    last: dict[Node, int]
    place: int = 0
    graph: Graph = field(default_factory=Graph)
    new: dict[Node, Node] = field(default_factory=dict)
    old: dict[Node, list[Node]] = field(default_factory=dict)
    homes: dict[Node, object] = field(default_factory=dict)
    sharing: dict[object, list[Node]] = field(default_factory=dict)
    kept: set[Node] = field(default_factory=set)

    def add(self, node: Node) -> None:
        """Go on with an old node."""
        if node.op == "placeholder":
            new = self.graph.placeholder(node.name)
            new.name = node.name
            self._made(new, node, node.meta.get("val"))
            self.kept.add(new)
        elif node.op == "output":
            self.graph.output(_mapped(node.args[0], self.new.__getitem__))
            return
        elif node.op == "call_function":
            new = self._rewritten(node)
        else:
            raise _UnsureError
        self._stands_for(new, node)

    def _rewritten(self, node: Node) -> Node:
        """What a second trace makes of one operation."""
        target, value = node.target, node.meta.get("val")
        args, kwargs = _mapped((node.args, node.kwargs), self.new.__getitem__)
        if target is operator.getitem:
            return self._item(args[0], args[1], node, value)
        if not isinstance(target, OpOverload) or not _is_sized(value):
            raise _UnsureError
        if target is _ATEN.detach_.default and args[0] not in self.kept:
            return args[0]  # type: ignore[no-any-return]
        if target in _COPIES:
            if any(args[2:]) or kwargs:
                raise _UnsureError
            return self._copied(node, args[0])
        stays = self.stays(target)
        if stays is None:
            raise _UnsureError
        if not stays:
            return self._apart(node, target, args, kwargs)
        if target._schema.is_mutable:
            return self._written_over(node, target, args, kwargs)
        return self._called(target, args, kwargs, node, value)

    def _copied(self, node: Node, source: Node) -> Node:
        copy = _ATEN.clone.default
        new = self._called(copy, (source,), {}, node, copy(_value(source)))
        if node.target is _ATEN.dropout.default:
            # It is what it takes, where nothing is dropped.
            self.kept.add(new)
        return _laid_out(new, node.meta["val"])

    def _written_over(self, node: Node, target: OpOverload, args: Any, kwargs: Any) -> Node:
        """The operation that gives what this one writes over its first argument."""
        functional = _functional(target)
        if functional is None or not self.stays(functional):
            raise _UnsureError
        whole: Node = args[0]
        others = [
            old for each in self.sharing[self.homes[whole]] if each is not whole for old in self.old.get(each, ())
        ]
        if whole in self.kept or any(self.last[old] > self.place for old in others):
            raise _UnsureError
        given = _mapped((args, kwargs), _value)
        new = self._called(functional, args, kwargs, node, functional(*given[0], **given[1]))
        self._stands_for(new, *self.old.pop(whole, ()))
        return _laid_out(new, _value(whole))

    def _apart(self, node: Node, target: OpOverload, args: Any, kwargs: Any) -> Node:
        """The operations that a composite one is made of; the value that it is given where there are none."""
        taken = {each for each in pytree.tree_leaves((args, kwargs)) if isinstance(each, Node)}
        nodes = {id(_value(each)): each for each in taken}
        if len(nodes) < len(taken):
            raise _UnsureError
        given = _mapped((args, kwargs), _value)
        with _Record() as record:
            result = target(*given[0], **given[1])
        parts: dict[int, tuple[Node, int]] = {}

        def known(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if id(value) not in nodes:
                nodes[id(value)] = self._item(*parts[id(value)], node, value)
            return nodes[id(value)]

        last: Any = None
        for func, positional, named, out in record.calls:
            positional, named = pytree.tree_map(known, (positional, named))
            if func._schema.is_mutable:
                last = self._written_over(node, func, positional, named)
            else:
                last = self._called(func, positional, named, node, out)
            if isinstance(out, Tensor):
                nodes[id(out)] = last
            else:
                parts |= {id(each): (last, index) for index, each in enumerate(out)}
        # Those that give several values have them from the last one.
        return _laid_out(known(result) if isinstance(result, Tensor) else last, node.meta.get("val"))

    def _called(self, target: OpOverload, args: Any, kwargs: Any, like: Node, value: Any) -> Node:
        """An operation on new nodes, with its value, that comes from where an old node does."""
        node = self.graph.call_function(target, args, kwargs)
        if not _gives_views(node):
            return self._made(node, like, value)
        (source,) = node.all_input_nodes
        return self._made(node, like, value, self.homes[source])

    def _item(self, several: Node, index: int, like: Node, value: Any) -> Node:
        node = self.graph.call_function(operator.getitem, (several, index))
        return self._made(node, like, value, self.homes[several] if _gives_views(several) else None)

    def _made(self, node: Node, like: Node, value: Any, home: object = None) -> Node:
        node.meta = {**like.meta, "val": value}
        if home is None:
            home = object()
        else:
            self.kept.add(node)
        self.homes[node] = home
        self.sharing.setdefault(home, []).append(node)
        return node

    def _stands_for(self, new: Node, *olds: Node) -> None:
        for old in olds:
            self.new[old] = new
        self.old.setdefault(new, []).extend(olds)


class _Record(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which operations a composite one calls."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[OpOverload, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "prim":
            # Asks where a tensor lies, and is no operation.
            return func(*args, **(kwargs or {}))
        with self:
            parts = func.decompose(*args, **(kwargs or {}))
        if parts is not NotImplemented:
            return parts
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out


def _functional(target: OpOverload) -> OpOverload | None:
    """Of an operation that writes over its first argument, and does nothing else, the one that does not."""
    name = target._schema.name.removeprefix("aten::")
    if not name.endswith("_") or name.startswith("_") or torch.Tag.inplace_view in target.tags:
        return None
    packet = getattr(_ATEN, name.removesuffix("_"), None)
    others = [] if packet is None else [getattr(packet, each) for each in packet.overloads()]
    found = [each for each in others if _takes(each) == _takes(target) and not each._schema.is_mutable]
    return found[0] if len(found) == 1 else None


def _takes(operation: OpOverload) -> list[tuple[str, str]]:
    return [(each.name, str(each.type)) for each in operation._schema.arguments]


def _gives_views(node: Node) -> bool:
    """Whether an operation shares entries with what it takes, or is one that a second trace takes for such."""
    target: Any = node.target
    return target is _ATEN._unsafe_view.default or any(each.alias_info is not None for each in target._schema.returns)


def _laid_out(node: Node, value: Any) -> Node:
    """The node, where its value is laid out as this one: what comes after it was chosen by that."""
    if _layout(value) != _layout(_value(node)):
        raise _UnsureError
    return node


def _layout(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.shape, value.dtype, value.device, value.stride(), value.storage_offset()
    return [_layout(each) for each in value]


def _is_sized(value: Any) -> bool:
    """Whether a value is made of tensors alone, of sizes that are known."""
    if isinstance(value, Tensor):
        return all(isinstance(size, int) for size in value.shape)
    return value is None or (isinstance(value, (list, tuple)) and all(map(_is_sized, value)))


def _mapped(arguments: Any, to: Callable[[Node], Any]) -> Any:
    """Arguments with something else for each node in them."""
    return map_arg(arguments, to)


def _value(node: Node) -> Any:
    return node.meta["val"]

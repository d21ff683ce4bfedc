"""One operation of a graph as its rule looks at it, and the registry of rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch.fx import Node

from .terms import Pin, Term, Terms

__all__ = ["RULES", "Dims", "Look", "Rule", "packet_name", "rule"]

# The terms of one value's dimensions.
Dims = list[Term]
# From a look at an operation the dimensions of its result, or of each of its results.
Rule = Callable[["Look"], "Dims | list[Dims]"]

RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operations, by their names in the graph ("aten.linear")."""

    def register(function: Rule) -> Rule:
        for name in names:
            assert name not in RULES, f"{name} has two rules"
            RULES[name] = function
        return function

    return register


def packet_name(target: object) -> str:
    """An operation's name without its overload's: "aten.linear"."""
    if isinstance(target, torch._ops.OpOverload):
        return f"{target.namespace}.{target.overloadpacket.__name__}"
    return str(getattr(target, "__name__", target))


class Look:
    """An operation with what is known of its arguments.

    Args:
        terms: of the whole graph.
        node: the operation.
        known: the dimensions of every value so far.
        where: the line of the model's source that it comes from.
    """

    def __init__(self, terms: Terms, node: Node, known: dict[Node, Any], where: str) -> None:
        self.terms, self.node, self.known, self.where = terms, node, known, where
        self.name = packet_name(node.target)
        self.arguments = _bound(node)
        # Values that the operation makes inside and does not give: where units stand there, and without which others.
        self.inside: list[Dims] = []

    def __getitem__(self, argument: str) -> Any:
        """An argument as the graph has it: a number, a list, a node; None where the operation has none so named."""
        return self.arguments.get(argument)

    def dims(self, argument: str) -> Dims:
        """The dimensions of a tensor argument; of a number none."""
        return self.of(self[argument])

    def of(self, value: Any) -> Dims:
        """The dimensions of a node that is one tensor; of a number none."""
        return list(self.known[value]) if isinstance(value, Node) else []

    def has(self, argument: str) -> bool:
        """Whether a tensor is given there."""
        return isinstance(self[argument], Node)

    def tensors(self) -> list[Node]:
        """All nodes among the arguments, in lists too."""
        return [value for value in self.node.all_input_nodes if _is_tensor(value)]

    @property
    def shape(self) -> list[int]:
        """The result's shape."""
        return self.shapes[0]

    @property
    def shapes(self) -> list[list[int]]:
        """The results' shapes."""
        value = self.node.meta.get("val")
        values = value if isinstance(value, (list, tuple)) else [value]
        return [[int(size) for size in each.shape] if isinstance(each, torch.Tensor) else [] for each in values]

    def why(self, text: str) -> Pin:
        """The reason for a pin by this operation."""
        return Pin(self.name, self.where, text)

    def same(self, one: Term, other: Term, text: str = "laid over each other") -> Term:
        """Unify two dimensions, of which a single one is broadcast."""
        if one.size == 1:
            return other
        if other.size != 1:
            self.terms.unify(one, other, self.why(text))
        return one

    def pin(self, dims: Iterable[Term], text: str) -> None:
        """These dimensions' units stay."""
        for term in dims:
            self.terms.pin(term, self.why(text))

    def told(self, size: int, text: str) -> Term:
        """A new dimension whose units are told apart."""
        return self.terms.atom(size, self.why(text))

    def broadcast(self, several: Iterable[Dims]) -> Dims:
        """The dimensions of values that are laid over each other from the last one on."""
        result: Dims = []
        for dims in several:
            longer, shorter = (result, dims) if len(result) >= len(dims) else (dims, result)
            ahead = len(longer) - len(shorter)
            both = [self.same(a, b) for a, b in zip(longer[ahead:], shorter, strict=True)]
            result = [*longer[:ahead], *both]
        return result

    def dim(self, argument: str, rank: int, default: int = 0) -> int:
        """A dimension that an argument names, counted from the front."""
        given = self[argument]
        return int(default if given is None else given) % max(rank, 1)

    def all_pinned(self, text: str) -> list[Dims]:
        """Pin all that goes in, and give results whose units are told apart."""
        for value in self.tensors():
            for dims in _each(self.known[value]):
                self.pin(dims, text)
        return [[self.told(size, text) for size in shape] for shape in self.shapes]


def _each(known: Any) -> Sequence[Dims]:
    """The dimensions of every tensor of a value."""
    if known and isinstance(known[0], list):
        return cast(Sequence[Dims], known)
    return [known]


def _is_tensor(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) or (
        isinstance(value, (list, tuple)) and any(isinstance(each, torch.Tensor) for each in value)
    )


def _bound(node: Node) -> dict[str, Any]:
    """Arguments by their names in the operation's schema, defaults filled in."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return dict(enumerate(node.args)) | dict(node.kwargs)  # type: ignore[return-value]
    found: dict[str, Any] = {}
    for position, argument in enumerate(node.target._schema.arguments):
        if position < len(node.args) and not argument.kwarg_only:
            found[argument.name] = node.args[position]
        elif argument.name in node.kwargs:
            found[argument.name] = node.kwargs[argument.name]
        elif argument.has_default_value():
            found[argument.name] = argument.default_value
    return found

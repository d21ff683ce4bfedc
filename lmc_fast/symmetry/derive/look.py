"""One operation of a graph as its rule looks at it, and the registry of rules."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.fx import Node

from .forms import has_weights
from .terms import Pin, Term, Terms

__all__ = ["CARRIES", "HELD", "READS", "RULES", "Dims", "Look", "Numbers", "Rule", "bound", "packet_name", "rule"]

# The terms of one value's dimensions.
Dims = list[Term]
# From a look at an operation the dimensions of its result, or of each of its results.
Rule = Callable[["Look"], "Dims | list[Dims]"]

RULES: dict[str, Rule] = {}
# Operations that lay entries out anew: what a value's numbers are of stays. And those whose rules ask for it.
CARRIES: set[str] = set()
READS: set[str] = set()
# What takes no more of a value than its shape.
SHAPES: set[str] = set()
# Where a node that is a constant of the model's code has that.
HELD = "lmc_fast_held"
_COPIES = ("aten.lift_fresh_copy", "aten.clone", "aten.detach", "aten.alias", "aten._to_copy")


def rule(*names: str, carries: bool = False, reads: bool = False, shapes: bool = False) -> Callable[[Rule], Rule]:
    """Register a rule for operations, by their names in the graph ("aten.linear").

    Args:
        names: of the operations.
        carries: a result's entries are those of the first tensor, so that its numbers stay what they were.
        reads: the rule looks at what numbers are of (`Look.numbers`). Any other operation that takes the numbers of
            units tells these apart.
        shapes: no more is taken of the first tensor than its shape.
    """

    def register(function: Rule) -> Rule:
        for name in names:
            assert name not in RULES, f"{name} has two rules"
            RULES[name] = function
            if carries:
                CARRIES.add(name)
            if reads:
                READS.add(name)
            if shapes:
                SHAPES.add(name)
        return function

    return register


@dataclass(frozen=True)
class Numbers:
    """What integers of a value say: which of a dimension's units (as `topk` finds them).

    Attributes:
        of: the dimension whose units are numbered.
        dims: of the value that holds the numbers.
        why: the reason to pin `of` where the numbers are used as numbers.
        source: the same for values that hold the same number at the same place of `dims`.
        among: the same for values that hold the same numbers, at whatever places.
        kind: "unit"; "count", of how often each unit came among them; "end", of these counts' sums so far.
        is_order: whether they are all units' numbers, each once.
        is_sorted: whether they stand in their order, along the one dimension that the value has.
    """

    of: Term
    dims: Dims
    why: Pin
    source: object
    among: object
    kind: str = "unit"
    is_order: bool = False
    is_sorted: bool = False


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
        numbered: what the integers of values say so far.
        detached: arguments that are the same everywhere in pure form: gains of norms that are folded.
    """

    def __init__(
        self,
        terms: Terms,
        node: Node,
        known: dict[Node, Any],
        where: str,
        numbered: dict[Node, Numbers],
        detached: Collection[Node] = (),
    ) -> None:
        self.detached = detached
        self.terms, self.node, self.known, self.where, self.numbered = terms, node, known, where, numbered
        self.name = packet_name(node.target)
        self.arguments = bound(node)
        # Values that the operation makes inside and does not give: where units stand there, and without which others.
        self.inside: list[Dims] = []
        # The dimensions of what it takes, by use; and the atoms along which each is the same, with what it is there.
        self.taken: list[Dims] = []
        self.loose: list[dict[Term, object]] = []
        # What the integers of its results say, by the result's place; and those by which its results were looked up.
        self.gives: dict[int, Numbers] = {}
        self.looked_up: list[Numbers] = []

    def __getitem__(self, argument: str) -> Any:
        """An argument as the graph has it: a number, a list, a node; None where the operation has none so named."""
        return self.arguments.get(argument)

    def dims(self, argument: str) -> Dims:
        """The dimensions of a tensor argument; of a number none."""
        return self.of(self[argument])

    def of(self, value: Any) -> Dims:
        """The dimensions of a node that is one tensor; of a number none."""
        if not isinstance(value, Node) or value in self.detached:
            return []
        dims = self.terms.afresh(self.known[value])
        self.taken.append(list(dims))
        loose = [(d, atom) for d, term in enumerate(dims) for atom in self.terms.atoms(term) if atom.is_loose]
        if loose:
            self.loose.append({atom: (d, atom if atom.holds is None else atom.holds) for d, atom in loose})
        return dims

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

    def run(self, value: Any, size: int) -> tuple[int, int] | None:
        """The first of a node's numbers of `size` units, and how many there are, where these are written in the model's
        code and follow each other."""
        while isinstance(value, Node) and packet_name(value.target) in _COPIES:
            value = value.args[0]
        held = value.meta.get(HELD) if isinstance(value, Node) else None
        # Of one byte they are a mask.
        if (
            held is None
            or not has_weights({"": held})
            or held.ndim != 1
            or held.dtype not in (torch.int32, torch.int64)
        ):
            return None
        listed = [int(each) % size for each in held]
        follow = bool(listed) and listed == list(range(listed[0], listed[0] + len(listed)))
        return (listed[0], len(listed)) if follow else None

    def numbers(self, value: Any) -> Numbers | None:
        """What a node's integers say, where they are numbers of units."""
        return self.numbered.get(value) if isinstance(value, Node) else None

    def pick(self, dim: Term, index: Any, text: str) -> None:
        """Units of a dimension are picked by the numbers in a node: pinned, unless these go with the units."""
        numbers = self.numbers(index)
        if numbers is not None and numbers.kind == "unit" and numbers.of.size == dim.size:
            self.terms.unify(dim, numbers.of, self.why(text))
            self.looked_up.append(numbers)
            return
        self.unread(index)
        self.pin([dim], text)

    def unread(self, *values: Any) -> None:
        """Numbers in these nodes are used as numbers, which tells the units apart."""
        for value in values:
            numbers = self.numbers(value)
            if numbers is not None:
                self.terms.pin(numbers.of, numbers.why)

    def mixed(self, dims: Dims, *gone: int) -> None:
        """Entries along these dimensions are put together: what stands beside them only stands without them too."""
        self.inside.append([dim for d, dim in enumerate(dims) if d not in gone])

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
            self.unread(value)
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


def bound(node: Node) -> dict[str, Any]:
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

"""A module's exported graph, walked with a term for every dimension of every value."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.fx import Graph, Node

from . import rules
from .decomposing import decomposed
from .gains import Gains
from .light import Program
from .lines import source_line
from .look import CARRIES, HELD, READS, RULES, SHAPES, Dims, Look, Numbers, Rule, packet_name
from .outputs import places_of, told_by
from .rotary import Rotary, rotaries
from .rules.elementwise import broadcast
from .siblings import Step, fill, seen
from .terms import Pin, Term, Terms
from .turning import mark

__all__ = ["Walked", "export", "pin_unused", "walk"]

# What leaves entries out or lays them out in another way, and sums over none.
CUTS = frozenset(
    f"aten.{name}"
    for name in (
        *("slice", "select", "narrow", "split", "split_with_sizes", "chunk", "unbind", "tensor_split"),
        *("index", "index_select", "gather", "take_along_dim", "unfold", "as_strided"),
        *("view", "_unsafe_view", "reshape", "flatten", "unflatten", "permute", "transpose", "t", "movedim"),
        *("unsqueeze", "squeeze", "expand", "alias", "detach", "clone", "contiguous", "_to_copy", "to"),
    )
) | {"getitem", "operator.getitem"}

assert rules


@dataclass
class Walked:
    """What a graph says of dimensions.

    Attributes:
        terms: all of them.
        parameters: the dimensions of every tensor of the model's state that can be moved, by name.
        values: the dimensions of every value of the graph.
        unknown: operations without a rule, with how often they stood there.
        tied: the first name of each tied tensor, by what is equal for all of its names.
        used: dimensions of parameters that an operation uses, by identity.
        reached: the dimensions of values that depend on what the model is given.
        summed: of operations on weights alone the dimensions of what they take, and of what they give.
        numbers: those of units by which values were looked up: where entries have them, such a unit stands beside them.
        steps: all operations, with what they touch.
        gains: those of norms, where it is asked what turns; None elsewhere.
        gained: the dimensions of what gains give.
    """

    terms: Terms
    parameters: dict[str, Dims]
    values: list[Dims] = field(default_factory=list)
    unknown: dict[str, int] = field(default_factory=dict)
    tied: dict[Hashable, str] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)
    reached: list[Dims] = field(default_factory=list)
    summed: list[tuple[list[Dims], list[Dims]]] = field(default_factory=list)
    numbers: list[Numbers] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    gains: Gains | None = None
    gained: dict[Node, Dims] = field(default_factory=dict)


def export(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Program:
    """The model's graph in eval mode, of functional operations only, as written in the model."""
    with torch.no_grad():
        program = torch.export.export(model, args, dict(kwargs), strict=False)
        return replace(decomposed(program), places=places_of(program))


def walk(
    program: Program,
    state: Mapping[str, Tensor],
    identities: Mapping[str, Hashable],
    walked: Walked | None = None,
    prefix: str = "",
) -> Walked:
    """Carry terms through the graph.

    Args:
        program: as `export` gives it.
        state: the tensors of the model that can be moved, by name.
        identities: by name what is equal for the names of one tied tensor.
        walked: of other graphs with the same parameters, which is gone on with: what moves has to move in all.
        prefix: of the part of the model that the graph is of, with a dot at its end.

    Returns:
        What is known; dimensions that no operation uses are pinned by `pin_unused`, after the last graph.
    """
    walked = Walked(Terms(), {}) if walked is None else walked
    known: dict[Node, Any] = {}
    numbered: dict[Any, Numbers] = {}
    places = {spec.arg.name: spec for spec in program.graph_signature.input_specs if hasattr(spec.arg, "name")}
    turned = {} if walked.gains is None else rotaries(program.graph)
    inside = {each for found in turned.values() for each in found.inside}
    gained = set() if walked.gains is None else {each for g in walked.gains.gains.values() for each in g.outputs}
    given: set[Node] = set()
    shapes = _shapes_alone(program.graph)
    for node in program.graph.nodes:
        so_far = len(walked.values)
        if node in inside:
            why = Pin("rotary", source_line(node), "is a part of the planes that places turn")
            known[node] = _apart(walked, node, why)
        elif node in shapes:
            known[node] = _apart(walked, node, Pin("shape", source_line(node), "no more than its shape is used"))
        elif node in turned:
            known[node] = _turned(walked, node, turned[node], known)
        elif node.op == "placeholder":
            place = places.get(node.name)
            known[node] = _entering(walked, node, place, state, identities, prefix)
            if place is not None and place.kind == InputKind.CONSTANT_TENSOR:
                node.meta[HELD] = program.constants.get(str(place.target))
        elif node.op == "call_function":
            known[node] = _called(walked, node, known, numbered)
        elif node.op == "get_attr":
            known[node] = _attribute(walked, node)
        elif node.op == "output":
            _leaving(walked, node, known, numbered, program, prefix)
        if node in known:
            walked.values += _each(known[node])
            _reach(walked, node, known, places, given, walked.values[so_far:])
            if node in gained:
                walked.gained[node] = known[node]
            if node.op == "placeholder" and node.users:
                walked.used |= {id(term) for term in known[node]}
    return walked


def _instances(terms: Terms, atom: Term) -> list[Term]:
    return [each for instance in atom.at.values() for each in terms.atoms(instance) if each is not atom]


def _reach(
    walked: Walked, node: Node, known: Mapping[Node, Any], places: Mapping[str, Any], given: set[Node], made: list[Dims]
) -> None:
    """Note which entries a node brings together with what the model is given, or sums over.

    Args:
        given: nodes that depend on what the model is given; this one is added, if it does.
        made: the dimensions of the node's own values, those that it makes inside among them.
    """
    place = places.get(node.name)
    takes = [dims for each in node.all_input_nodes for dims in _each(known[each])]
    leaves_out = node.op != "call_function" or packet_name(node.target) in CUTS
    if (place is not None and place.kind == InputKind.USER_INPUT) or not given.isdisjoint(node.all_input_nodes):
        given.add(node)
        walked.reached += made if leaves_out else [*made, *takes]
    elif not leaves_out and any(_each(known[node])):
        walked.summed.append((takes, _each(known[node])))


def pin_unused(walked: Walked) -> None:
    """Pin the dimensions of parameters that no operation of any graph uses, and entries that none of the examples
    reaches: places behind the end of a sequence, say, which a longer one would tell apart."""
    terms = walked.terms
    reached = {atom for dims in walked.reached for term in dims for atom in terms.atoms(term)}
    for takes, gives in walked.summed:
        left = {atom for dims in gives for term in dims for atom in terms.atoms(term)}
        reached |= {atom for dims in takes for term in dims for atom in terms.atoms(term)} - left

    def is_reached(atom: Term) -> bool:
        """Whether one of its units is, at some index of those that others were picked at."""
        of = None if atom.of is None else atom.of.found()
        return atom in reached or of in reached or any(map(is_reached, _instances(terms, atom)))

    for dims in walked.parameters.values():
        # Under all of its names, for one that is tied.
        for term in dims:
            if id(term) not in walked.used:
                terms.pin(term, Pin("nothing", "", "no operation uses it"))
            for atom in terms.atoms(term):
                if not is_reached(atom):
                    terms.pin(atom, Pin("nothing", "", "the example inputs do not reach these entries"))


def _entering(
    walked: Walked,
    node: Node,
    place: Any,
    state: Mapping[str, Tensor],
    identities: Mapping[str, Hashable],
    prefix: str,
) -> Dims:
    """The dimensions of an input of the graph: a parameter, a buffer, a constant, or what the caller gives."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return []
    kind = None if place is None else place.kind
    name = prefix + str(None if place is None else place.target)
    moves = kind in (InputKind.PARAMETER, InputKind.BUFFER) and name in state
    if moves and (value.is_floating_point() or value.is_complex()):
        first = walked.tied.setdefault(identities[name], name)
        if first not in walked.parameters:
            walked.parameters[first] = [walked.terms.atom(int(size)) for size in value.shape]
        walked.parameters[name] = walked.parameters[first]
        return list(walked.parameters[first])
    why = Pin("constant", "", "is a tensor that the model holds outside its state")
    if kind == InputKind.USER_INPUT:
        why = Pin("input", "", "is what the model is given")
    elif kind == InputKind.BUFFER:
        why = Pin("buffer", "", f"{name} cannot be moved: it holds no weights, or is in no state dict")
    return [walked.terms.atom(int(size), why) for size in value.shape]


def _attribute(walked: Walked, node: Node) -> Dims:
    value = node.meta.get("val")
    shape = value.shape if isinstance(value, Tensor) else ()
    return [walked.terms.atom(int(size), Pin("constant", "", "is held by the graph")) for size in shape]


def _called(walked: Walked, node: Node, known: dict[Node, Any], numbered: dict[Any, Numbers]) -> Any:
    """The dimensions of an operation's result, or of each of its results."""
    name = packet_name(node.target)
    if name in ("getitem", "operator.getitem"):
        source: Any = node.args[0]
        index: Any = node.args[1]
        given = known[source]
        if (source, index) in numbered:
            numbered[node] = numbered[source, index]
        return given[index] if given and isinstance(given[0], list) else given
    detached, reason = (frozenset(), None) if walked.gains is None else walked.gains.at(node)
    look = Look(walked.terms, node, known, source_line(node), numbered, detached)
    if not any(isinstance(value, Tensor) for value in _values(node.meta.get("val"))):
        return []
    rule = RULES.get(name)
    if rule is None and isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags:
        rule = broadcast
    if name not in READS and name not in CARRIES:
        look.unread(*node.all_input_nodes)
    results = look.all_pinned("no rule for this operation") if rule is None else _by_rule(look, rule)
    if rule is None or results is None:
        told = name if rule is None else f"{name} (whose rule gives other sizes: please report)"
        walked.unknown[told] = walked.unknown.get(told, 0) + 1
    if results is None:
        look.gives.clear()
        results = look.all_pinned("its rule gives other sizes")
    walked.values += look.inside
    fill(look, results)
    walked.steps.append(seen(look, results))
    if walked.gains is not None:
        mark(look, results, reason)
    several = isinstance(node.meta.get("val"), (list, tuple))
    for place, numbers in look.gives.items():
        numbered[(node, place) if several else node] = numbers
    walked.numbers += look.looked_up
    return results if several else results[0]


def _apart(walked: Walked, node: Node, why: Pin) -> Any:
    """Dimensions that nothing else has, of a value of which no operation is told."""
    value = node.meta.get("val")
    dims = [
        [walked.terms.atom(int(size), why) for size in each.shape] if isinstance(each, Tensor) else []
        for each in _values(value)
    ]
    return dims if isinstance(value, (list, tuple)) else dims[0]


def _shapes_alone(graph: Graph) -> set[Node]:
    """Values of which no more than the shape is used, and what these alone are made of."""
    found: set[Node] = set()
    for node in reversed(graph.nodes):
        of_shape = (
            user in found or (packet_name(user.target) in SHAPES and user.all_input_nodes == [node])
            for user in node.users
        )
        if node.op == "call_function" and node.users and all(of_shape):
            found.add(node)
    return found


def _leaving(
    walked: Walked,
    node: Node,
    known: Mapping[Node, Any],
    numbered: Mapping[Any, Numbers],
    program: Program,
    prefix: str,
) -> None:
    """What the model gives is told apart; what it writes to one of its own tensors has this one's units."""
    terms = walked.terms
    specs = {spec.arg.name: spec for spec in program.graph_signature.output_specs if hasattr(spec.arg, "name")}
    for value in node.all_input_nodes:
        spec = specs.get(value.name)
        if spec is not None and spec.kind.name in ("BUFFER_MUTATION", "PARAMETER_MUTATION"):
            name = f"{prefix}{spec.target}"
            for own, term in zip(walked.parameters.get(name, ()), known[value], strict=False):
                terms.unify(own, term, Pin("copy_", "", f"is written to {name}"))
            if name in walked.parameters:
                continue
        if value in numbered:
            terms.pin(numbered[value].of, numbered[value].why)
        named = "" if prefix else told_by(program, value)
        why = "is what the model gives" + (f" as {named}" if named else "")
        for dims in _each(known[value]):
            for term in dims:
                terms.pin(term, Pin("output", "", why))


def _turned(walked: Walked, node: Node, found: Rotary, known: dict[Node, Any]) -> Dims:
    """[..., n], factors [..., n] or so -> [..., n]: of the n/2 planes the two entries are told apart."""
    terms, dims = walked.terms, list(known[found.source])
    why = Pin("rotary", source_line(node), "planes that places turn by an angle each")
    two, plane = terms.atom(2, why), terms.atom(dims[-1].size // 2)
    plane.plane = found.view
    terms.unify(dims[-1], terms.product([two, plane] if found.view == "outer" else [plane, two]), why)
    for factor in found.factors:
        for own, other in zip(reversed(dims[:-1]), reversed(list(known[factor])[:-1]), strict=False):
            if other.size > 1:
                terms.pin(own, why)
    return dims


def _by_rule(look: Look, rule: Rule) -> list[Dims] | None:
    """The results' dimensions; None where they have other sizes than the results: a fault of ours."""
    found = rule(look)
    results = found if found and isinstance(found[0], list) else [found]
    dims = [[term.size for term in cast(Dims, each)] for each in results]
    if dims != look.shapes[: len(dims)]:
        return None
    _carry(look, look.name, cast(list[Dims], results))
    return cast(list[Dims], results)


def _carry(look: Look, name: str, results: list[Dims]) -> None:
    """Numbers that an operation lays out anew are numbers of the same units."""
    if name not in CARRIES or not look.tensors():
        return
    first = look.tensors()[0]
    look.unread(*look.tensors()[1:])
    numbers = look.numbers(first)
    if numbers is None:
        return
    before, after = int(first.meta["val"].numel()), [math.prod(shape) for shape in look.shapes]
    for place, dims in enumerate(results):
        if after[place] == before:
            look.gives[place] = replace(numbers, dims=dims)
        else:
            source = object()
            look.gives[place] = replace(numbers, dims=dims, source=source, among=source, is_order=False)


def _values(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _each(known: Any) -> list[Dims]:
    return known if known and isinstance(known[0], list) else [known]

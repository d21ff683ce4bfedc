"""What a model gives, by the names that it has there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind
from torch.fx import Node
from torch.utils import _pytree as pytree

from ..calls import STATE
from .light import Program

__all__ = ["places_of", "told_by", "without_state"]


def places_of(program: ExportedProgram) -> tuple[str | None, ...]:
    """Where each output stands in what the model returns, as "logits" or "text.pooled".

    "" where it has no name; None for what the model hands on to its own next call. () where that is not known.
    """
    tree: Any = program.call_spec.out_spec
    try:
        # Whatever a class of outputs looks at, a tensor is what it expects.
        leaves = [torch.empty(0, device="cpu") for _ in range(tree.num_leaves)]
        given = pytree.tree_unflatten(leaves, tree)
    # The code is the class's own, which may want real values, and fail as it likes; nothing but names is lost.
    except Exception:  # noqa: BLE001
        return ()
    found = {id(leaf): where for leaf, where in _leaves(given, "")}
    places = tuple(found.get(id(leaf), "") for leaf in leaves)
    # A model of which nothing else is left gives just that.
    return places if any(place is not None for place in places) else ("",) * len(places)


def without_state(program: Program) -> Program:
    """A program that does not give what a model hands on to its own next call; its graph is changed in place.

    Not for a part of a model: what that hands on others read.
    """
    output = next(node for node in program.graph.nodes if node.op == "output")
    specs = program.graph_signature.output_specs
    places = _by_spec(program)
    kept = [place is not None for place in places]
    values: Any = output.args[0]
    if all(kept) or len(values) != len(specs):
        return program

    def left(entries: Iterable[Any]) -> list[Any]:
        return [each for each, is_kept in zip(entries, kept, strict=True) if is_kept]

    output.args = (tuple(left(values)),)
    signature = replace(program.graph_signature, output_specs=left(specs))
    return Program(
        program.graph, signature, program.constants, tuple(each for each in program.places if each is not None)
    )


def told_by(program: Program, value: Node) -> str:
    """Where a value stands in what the model returns, "" where that has no name."""
    for spec, place in zip(program.graph_signature.output_specs, _by_spec(program), strict=True):
        if place and getattr(spec.arg, "name", None) == value.name:
            return place
    return ""


def _by_spec(program: Program) -> list[str | None]:
    """The places of all outputs of a graph; "" for what it writes to tensors of its own."""
    is_given = [spec.kind == OutputKind.USER_OUTPUT for spec in program.graph_signature.output_specs]
    if sum(is_given) != len(program.places):
        return [""] * len(is_given)
    places = iter(program.places)
    return [next(places) if each else "" for each in is_given]


def _leaves(value: Any, where: str | None) -> Iterator[tuple[Any, str | None]]:
    if isinstance(value, Mapping):
        entries = [(key, entry) for key, entry in value.items() if isinstance(key, str)]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        entries = [(part.name, getattr(value, part.name)) for part in dataclasses.fields(value)]
    elif isinstance(value, (tuple, list)):
        for entry in value:
            yield from _leaves(entry, where)
        return
    else:
        # A cache is of a class of its own.
        for leaf in pytree.tree_leaves(value):
            yield leaf, where
        return
    for name, entry in entries:
        yield from _leaves(entry, None if where is None or name in STATE else f"{where}.{name}".lstrip("."))

"""A spec from the terms that parameters' dimensions have come to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..groups import Axis, Group, Segment
from ..spec import PermutationSpec
from .graph import Walked
from .look import Dims
from .owners import beside, choose_owners, settle_instances
from .terms import Pin, Term, Terms

__all__ = ["Built", "build"]

_SINGLE = Pin("slice", "", "is cut into single units")


class Built:
    """A spec, and why the rest of the axes is fixed.

    Attributes:
        spec: the groups that were found, on the axes of all parameters.
        pinned: by parameter and dimension the reasons why entries stay where they are.
    """

    def __init__(self, spec: PermutationSpec, pinned: dict[str, list[tuple[Pin, ...]]]) -> None:
        self.spec, self.pinned = spec, pinned


def build(walked: Walked, state_order: Sequence[str]) -> Built:
    """Choose owners, name groups, and write down what every axis carries.

    Args:
        walked: the graph's terms.
        state_order: names of the tensors that can be moved, in the model's order.
    """
    terms = walked.terms
    dims = {name: walked.parameters[name] for name in state_order if name in walked.parameters}
    settle_instances(terms, [*walked.values, *dims.values()])
    dims = {name: [_picked_apart(terms, term) for term in of] for name, of in dims.items()}
    near = beside(terms, [*walked.values, *dims.values()])
    joined = {name: _is_joined(terms, of, near) for name, of in dims.items()}
    axes = {name: [terms.product(of[:2]), *of[2:]] if joined[name] else of for name, of in dims.items()}
    owners = choose_owners(terms, near, axes)
    names = _names(terms, axes, owners)
    groups = [
        Group(name, atom.size, None if atom not in owners else names[owners[atom]]) for atom, name in names.items()
    ]
    written = {
        name: tuple(
            Axis(
                tuple(_segments(terms, terms.factors(term), names)),
                dims=2 if joined[name] and position == 0 else 1,
            )
            for position, term in enumerate(of)
        )
        for name, of in axes.items()
    }
    pinned = {name: [_reasons(terms, term) for term in of] for name, of in dims.items()}
    return Built(PermutationSpec({group.name: group for group in groups}, written), pinned)


def _is_joined(terms: Terms, dims: Dims, near: Mapping[Term, set[Term]]) -> bool:
    """Whether the second dimension's units belong to units of the first: channels of a group, units of an expert."""
    if len(dims) < 2:
        return False
    first = {atom for atom in terms.atoms(dims[0]) if atom.pin is None}
    second = {atom for atom in terms.atoms(dims[1]) if atom.pin is None}
    return not first & second and any(near.get(atom, set()) & first for atom in second)


def _reasons(terms: Terms, term: Term) -> tuple[Pin, ...]:
    """Why entries of a dimension stay where they are, some or all; none where all may move."""
    atoms = terms.atoms(term)
    if not atoms:
        return (_SINGLE,) if term.size > 1 else ()
    return tuple(dict.fromkeys(atom.pin for atom in atoms if atom.pin))


def _picked_apart(terms: Terms, term: Term) -> Term:
    """A product whose first factor was picked from, as a sum over what was picked."""
    if term.found().is_sum:
        return terms.sum(_picked_apart(terms, part) for part in terms.parts(term))
    factors = [_picked_apart(terms, factor) if factor.is_sum else factor for factor in terms.factors(term)]
    for position, factor in enumerate(factors):
        rest = factors[position + 1 :]
        picked = {key[0].found() for one in rest for atom in terms.atoms(one) for key in atom.at}
        if factor in picked:
            parts = [terms.instance(terms.product(rest), factor, index) for index in range(factor.size)]
            inner = terms.sum(_picked_apart(terms, part) for part in parts)
            return terms.product([*factors[:position], inner])
    return terms.product(factors) if factors else term


def _names(terms: Terms, axes: Mapping[str, Dims], owners: Mapping[Term, Term]) -> dict[Term, str]:
    """Names of the free atoms on axes: after the module that first writes them; owners before what they own."""
    found: dict[Term, str] = {}
    taken: set[str] = set()

    def name(atom: Term, module: str) -> None:
        if atom in found:
            return
        if atom in owners:
            name(owners[atom], module)
        base, number = module, 1
        while base in taken:
            number += 1
            base = f"{module}:{number}"
        taken.add(base)
        found[atom] = base

    for of_output in (True, False):
        for parameter, dims in axes.items():
            module = parameter.rpartition(".")[0] or parameter
            for d, term in enumerate(dims):
                if (d == 0) == of_output:
                    for atom in terms.atoms(term):
                        if atom.pin is None:
                            name(atom, module)
    return found


def _segments(terms: Terms, factors: Sequence[Term], names: Mapping[Term, str]) -> list[Segment]:
    """What a product carries, as runs of entries."""
    outer = 1
    for position, factor in enumerate(factors):
        rest = factors[position + 1 :]
        size = math.prod(each.size for each in rest)
        if factor.is_sum:
            runs: list[Segment] = []
            for part in terms.parts(factor):
                runs += _segments(terms, [*terms.factors(part), *rest], names)
            return _joined(runs * outer)
        if factor in names:
            inner = _segments(terms, rest, names)
            moves = any(segment.group is not None for segment in inner)
            return [Segment(names[factor], outer, tuple(inner) if moves else size)]
        outer *= factor.size
    return [Segment.fixed(outer)]


def _joined(runs: Sequence[Segment]) -> list[Segment]:
    """Fixed runs beside each other as one."""
    found: list[Segment] = []
    for run in runs:
        if found and run.group is None and found[-1].group is None:
            found[-1] = Segment.fixed((found[-1].length or 0) + (run.length or 0))
        else:
            found.append(run)
    return found

"""A spec from the terms that parameters' dimensions have come to."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from ..groups import Axis, Group, Segment
from ..kinds import KINDS
from ..placing import placed
from ..spec import PermutationSpec
from .graph import Walked
from .look import Dims
from .owners import Beside, choose_owners, levels, monomials, own_orders, settle_instances
from .siblings import siblings
from .terms import Pin, Term, Terms
from .whole import made_whole

__all__ = ["Built", "build"]

_SINGLE = Pin("slice", "", "is cut into single units")
_IN_ORDER = Pin("sort", "", "an order that other units decide stands on a parameter, or is another one at each place")
# Units of an owner that stays: what they own are groups of their own, one for each.
_MOST_ORDERS = 64
_PLANES = Pin("rotary", "", "planes that rotary embedding turns, which something else tells apart")
_INSIDE = Pin("view", "", "pairs of its units stand on one axis")
_TURNS = Pin("view", "", "units that come in turn with others hold more than an entry each")

# The kind of what changes places alone.
PLAIN = "permutation"

# Dimensions of a parameter that an axis spans: from, to.
Run = tuple[int, int]
# Of each atom that is a group together with others all of these.
Kin = Mapping[Term, tuple[Term, ...]]


class Built:
    """A spec, and why the rest of the axes is fixed.

    Attributes:
        spec: the groups that were found, on the axes of all parameters.
        pinned: by parameter and dimension the reasons why entries stay where they are.
        atoms: of every group the term.
        whole: what stands in the places of atoms that a view has split for nothing.
    """

    def __init__(
        self,
        spec: PermutationSpec,
        pinned: dict[str, list[tuple[Pin, ...]]],
        atoms: Mapping[str, Term],
        whole: Mapping[Term, Term],
    ) -> None:
        self.spec, self.pinned, self.atoms, self.whole = spec, pinned, atoms, whole


def build(walked: Walked, state_order: Sequence[str]) -> Built:
    """Choose owners, name groups, and write down what every axis carries.

    Args:
        walked: the graph's terms.
        state_order: names of the tensors that can be moved, in the model's order.
    """
    terms = walked.terms
    dims = {name: walked.parameters[name] for name in state_order if name in walked.parameters}
    whole = _settle(walked, dims)
    dims = {name: [terms.replaced(term, whole) for term in of] for name, of in dims.items()}
    values = [[terms.replaced(term, whole) for term in of] for of in walked.values] if whole else walked.values
    runs = {name: _joined(of, lambda ahead, term: _is_picked_from(terms, ahead, term)) for name, of in dims.items()}
    axes = {name: [_picked_apart(terms, terms.product(dims[name][a:b])) for a, b in runs[name]] for name in dims}
    mixed = {atom for of in axes.values() for term in of for atom in terms.atoms(term) if atom.at and atom.pin is None}
    if mixed:
        # What no axis can say apart is one.
        for atom in mixed:
            terms.make_alike(atom)
        return build(walked, state_order)
    # With the units at each index by themselves.
    every = [each for of in (*values, *dims.values()) for each in levels(terms, of)]
    near = Beside(terms, every, walked.numbers).near
    owners = choose_owners(terms, near, axes.values(), walked.gains is not None)
    pinned = {name: _by_dimension(terms, axes[name], runs[name]) for name in dims}
    for name, of in axes.items():
        joined = _joined(of, lambda ahead, term: _is_owned_by(terms, owners, ahead, term))
        axes[name] = [of[a] if b == a + 1 else terms.product(of[a:b]) for a, b in joined]
        runs[name] = [(runs[name][a][0], runs[name][b - 1][1]) for a, b in joined]
    for find, why in ((_inside_itself, _INSIDE), (_cut_in_turn, _TURNS)):
        inside = {atom for of in axes.values() for term in of for atom in find(terms, term)}
        if inside:
            for atom in inside:
                terms.pin(atom, why)
            for part, term in whole.items():
                if inside & set(terms.atoms(term)):
                    terms.pin(part, why)
            return build(walked, state_order)
    if walked.gains is not None:
        torn = {atom for of in axes.values() for term in of for atom in _torn_planes(terms, term)}
        if torn:
            for atom in torn:
                terms.pin(atom, _PLANES)
            return build(walked, state_order)
    owning = {atom for pair in owners.items() for atom in pair}
    others = {a for of in axes.values() for t in of for a in terms.atoms(t) if a in owning or _kind(walked, a) != PLAIN}
    kin = siblings(terms, axes.values(), every, walked.steps, walked.numbers, others, whole)
    names = _names(terms, axes, owners, kin)
    written = {
        name: tuple(
            Axis(tuple(_segments(terms, terms.factors(term), names, kin)), dims=b - a)
            for term, (a, b) in zip(of, runs[name], strict=True)
        )
        for name, of in axes.items()
    }
    groups, atoms = {}, {}
    for atom, name in names.items():
        owner = None if atom not in owners else names[owners[atom]]
        size = sum(each.size for each in kin.get(atom, (atom,)))
        groups[name] = Group(name, size, owner, _kind(walked, atom))
        atoms[name] = atom
    return Built(PermutationSpec(groups, written), pinned, atoms, whole)


def _kind(walked: Walked, atom: Term) -> str:
    """What an atom's units may do."""
    if atom.plane:
        return "phases"
    if walked.gains is None or atom.stiff is not None:
        return PLAIN
    return "orthogonal_keeping_ones" if atom.keeps_ones else "orthogonal"


def _torn_planes(terms: Terms, term: Term) -> set[Term]:
    """Planes that something acts on entry by entry, or that stand without their two entries beside them."""
    found: set[Term] = set()
    for product in monomials(terms, term):
        for place, atom in enumerate(product):
            if not atom.plane or atom.pin is not None:
                continue
            # Nothing inside of both, and nothing that stays around: a plane would have more than two entries.
            ahead = 1 if atom.plane == "outer" else 0
            before, after = product[max(0, place - ahead - 1) : place - ahead], product[place + 2 - ahead :]
            other = product[place - 1 : place] if ahead else product[place + 1 : place + 2]
            is_pair = [(each.size, each.pin is None) for each in other] == [(KINDS["phases"].entries, False)]
            if atom.stiff is not None or not is_pair or after or any(each.pin is not None for each in before):
                found.add(atom)
    return found


def _settle(walked: Walked, dims: Mapping[str, Dims]) -> dict[Term, Term]:
    """Decide which atoms are one, and pin those whose units come in an order that cannot be followed.

    Returns:
        What stands in the places of atoms that a view has split for nothing, as of `made_whole`.
    """
    terms = walked.terms
    on_parameters = {atom for of in dims.values() for term in of for atom in terms.atoms(term)}
    found = settle_instances(terms, walked.values, dims.values(), walked.numbers)
    for atom, others in list(found.near.items()):
        beside = {each for dim in atom.rows for each in terms.atoms(dim)}
        if atom.follows and (atom in on_parameters or not beside <= others):
            terms.pin(atom, _IN_ORDER)
    # What stands beside units that stay may have an order of its own at each of these.
    at_each = [each for of in dims.values() for each in levels(terms, of)]
    for atom, several in own_orders(terms, found.near, at_each).items():
        # The two entries of a plane stand ahead of it, and move together.
        owners = several[1:] if atom.plane == "outer" else several
        if owners and owners[0].size <= _MOST_ORDERS and atom.pin is None and not atom.at and not atom.is_alike:
            terms.instance(atom, owners[0], 0)
    return made_whole(terms, list(dims.values()), walked.values, walked.numbers)


def _joined(dims: Dims, leads: Callable[[Term, Term], bool]) -> list[Run]:
    """Runs of dimensions to be taken as one: from one that leads units of another to that."""
    runs: list[Run] = []
    for last in range(len(dims)):
        first = next((d for d in range(last) if leads(dims[d], dims[last])), last)
        while runs and runs[-1][1] > first:
            first = min(first, runs.pop()[0])
        runs.append((first, last + 1))
    return runs


def _is_picked_from(terms: Terms, ahead: Term, term: Term) -> bool:
    """Whether a dimension's units are others at each index of a dimension ahead."""
    return bool(_places(terms, term) & set(terms.atoms(ahead)))


def _places(terms: Terms, term: Term) -> set[Term]:
    """What units were picked at, of which the atoms of a term are others at each index."""
    return {key[0].found() for atom in terms.atoms(term) for key in atom.at}


def _is_owned_by(terms: Terms, owners: Mapping[Term, Term], ahead: Term, term: Term) -> bool:
    """Whether units of a dimension belong to units of a dimension ahead: channels of a group, units of an expert."""
    own = set(terms.atoms(term))
    return bool({owners[atom] for atom in own if atom in owners} & (set(terms.atoms(ahead)) - own))


def _inside_itself(terms: Terms, term: Term) -> set[Term]:
    """Atoms that stand in one product twice: no axis can say how that moves."""
    products = monomials(terms, term)
    return {atom for each in products for atom in each if atom.pin is None and each.count(atom) > 1}


def _cut_in_turn(terms: Terms, term: Term) -> set[Term]:
    """Atoms that come in turn with others and have something else behind each unit: no axis can say where that lies."""
    found: set[Term] = set()
    factors = terms.factors(term)
    for place, factor in enumerate(factors):
        if factor.in_turn and place < len(factors) - 1:
            found |= {atom for atom in terms.atoms(factor) if atom.pin is None}
        elif factor.is_sum:
            for part in factor.parts:
                found |= _cut_in_turn(terms, part)
    return found


def _by_dimension(terms: Terms, axes: Dims, runs: Sequence[Run]) -> list[tuple[Pin, ...]]:
    """Why entries stay where they are, by dimension; of dimensions that are taken as one, with the first."""
    found: list[tuple[Pin, ...]] = []
    for term, (a, b) in zip(axes, runs, strict=True):
        found += [_reasons(terms, term), *[()] * (b - a - 1)]
    return found


def _reasons(terms: Terms, term: Term) -> tuple[Pin, ...]:
    """Why entries of a dimension stay where they are, some or all; none where all may move."""
    atoms = terms.atoms(term)
    if not atoms:
        return (_SINGLE,) if term.size > 1 else ()
    return tuple(dict.fromkeys(atom.pin for atom in atoms if atom.pin))


def _picked_apart(terms: Terms, term: Term) -> Term:
    """A product whose first factor was picked from, as a sum over what was picked."""
    if term.found().in_turn:
        return terms.in_turn([_picked_apart(terms, part) for part in term.found().parts])
    if term.found().is_sum:
        return terms.sum(_picked_apart(terms, part) for part in terms.parts(term))
    factors = [_picked_apart(terms, factor) if factor.is_sum else factor for factor in terms.factors(term)]
    for position, factor in enumerate(factors):
        rest = factors[position + 1 :]
        picked = {place for one in rest for place in _places(terms, one)}
        if factor in picked:
            parts = [terms.at(terms.product(rest), factor, index) for index in range(factor.size)]
            inner = terms.sum(_picked_apart(terms, part) for part in parts)
            return _picked_apart(terms, terms.product([*factors[:position], inner]))
        first = next((k for k in range(position) if factor in _places(terms, factors[k])), None)
        if first is not None and not rest:
            # What was picked from runs faster: units of each come in turn.
            front = terms.product(factors[first:position])
            parts = [_picked_apart(terms, terms.at(front, factor, index)) for index in range(factor.size)]
            return _picked_apart(terms, terms.product([*factors[:first], terms.in_turn(parts)]))
        if factor.is_sum and not picked.isdisjoint(terms.atoms(factor)):
            # What was picked from stands in parts that are laid end to end: what is behind them goes with each.
            inner = terms.sum(_picked_apart(terms, terms.product([part, *rest])) for part in terms.parts(factor))
            return _picked_apart(terms, terms.product([*factors[:position], inner]))
    return terms.product(factors) if factors else term


def _names(terms: Terms, axes: Mapping[str, Dims], owners: Mapping[Term, Term], kin: Kin) -> dict[Term, str]:
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
        found.update(dict.fromkeys(kin.get(atom, (atom,)), base))

    for of_output in (True, False):
        for parameter, dims in axes.items():
            module = parameter.rpartition(".")[0] or parameter
            for d, term in enumerate(dims):
                if (d == 0) == of_output:
                    for atom in terms.atoms(term):
                        # A unit by itself has nothing to change places with.
                        if atom.pin is None and (atom.size > 1 or atom in kin):
                            name(atom, module)
    return found


def _segments(terms: Terms, factors: Sequence[Term], names: Mapping[Term, str], kin: Kin) -> list[Segment]:
    """What a product carries, as runs of entries."""
    outer = 1
    for position, factor in enumerate(factors):
        rest = factors[position + 1 :]
        size = math.prod(each.size for each in rest)
        if factor.in_turn and names.keys().isdisjoint(terms.atoms(factor)):
            # All of it stays, and what is behind it is the same in each.
            outer *= factor.size
            continue
        if factor.in_turn:
            several = [_segments(terms, terms.factors(part), names, kin) for part in factor.parts]
            return _as_one(_in_turn(several, {name: atom.size for atom, name in names.items()}) * outer)
        if factor.is_sum:
            runs: list[Segment] = []
            for part in terms.parts(factor):
                first = next(iter(terms.factors(part)), None)
                several_of = kin.get(first, ()) if first is not None else ()
                if several_of and first is not several_of[0]:
                    continue
                of_part = _segments(terms, [*terms.factors(part), *rest], names, kin)
                if several_of:
                    of_part = [replace(of_part[0], runs=_runs(terms, factor, several_of, size))]
                runs += of_part
            return _as_one(runs * outer)
        if factor in names:
            inner = _segments(terms, rest, names, kin)
            moves = any(segment.group is not None for segment in inner)
            return [Segment(names[factor], outer, tuple(inner) if moves else size)]
        outer *= factor.size
    return [Segment.fixed(outer)]


def _runs(terms: Terms, whole: Term, several: Collection[Term], behind: int) -> tuple[int, ...]:
    """Where the parts of a sum lie that these atoms are the first factors of, as of `Segment.runs`.

    Args:
        behind: how many entries each of the sum's own has.
    """
    found: list[int] = []
    is_own = False
    for part in terms.parts(whole):
        was_own, is_own = is_own, next(iter(terms.factors(part)), None) in several
        if is_own == was_own and found:
            found[-1] += part.size * behind
        elif is_own or found:
            found.append(part.size * behind)
    found = found if is_own else found[:-1]
    return tuple(found) if len(found) > 1 else ()


def _in_turn(several: Sequence[list[Segment]], sizes: Mapping[str, int]) -> list[Segment]:
    """Runs of which each takes its turn: those of the first, of the second, and again of the first."""
    found = [
        (place.run.offset * len(several) + turn, replace(place.segment, step=place.run.step * len(several)))
        for turn, runs in enumerate(several)
        for place in placed(tuple(runs), sizes)
    ]
    return [run for _, run in sorted(found, key=lambda each: each[0])]


def _as_one(runs: Sequence[Segment]) -> list[Segment]:
    """Fixed runs beside each other as one; around what lies in several runs they may not be beside each other."""
    if any(run.runs for run in runs):
        return list(runs)
    found: list[Segment] = []
    for run in runs:
        if found and run.group is None and found[-1].group is None and run.step == found[-1].step == 1:
            found[-1] = Segment.fixed((found[-1].length or 0) + (run.length or 0))
        else:
            found.append(run)
    return found

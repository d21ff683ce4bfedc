"""Units that a view has taken for rows and columns, and that nothing treats as such: one dimension again.

A view splits 12 units into 3 times 4, and a later one lays them out as before. Where neither the 3 nor the 4 ever
stands without the other, in no value and in no parameter, every operation treats all 12 alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .look import Dims, Numbers
from .owners import monomials
from .terms import Term, Terms

__all__ = ["made_whole"]

# An atom, and the one that stands behind it.
Pair = tuple[Term, Term]
# A dimension as a sum of products of atoms.
Products = list[list[Term]]


def made_whole(
    terms: Terms, parameters: Sequence[Dims], values: Sequence[Dims], numbers: Iterable[Numbers]
) -> dict[Term, Term]:
    """For atoms that always stand together what stands in their places: for the first of them one new atom, for those
    behind it none, which is a product of nothing.

    Args:
        terms: of the graph.
        parameters: the dimensions of each; there the second stands right behind the first, in one dimension.
        values: those of the graph's values, and of what operations make inside.
        numbers: units that are numbered, or hold numbers, stay as they are.
    """
    found: dict[Term, Term] = {}
    numbered = {atom for each in numbers for dim in (each.of, *each.dims) for atom in terms.atoms(dim)}
    # Of what others hold at an index only these know.
    seen = {atom for dims in (*parameters, *values) for term in dims for atom in terms.atoms(term) if atom.at}
    while seen:
        held = {each for atom in seen for instance in atom.at.values() for each in terms.atoms(instance)} - numbered
        numbered |= held
        seen = {atom for atom in held if atom.at}
    while pairs := _pairs(terms, parameters, values, numbered):
        others: dict[Term, Term] = {}
        for first, second in pairs:
            if not others.keys() & {first, second}:
                both = terms.asked_alike(terms.atom(first.size * second.size), (first, second))
                others |= {first: both, second: terms.atom(1)}
        found = {atom: terms.replaced(term, others) for atom, term in found.items()} | others
        parameters, values = (
            [[terms.replaced(term, others) for term in dims] for dims in several] for several in (parameters, values)
        )
    return found


def _pairs(terms: Terms, parameters: Sequence[Dims], values: Sequence[Dims], numbered: set[Term]) -> list[Pair]:
    """Atoms of which one always stands behind the other."""
    behind: dict[Term, set[Term | None]] = {}
    ahead: dict[Term, set[Term | None]] = {}
    for product in (product for dims in parameters for term in dims for product in monomials(terms, term)):
        for one, other in zip([None, *product], [*product, None], strict=True):
            if one is not None:
                behind.setdefault(one, set()).add(other)
            if other is not None:
                ahead.setdefault(other, set()).add(one)
    pairs = []
    for first, others in behind.items():
        second = next(iter(others))
        if len(others) > 1 or second is None or ahead[second] != {first} or first is second:
            continue
        if all(_is_plain(atom) and atom not in numbered for atom in (first, second)):
            pairs.append((first, second))
    of: dict[Term, list[Pair]] = {}
    for pair in pairs:
        for atom in pair:
            of.setdefault(atom, []).append(pair)
    apart: set[Pair] = set()
    for dims in {tuple(term.found() for term in dims): None for dims in values}:
        atoms = {atom for term in dims for atom in terms.atoms(term)}
        # Units in whose order others come are looked at by themselves.
        apart.update(
            pair
            for atom in atoms
            for other in (*atom.follows, *atom.rows)
            for each in terms.atoms(other)
            for pair in of.get(each, ())
        )
        here = {pair for atom in atoms for pair in of.get(atom, ())} - apart
        if here:
            split = [monomials(terms, term) for term in dims]
            apart |= {pair for pair in here if not _stand_together(split, *pair)}
    return [pair for pair in pairs if pair not in apart]


def _is_plain(atom: Term) -> bool:
    """Whether an atom is free, and is neither picked from nor picked, nor in an order that others decide."""
    return atom.pin is None and not atom.at and atom.of is None and not atom.follows and not atom.plane


def _stand_together(split: Sequence[Products], first: Term, second: Term) -> bool:
    """Whether each entry of a value belongs to one unit of both, or to none of either."""
    if all(_is_followed(product, first, second) for products in split for product in products):
        return True
    # Or in two places, as where heads are moved ahead of the places of a sequence.
    homes = [[products for products in split if any(atom in each for each in products)] for atom in (first, second)]
    if [len(home) for home in homes] != [1, 1]:
        return False
    (one,), (other,) = homes
    if one is other:
        return all(product.count(first) == product.count(second) <= 1 for product in one)
    return all(product.count(first) == 1 for product in one) and all(product.count(second) == 1 for product in other)


def _is_followed(product: Sequence[Term], first: Term, second: Term) -> bool:
    """Whether the second stands behind each of the first in a product, and nowhere else."""
    behind = [k + 1 for k, atom in enumerate(product) if atom is first]
    return behind == [k for k, atom in enumerate(product) if atom is second]

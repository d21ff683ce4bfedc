"""Which units belong to which: owners of atoms, by what stands beside them wherever they stand.

An atom may be permuted in another way for each unit of an owner if that stands beside it in every value and every
parameter in which the atom occurs: heads own their value dimensions, groups of a convolution their channels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from .look import Dims
from .terms import Pin, Term, Terms

__all__ = ["beside", "choose_owners", "monomials", "settle_instances"]

_NESTED = "stands inside units that do not own it, which a spec cannot say yet"


def monomials(terms: Terms, term: Term) -> list[list[Term]]:
    """A term as a sum of products of atoms, those that are pinned among them."""
    found: list[list[Term]] = [[]]
    for factor in terms.factors(term):
        if factor.is_sum:
            choices = [each for part in terms.parts(factor) for each in monomials(terms, part)]
            found = [[*before, *choice] for before in found for choice in choices]
        else:
            found = [[*before, factor] for before in found]
    return found


def beside(terms: Terms, values: Iterable[Dims]) -> dict[Term, set[Term]]:
    """For every atom those that stand beside it in each value that it is in, once."""
    found: dict[Term, set[Term]] = {}
    for dims in values:
        split = [[Counter(each) for each in monomials(terms, term)] for term in dims]
        sure = [Counter({atom: max(each[atom] for each in of) for atom in set.union(*map(set, of))}) for of in split]
        always = [set.intersection(*map(set, of)) for of in split]
        for d, of in enumerate(split):
            others = [each for k, each in enumerate(sure) if k != d]
            elsewhere = set().union(*(each for k, each in enumerate(always) if k != d))
            for product in of:
                count = product + sum(others, Counter())
                here = {atom for atom in elsewhere | set(product) if count[atom] == 1}
                for atom in product:
                    near = here - {atom}
                    found[atom] = found[atom] & near if atom in found else near
    return found


def settle_instances(terms: Terms, values: Sequence[Dims]) -> None:
    """Make instances of an atom one with it, unless what they were picked from stands beside it everywhere."""
    changed = True
    while changed:
        changed = False
        near = beside(terms, values)
        for atom in list(near):
            picked = {key[0].found() for key in atom.at}
            if len(picked) == 1 and all(one.is_atom and one in near[atom] for one in picked):
                continue
            if atom.at:
                terms.make_alike(atom)
                changed = True


def choose_owners(terms: Terms, values: Sequence[Dims], axes: Mapping[str, Dims]) -> dict[Term, Term]:
    """For every owned atom its owner; atoms are pinned until a spec can say what is left.

    An owner has to run slower than what it owns, on every axis on which that is.
    """
    while True:
        near = beside(terms, values)
        products = [
            [atom for atom in product if atom.pin is None]
            for dims in axes.values()
            for term in dims
            for product in monomials(terms, term)
        ]
        owners: dict[Term, Term] = {}
        for product in products:
            for position, atom in enumerate(product):
                ahead = [other for other in product[:position] if other in near[atom]]
                if ahead and _is_led(atom, ahead[-1], products):
                    owners.setdefault(atom, ahead[-1])
        wrong = next(
            ((one, two) for product in products for one, two in pairwise(product) if owners.get(two) is not one),
            None,
        )
        if wrong is None:
            return owners
        fewer = min(wrong, key=lambda atom: math.lgamma(atom.size + 1) * _times(atom, owners))
        terms.pin(fewer, Pin("spec", "", _NESTED))


def _is_led(atom: Term, owner: Term, products: Sequence[Sequence[Term]]) -> bool:
    """Whether the owner runs right before the atom wherever that is."""
    return all(
        product.index(atom) > 0 and product[product.index(atom) - 1] is owner for product in products if atom in product
    )


def _times(atom: Term, owners: Mapping[Term, Term]) -> int:
    count = 1
    while atom in owners:
        atom = owners[atom]
        count *= atom.size
    return count

"""Which units belong to which: owners of atoms, by what stands beside them wherever they stand.

An atom may be permuted in another way for each unit of an owner if that stands beside it in every value and every
parameter in which the atom occurs: heads own their value dimensions, groups of a convolution their channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from .look import Dims
from .terms import Term, Terms

__all__ = ["beside", "choose_owners", "monomials", "settle_instances"]


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


def choose_owners(terms: Terms, near: Mapping[Term, set[Term]], axes: Mapping[str, Dims]) -> dict[Term, Term]:
    """For every owned atom its owner: of those that stand beside it everywhere, and run slower on each of its axes,
    the nearest."""
    products = [
        [atom for atom in product if atom.pin is None]
        for dims in axes.values()
        for term in dims
        for product in monomials(terms, term)
    ]
    owners: dict[Term, Term] = {}
    for atom in dict.fromkeys(atom for product in products for atom in product):
        mine = [product[: product.index(atom)] for product in products if atom in product]
        led = [other for other in mine[0] if other in near[atom] and all(other in ahead for ahead in mine)]
        if led:
            owners[atom] = led[-1]
    return owners

"""Which units belong to which: owners of atoms, by what stands beside them wherever they stand.

An atom may be permuted in another way for each unit of an owner if that stands beside it in every value and every
parameter in which the atom occurs: heads own their value dimensions, groups of a convolution their channels. Where
entries hold numbers of another dimension's units, as those of experts that tokens were sent to, such a unit stands
beside them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from .look import Dims, Numbers
from .terms import Pin, Term, Terms

__all__ = ["Beside", "choose_owners", "levels", "monomials", "settle_instances"]


def monomials(terms: Terms, term: Term) -> list[list[Term]]:
    """A term as a sum of products of atoms, those that are pinned among them."""
    found: list[list[Term]] = [[]]
    for factor in terms.factors(term):
        if factor.is_sum:
            parts = factor.parts if factor.in_turn else terms.parts(factor)
            choices = [each for part in parts for each in monomials(terms, part)]
            found = [[*before, *choice] for before in found for choice in choices]
        else:
            found = [[*before, factor] for before in found]
    return found


class Beside:
    """For every atom those that stand beside it in each value that it is in, once.

    Args:
        terms: of the graph.
        values: the dimensions of all values and parameters.
        numbers: the numbers of units among them.
    """

    def __init__(self, terms: Terms, values: Iterable[Dims], numbers: Iterable[Numbers] = ()) -> None:
        self.terms = terms
        self.near: dict[Term, set[Term]] = {}
        self._split: dict[Term, list[Counter[Term]]] = {}
        self._told: dict[Term, list[tuple[frozenset[Term], object, list[Term]]]] = defaultdict(list)
        for each in numbers:
            self._number(each)
        # The same dimensions say the same, however many values have them.
        for dims in {tuple(term.found() for term in of): None for of in values}:
            self._see(dims)

    def _number(self, numbers: Numbers) -> None:
        places = [atom for dim in numbers.dims for atom in self.terms.atoms(dim)]
        units = self.terms.atoms(numbers.of)
        if numbers.kind == "unit" and places and len(set(places)) == len(places) and not set(places) & set(units):
            # Looked for by the atom that was made last, which fewest values have.
            rarest = max(places, key=lambda atom: atom.number)
            self._told[rarest].append((frozenset(places), numbers.source, units))

    def _monomials(self, term: Term) -> list[Counter[Term]]:
        if term not in self._split:
            self._split[term] = [Counter(each) for each in monomials(self.terms, term)]
        return self._split[term]

    def _see(self, dims: tuple[Term, ...]) -> None:
        split = [self._monomials(term) for term in dims]
        always = [set.intersection(*map(set, of)) for of in split]
        # How often each atom stands in the other dimensions, at most; and those that are there whatever the unit.
        most: list[Counter[Term]] = []
        for of in split:
            counts: Counter[Term] = Counter()
            for product in of:
                counts |= product
            most.append(counts)
        total = sum(most, Counter())
        sure = Counter(atom for atoms in always for atom in atoms)
        for own, counts, of in zip(always, most, split, strict=True):
            others = total - counts
            elsewhere = {atom for atom in sure if sure[atom] > (atom in own)}
            for product in of:
                count = product + others
                here = elsewhere | set(product)
                self._tell(here, count)
                once = {atom for atom in here if count[atom] == 1}
                for atom in product:
                    near = once - {atom}
                    self.near[atom] = self.near[atom] & near if atom in self.near else near

    def _tell(self, here: set[Term], count: Counter[Term]) -> None:
        """Add the units whose numbers the entries have."""
        sources = {}
        for atom in here:
            for places, source, units in self._told.get(atom, ()):
                if places <= here:
                    sources[source] = units
        for units in sources.values():
            here |= set(units)
            count.update(units)


def levels(terms: Terms, dims: Dims, done: frozenset[Term] = frozenset()) -> Iterator[Dims]:
    """Dimensions, and these as they are at each index of one of them from which others were picked."""
    yield dims
    places = [place for term in dims for atom in terms.atoms(term) for place in atom.at if place[0] not in done]
    if places:
        picked = places[0][0]
        for index in dict.fromkeys(index for other, index in places if other is picked):
            yield from levels(terms, [terms.at(term, picked, index) for term in dims], done | {picked})


def settle_instances(
    terms: Terms, values: Iterable[Dims], parameters: Iterable[Dims], numbers: Sequence[Numbers]
) -> Beside:
    """Make instances of an atom one with it, unless what they were picked from stands beside it everywhere, and
    before it, or last on its dimension, in every parameter: there its units can be written down for each index.

    Returns:
        What stands beside what then.
    """
    values, parameters = list(values), list(parameters)
    # First by where atoms stand themselves: few of them are left to be looked at for every index.
    is_deep = False
    while True:
        for atom in {atom: None for dims in (*values, *parameters) for term in dims for atom in terms.atoms(term)}:
            if atom.same is None and atom.at:
                _tidy(terms, atom)
        seen, on_axes = values, parameters
        if is_deep:
            seen, on_axes = ([each for of in several for each in levels(terms, of)] for several in (values, parameters))
        found = Beside(terms, [*seen, *on_axes], numbers)
        orders: dict[Term, list[tuple[list[Term], Dims]]] = {}
        for dims in on_axes:
            for order in monomials(terms, terms.product(dims)):
                for atom in order:
                    if atom.at:
                        orders.setdefault(atom, []).append((order, dims))
        counts = {place[0].found() for atom in found.near for place in atom.at}
        several = [
            atom
            for atom in found.near
            if atom.at and not _stands_apart(terms, atom, found.near[atom], orders.get(atom, ()), counts)
        ]
        for atom in several:
            terms.make_alike(atom)
        if not several:
            if is_deep:
                return found
            is_deep = True


def _tidy(terms: Terms, atom: Term) -> None:
    """What instances were picked from may have been found to be another atom, and an instance to be the atom."""
    for (picked, index), instance in list(atom.at.items()):
        if picked.same is not None and picked.found().is_atom and (picked, index) in atom.at:
            del atom.at[picked, index]
            known = atom.at.setdefault((picked.found(), index), instance)
            terms.unify(instance, known, Pin("select", "", "one unit of two"))
    inside, seen = [atom], set()
    while inside:
        for instance in inside.pop().at.values():
            for each in terms.atoms(instance):
                if each is atom:
                    terms.make_alike(atom)
                    return
                if each not in seen:
                    seen.add(each)
                    inside.append(each)


def _stands_apart(
    terms: Terms, atom: Term, near: set[Term], orders: Iterable[tuple[list[Term], Dims]], counts: set[Term]
) -> bool:
    """Whether what an atom was picked at stands beside it everywhere, and where its units can be written down for each
    index: before it on parameters, or last on the same dimension, but for what others were picked at."""
    picked = {key[0] if key[0].same is None else None for key in atom.at}
    if len(picked) != 1:
        return False
    (one,) = picked
    if one is None or one not in near:
        return False
    return all(
        one in order[: order.index(atom)]
        or all(
            one in own and counts.issuperset(own[own.index(one) :])
            for term in dims
            for own in monomials(terms, term)
            if atom in own
        )
        for order, dims in orders
    )


def own_orders(
    terms: Terms, near: Mapping[Term, set[Term]], parameters: Iterable[Dims], is_free: bool = False
) -> dict[Term, list[Term]]:
    """For every free atom on parameters those atoms at each of whose units it may have another order, the nearest
    first: they stand beside it everywhere, and run slower in each of its parameters."""
    ahead: dict[Term, list[list[Term]]] = {}
    for dims in parameters:
        for product in monomials(terms, terms.product(dims)):
            for place, atom in enumerate(product):
                if atom.pin is None:
                    ahead.setdefault(atom, []).append(product[:place])
    return {
        atom: [
            other
            for other in reversed(several[0])
            if (other.pin is None) == is_free
            and other.size > 1
            and other in near.get(atom, ())
            and all(other in each for each in several)
        ]
        for atom, several in ahead.items()
    }


def choose_owners(
    terms: Terms, near: Mapping[Term, set[Term]], parameters: Iterable[Dims], is_turning: bool = False
) -> dict[Term, Term]:
    """For every owned atom its owner, the nearest of those that may be.

    Args:
        is_turning: whether atoms that are free to turn own nothing, since their units would have to stay apart.
    """
    found = own_orders(terms, near, parameters, is_free=True)
    if is_turning:
        found = {atom: [other for other in others if other.stiff is not None] for atom, others in found.items()}
    return {atom: others[0] for atom, others in found.items() if others}

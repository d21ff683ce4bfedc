"""What a dimension is made of: atoms, products of terms, sums of terms; and when two dimensions are one.

A dimension of a value is a term. An atom is a set of units that nothing has told to be more. A product is what `view`
merges or splits, its first factor running slowest; a sum is what `cat` and `slice` make, its parts end to end. Two
dimensions that an operation lays over each other are unified: both are refined to their common parts, wherever else
they stand. 96 with a product of 6 and 16 makes that 96 such a product; a sum of 32 and 64 with the same product makes
the 6 a sum of 2 and 4. What has no common parts is pinned: its units stay where they are.

An instance of an atom is that atom at one index of another one, which `select` has picked: query, key and value, split
off a dimension of three, may each permute their units in their own way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from .term import MOST_CUT, Pin, Term

__all__ = ["Pin", "Term", "Terms"]


class Terms:
    """Makes terms, and holds what is known of them."""

    def __init__(self) -> None:
        self._count = 0

    def atom(self, size: int, pin: Pin | None = None) -> Term:
        """A new atom."""
        self._count += 1
        made = Term(size, number=self._count)
        made.pin = pin
        return made

    def loose(self, size: int, holds: object = None) -> Term:
        """A new atom of a value that is the same at all of its units."""
        made = self.atom(size)
        made.is_loose, made.holds = True, holds
        return made

    def afresh(self, dims: Sequence[Term]) -> list[Term]:
        """A value's dimensions for one more use of it: loose atoms that are not pinned are others each time."""
        loose = {atom for term in dims for atom in self.atoms(term) if atom.is_loose and atom.pin is None}
        if not loose:
            return list(dims)
        others = {atom: self.asked_alike(self.loose(atom.size, atom.holds), [atom]) for atom in loose}
        return [self.replaced(term, others) for term in dims]

    def replaced(self, term: Term, others: Mapping[Term, Term]) -> Term:
        """A term with other terms in place of some of its atoms."""
        term = term.found()
        if term.is_atom:
            return others.get(term, term)
        if not others.keys() & set(self.atoms(term)):
            return term
        return self.alike(term, [self.replaced(part, others) for part in term.parts])

    def alike(self, term: Term, parts: Sequence[Term]) -> Term:
        """A product or a sum of these parts, as a term is one of its own."""
        if term.in_turn:
            return self.in_turn(parts)
        return self.sum(parts) if term.is_sum else self.product(parts)

    def in_turn(self, parts: Sequence[Term]) -> Term:
        """Terms whose entries come in turn; of one size, or the first few with one more each."""
        parts = [part for part in parts if part.size]
        if len(parts) == 1:
            return parts[0].found()
        made = Term(sum(part.size for part in parts), tuple(parts), is_sum=True)
        made.in_turn = True
        return made

    def product(self, factors: Iterable[Term]) -> Term:
        """The product of terms, the first running slowest; of none a pinned single."""
        flat = [factor for term in factors for factor in self.factors(term)]
        if len(flat) == 1:
            return flat[0]
        if not flat:
            return self.atom(1)
        return Term(math.prod(factor.size for factor in flat), tuple(flat))

    def sum(self, parts: Iterable[Term]) -> Term:
        """Terms end to end."""
        flat: list[Term] = []
        for part in parts:
            term = part.found()
            flat += [p.found() for p in term.parts] if term.is_sum and not term.in_turn else [term] if term.size else []
        if len(flat) == 1:
            return flat[0]
        if not flat:
            return self.atom(0)
        return Term(sum(part.size for part in flat), tuple(flat), is_sum=True)

    def factors(self, term: Term) -> list[Term]:
        """The factors of a term, none of which is a product, or a single that is no unit."""
        term = term.found()
        if term.size == 1 and not term.is_unit and term.is_atom:
            return []
        if term.parts and not term.is_sum:
            return [factor for part in term.parts for factor in self.factors(part)]
        return [term]

    def parts(self, term: Term) -> list[Term]:
        """The parts of a term, none of which is empty or lies end to end itself."""
        term = term.found()
        if term.is_sum and not term.in_turn:
            return [part for given in term.parts for part in self.parts(given)]
        return [term] if term.size else []

    def atoms(self, term: Term) -> list[Term]:
        """The atoms of a term, in the order in which they stand; one that stands twice comes twice."""
        term = term.found()
        if term.is_atom:
            return [term] if term.counts else []
        return [atom for part in term.parts for atom in self.atoms(part)]

    def pin(self, term: Term, why: Pin) -> None:
        """Its units stay where they are."""
        for atom in self.atoms(term):
            if atom.pin is None:
                atom.pin = why
                for term in (*atom.at.values(), *atom.follows):
                    self.pin(term, why)

    def stiffen(self, term: Term, why: Pin) -> None:
        """Its units may change places and no more."""
        for atom in self.atoms(term):
            if atom.stiff is None:
                atom.stiff = why
                for instance in atom.at.values():
                    self.stiffen(instance, why)

    def keep_ones(self, term: Term) -> None:
        """What turns it has to keep the vector of ones."""
        for atom in self.atoms(term):
            if not atom.keeps_ones:
                atom.keeps_ones = True
                for instance in atom.at.values():
                    self.keep_ones(instance)

    def asked_alike(self, atom: Term, others: Iterable[Term]) -> Term:
        """An atom, of which is asked what is asked of these."""
        for other in others:
            atom.stiff = atom.stiff or other.stiff
            atom.keeps_ones = atom.keeps_ones or other.keeps_ones
        return atom

    def follow(self, atom: Term, others: Iterable[Term], rows: Iterable[Term] = ()) -> None:
        """An atom's units come in an order that these terms' units decide, at each index of rows in another one."""
        found = atom.found()
        found.follows, found.rows = (*found.follows, *others), (*found.rows, *rows)
        if found.pin is not None:
            for other in found.follows:
                self.pin(other, found.pin)

    def unify(self, one: Term, other: Term, why: Pin) -> None:
        """The two are the same dimension: refined to common parts, or pinned for this reason where they have none."""
        one, other = one.found(), other.found()
        assert one.size == other.size, f"{one!r} and {other!r} cannot be one dimension"
        if one is not other:
            self._align(self.factors(one), self.factors(other), why)

    def _align(self, left: Sequence[Term], right: Sequence[Term], why: Pin) -> None:
        """Unify two products from the front as far as it goes, then from the back; pin what is left between."""
        left, right = list(left), list(right)
        for end in (0, -1):
            while left and right:
                a, b = left[end].found(), right[end].found()
                if a.parts and not a.is_sum:
                    left[end : end + 1 or None] = self.factors(a)
                elif b.parts and not b.is_sum:
                    right[end : end + 1 or None] = self.factors(b)
                elif a.size == b.size:
                    del left[end], right[end]
                    if a is not b:
                        self._merge(a, b, why)
                elif self._is_settled((*left, *right)) or not self._cut_alike(a, b, end):
                    break
        for one, other in ((left, right), (right, left)):
            parts = self.parts(one[0]) if len(one) == 1 else []
            # Parts may end within units, which stay then, and what each holds keeps its order; equal parts would merge.
            apart = len({id(part.found()) for part in parts}) == len(parts)
            if len(parts) > 1 and len(other) > 1 and (apart or self._is_settled(other[1:])):
                self._meet(parts, [self.product(other)], why)
                return
        for term in (*left, *right):
            self.pin(term, Pin(why.op, why.where, f"{why.why}: sizes without common parts"))

    def _is_settled(self, terms: Iterable[Term]) -> bool:
        """Whether all of it is pinned, so that nothing is to be learnt."""
        return all(atom.pin for term in terms for atom in self.atoms(term))

    def _cut_alike(self, a: Term, b: Term, end: int) -> bool:
        """Make products of two terms, whose first or last factors have one size; False where they do not allow it."""
        common = math.gcd(a.size, b.size)
        firsts = [common if end == 0 else term.size // common for term in (a, b)]
        return common > 1 and all(
            term.size == common or self._split(term, first) for term, first in zip((a, b), firsts, strict=True)
        )

    def _split(self, term: Term, first: int) -> bool:
        """Make a term a product whose first factor has this size; False where a sum's parts do not allow it."""
        rest = term.size // first
        if term.is_atom:
            self._become(term, Term(term.size, (self.atom(first, term.pin), self.atom(rest, term.pin))))
            return True
        parts = self.parts(term)
        if term.in_turn or any(part.size % rest for part in parts):
            return False
        inner = self.atom(rest)
        heads = []
        for part in parts:
            head = self.atom(part.size // rest)
            self.unify(part, self.product([head, inner]), Pin("view", "", "parts of a sum are split alike"))
            heads.append(head)
        term.same = Term(term.size, (self.sum(heads), inner))
        return True

    def apart(self, term: Term, count: int, why: Pin) -> None:
        """Make a sum a product of a count and of what stands at each of its indices: as many runs of one size, each
        of which keeps units of its own. What is no sum, or has no end there, stays as it is."""
        term = term.found()
        if not term.is_sum or term.in_turn or term.size % count:
            return
        size, runs = term.size // count, []
        behind = self.parts(term)
        while behind:
            run: list[Term] = []
            while behind and sum(part.size for part in run) < size:
                run.append(behind.pop(0))
            if sum(part.size for part in run) != size:
                return
            runs.append(self.sum(run))
        if all(run is runs[0] for run in runs) or self._is_settled(runs):
            return
        picked, units = self.atom(count, why), self.atom(size)
        for index, each in enumerate(runs):
            units.at[picked, index] = each
        term.same = Term(term.size, (picked, units))

    def _merge(self, a: Term, b: Term, why: Pin) -> None:
        """Unify an atom or a sum with another one of its size."""
        if a.is_atom and b.is_atom and self._are_kin(a, b):
            base = a
            while base.of is not None:
                base = base.of.found()
            self.make_alike(base)
            a.of = b.of = None
            self.unify(a, b, why)
        elif a.is_atom:
            self._become(a, b)
        elif b.is_atom:
            self._become(b, a)
        elif a.in_turn and b.in_turn:
            is_alike = [part.size for part in a.parts] == [part.size for part in b.parts]
            for one, other in zip(a.parts, b.parts, strict=True) if is_alike else ():
                self.unify(one, other, why)
            for term in () if is_alike else (a, b):
                self.pin(term, why)
        else:
            self._meet(self.parts(a), self.parts(b), why)

    def _are_kin(self, a: Term, b: Term) -> bool:
        """Whether one is an instance of the other, or of an instance of it."""
        for one, other in ((a, b), (b, a)):
            while one.of is not None and not one.is_alike:
                one = one.of.found()
                if one is other:
                    return True
        return False

    def make_alike(self, atom: Term) -> None:
        """All instances of an atom are the atom itself."""
        atom = atom.found()
        if not atom.is_atom:
            for part in self.atoms(atom):
                self.make_alike(part)
            return
        atom.is_alike = True
        instances, atom.at = list(atom.at.values()), {}
        for instance in instances:
            self.make_alike(instance)
            instance.found().of = None
            self.unify(instance, atom, Pin("select", "", "units that are also used together with the others"))

    def _meet(self, left: Sequence[Term], right: Sequence[Term], why: Pin) -> None:
        """Unify the parts of two sums, cutting what is longer."""
        left, right = list(left), list(right)
        if self._is_settled((*left, *right)):
            return
        while left and right:
            a, b = left.pop(0).found(), right.pop(0).found()
            if a.size > b.size:
                first, rest = self.cut(a, b.size, why)
                left.insert(0, rest)
                a = first
            elif b.size > a.size:
                first, rest = self.cut(b, a.size, why)
                right.insert(0, rest)
                b = first
            self.unify(a, b, why)

    def cut(self, term: Term, at: int, why: Pin) -> tuple[Term, Term]:
        """The term as two, one behind the other, the first of this size; units stay where that cuts through one."""
        term = term.found()
        if at == 0 or at == term.size:
            empty = self.atom(0)
            return (empty, term) if at == 0 else (term, empty)
        if term.is_atom:
            first, rest = self.atom(at, term.pin), self.atom(term.size - at, term.pin)
            self._become(term, Term(term.size, (first, rest), is_sum=True))
            return first, rest
        if term.in_turn:
            return self._cut_in_turn(term.parts, at, why)
        if term.is_sum:
            before: list[Term] = []
            behind = self.parts(term)
            while behind and at >= behind[0].size:
                at -= behind[0].size
                before.append(behind.pop(0))
            if at:
                first, rest = self.cut(behind[0], at, why)
                before.append(first)
                behind[:1] = [rest]
            return self.sum(before), self.sum(behind)
        leading, *others = self.factors(term)
        unit = term.size // leading.size
        if at % unit == 0:
            first, rest = self.cut(leading, at // unit, why)
            return self.product([first, *others]), self.product([rest, *others])
        picked = others[0].found()
        if len(others) == 1 and any(place.found() is picked for place, _ in leading.at):
            return self._cut_in_turn([self.instance(leading, picked, k) for k in range(unit)], at, why)
        self.pin(leading if leading.is_atom and leading.size <= MOST_CUT else term, why)
        if self._is_settled([term]):
            return self.atom(at, why), self.atom(term.size - at, why)
        # What is cut through stays; what each unit holds has an order of its own, and is cut where that one is.
        held = [self.instance(self.product(others), leading, k) for k in range(leading.size)]
        first, rest = self.cut(held[at // unit], at % unit, why)
        return self.sum([*held[: at // unit], first]), self.sum([rest, *held[at // unit + 1 :]])

    def _cut_in_turn(self, parts: Sequence[Term], at: int, why: Pin) -> tuple[Term, Term]:
        """What comes in turn as two, one behind the other: in the second the next one takes the first turn."""
        turns, further = divmod(at, len(parts))
        pieces = [self.cut(part, turns + (k < further), why) for k, part in enumerate(parts)]
        behind = [rest for _, rest in pieces]
        return self.in_turn([first for first, _ in pieces]), self.in_turn([*behind[further:], *behind[:further]])

    def _become(self, atom: Term, term: Term) -> None:
        """An atom is found to be this term."""
        assert atom.is_atom and atom.same is None
        atom.same = term
        for part in self.atoms(term):
            part.is_loose = part.is_loose and atom.is_loose
            part.holds = None if part.holds is None or atom.holds is None else (part.holds, atom.holds)
        if atom.follows:
            for part in self.atoms(term):
                self.follow(part, atom.follows, atom.rows)
        if atom.stiff is not None:
            self.stiffen(term, atom.stiff)
        if atom.keeps_ones:
            self.keep_ones(term)
        if atom.plane and term.is_atom:
            term.plane = term.plane or atom.plane
        elif atom.plane:
            self.pin(term, Pin("rotary", "", "planes that rotary embedding turns are cut"))
        if atom.pin is not None:
            self.pin(term, atom.pin)
        elif term.is_atom and term.pin is not None:
            for instance in atom.at.values():
                self.pin(instance, term.pin)
        if atom.is_alike:
            for part in self.atoms(term):
                self.make_alike(part)
        for (picked, index), instance in list(atom.at.items()):
            self.unify(instance, self.instance(term, picked, index), Pin("select", "", "one unit of two"))

    def instance(self, term: Term, picked: Term, index: int) -> Term:
        """The term at one index of an atom that stands beside it; pinned units are the same everywhere."""
        term, picked = term.found(), picked.found()
        if term.is_atom:
            if term.pin is not None or term.size == 1 or term.is_alike:
                return term
            known = term.at.get((picked, index))
            if known is None:
                # What was picked from may have been found to be this atom since.
                known = next((term.at[key] for key in term.at if key[1] == index and key[0].found() is picked), None)
            if known is None:
                known = term.at[picked, index] = self.asked_alike(self.atom(term.size), [term])
                known.of, known.plane = term, term.plane
            return known
        return self.alike(term, [self.instance(part, picked, index) for part in term.parts])

    def at(self, term: Term, picked: Term, index: int) -> Term:
        """The same for what was picked from that atom; what never was stays itself."""
        term = term.found()
        if term.is_atom:
            return self.instance(term, picked, index) if any(key[0].found() is picked for key in term.at) else term
        return self.alike(term, [self.at(part, picked, index) for part in term.parts])

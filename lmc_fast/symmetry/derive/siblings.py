"""Units that lie apart on their dimensions and that everything treats alike: one group in several runs.

A shortcut that is padded with zeros on both sides leaves a stream whose new channels lie ahead of the old ones and
behind them. What tells the two runs apart is no more than where they lie.

Why this is a symmetry: let every operation that touches units of two atoms treat entries evenly, which is to commute
with any exchange of entries along a dimension that is made in all that it takes and gives, and let the two atoms be
parts of the same sum wherever they stand, with the same behind each unit. Then an exchange of a unit of the one with a
unit of the other is such an exchange of entries in every value, and of the parameters. By induction over the graph
each value comes out with its entries exchanged, and the model gives what it gave. A number that fills entries has to
be the same in both runs; values that hold it along the whole dimension do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node

from .look import RULES, Dims, Look, Numbers, Rule
from .rules import convolutions, elementwise, factories, joining, norms, products, reductions, shapes
from .term import Term
from .terms import Terms

__all__ = ["Step", "fill", "seen", "siblings"]

# Rules of operations that treat entries evenly: whatever any other does is not known.
_EVEN: frozenset[Rule] = frozenset(
    [
        *(elementwise.identity, elementwise.broadcast, elementwise.untagged, elementwise.each_broadcast),
        *(elementwise.softmax, elementwise.prelu, elementwise.weight_norm, norms.batch_norm, norms.layer_norm),
        *(shapes.view, shapes.permute, shapes.transpose, shapes.singles, shapes.expand),
        *(joining.cat, joining.cut, joining.split, joining.pad, factories.uniform, convolutions.resampled),
        *(products.linear, products.matmul, products.added, products.einsum, reductions.reduced),
    ]
)


@dataclass(frozen=True)
class Step:
    """What an operation touches.

    Attributes:
        is_even: whether it treats entries evenly.
        dims: the dimensions of what it takes, gives, and makes inside.
        loose: for each use of a value the atoms along which that is the same everywhere, with what it is there.
    """

    is_even: bool
    dims: Sequence[Dims]
    loose: Sequence[Mapping[Term, object]] = ()


def seen(look: Look, results: Sequence[Dims]) -> Step:
    """An operation with the dimensions of its results."""
    return Step(_is_even(look), [*look.taken, *results, *look.inside], look.loose)


def fill(look: Look, results: Sequence[Dims]) -> None:
    """Name what results hold at the units of loose atoms: of two parts of a dimension the same, if the name is."""
    rule = RULES.get(look.name)
    for place, dims in enumerate(results):
        for atom in {atom for term in dims for atom in look.terms.atoms(term) if atom.is_loose}:
            if rule is factories.uniform:
                atom.holds = _number(look)
            elif atom.holds is not None:
                # Equal entries come out equal, of an operation that treats them evenly.
                atom.holds = (look.node, place, atom.holds) if _is_even(look) else None


def _number(look: Look) -> object:
    """The number that a value is made of; None where the graph does not tell."""
    name = look.name.removeprefix("aten.").removeprefix("new_").removesuffix("_like")
    given = {"zeros": 0, "zero": 0, "ones": 1}.get(name, look["fill_value"] if name == "full" else look["value"])
    return None if given is None or isinstance(given, Node) else (repr(given), look.node.meta["val"].dtype)


def _is_even(look: Look) -> bool:
    rule = RULES.get(look.name)
    if rule in (convolutions.convolution, norms.group_norm):
        # Groups of one channel each are no more than channels.
        groups = look["groups"] or look["num_groups"] or look["group"] or 1
        return int(groups) in (1, look["input"].meta["val"].shape[1])
    if rule is None:
        target = look.node.target
        return isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags
    return rule in _EVEN


def siblings(
    terms: Terms,
    axes: Iterable[Dims],
    values: Iterable[Dims],
    steps: Iterable[Step],
    numbers: Iterable[Numbers],
    others: Collection[Term],
    whole: Mapping[Term, Term],
) -> dict[Term, tuple[Term, ...]]:
    """For each atom that is a group together with others all of these, itself among them, in their order.

    Args:
        terms: of the graph.
        axes: the dimensions of parameters as they are to be written down.
        values: the dimensions of all values and parameters.
        steps: all operations.
        numbers: those of units among them.
        others: atoms that stay by themselves.
        whole: what stands in the places of atoms that a view has split for nothing, as of `made_whole`.
    """
    axes = list(axes)
    standing: dict[Term, dict[object, None]] = {}
    for term in (term for dims in axes for term in dims):
        for atom, where in _places(terms, term):
            if len(where) > 1 and _is_plain(atom) and atom not in others:
                standing[atom] = {}
    found = _Standing(terms, standing)
    if len(standing) > 1:
        for dims in (*axes, *values):
            found.see(dims)
        for number, step in enumerate(steps):
            found.take(number, step, whole)
        for each in numbers:
            found.leave(atom for dim in (each.of, *each.dims) for atom in terms.atoms(dim))
    return found.alike()


# Where an atom stands: alone; or as a part of a sum, with the same behind each unit as others.
_Where = tuple[object, ...]


class _Standing:
    """Where atoms stand, and with what."""

    def __init__(self, terms: Terms, standing: dict[Term, dict[object, None]]) -> None:
        self.terms, self.standing = terms, standing
        self.order: dict[object, list[Term]] = {}
        self._known: set[Term] = set()

    def leave(self, atoms: Iterable[Term]) -> None:
        """These stay by themselves."""
        for atom in atoms:
            self.standing.pop(atom, None)

    def see(self, dims: Dims) -> None:
        """Look at the dimensions of a value."""
        for term in (term.found() for term in dims):
            if term in self._known:
                continue
            self._known.add(term)
            here: dict[Term, list[_Where]] = {}
            for atom, where in _places(self.terms, term):
                here.setdefault(atom, []).append(where)
                # Units in whose order others come, and those of which others are instances.
                for each in (*atom.follows, *atom.rows, *atom.at.values()):
                    self.leave(self.terms.atoms(each))
            for atom, places in here.items():
                if len(places) > 1 or len(places[0]) == 1:
                    self.leave([atom])
                elif atom in self.standing:
                    key = (term, *places[0])
                    self.standing[atom][key] = None
                    self.order.setdefault(key, []).append(atom)

    def take(self, number: int, step: Step, whole: Mapping[Term, Term]) -> None:
        """Look at an operation."""
        terms = self.terms
        for dims in step.dims:
            dims = [terms.replaced(term, whole) for term in dims] if whole else dims
            if step.is_even:
                self.see(dims)
            else:
                self.leave(atom for term in dims for atom in terms.atoms(term))
        for use, loose in enumerate(step.loose):
            for atom, held in loose.items():
                for part in terms.atoms(terms.replaced(atom, whole)):
                    if part in self.standing:
                        self.standing[part]["holds", number, use, held] = None

    def alike(self) -> dict[Term, tuple[Term, ...]]:
        """Atoms that stand together everywhere, in one order."""
        classes: dict[frozenset[object], list[Term]] = {}
        for atom, stands in self.standing.items():
            classes.setdefault(frozenset(stands), []).append(atom)
        found: dict[Term, tuple[Term, ...]] = {}
        for places, several in classes.items():
            orders = {tuple(atom for atom in self.order[key] if atom in several) for key in places if key in self.order}
            if len(several) > 1 and len(orders) == 1:
                found |= dict.fromkeys(several, orders.pop())
        return found


def _is_plain(atom: Term) -> bool:
    """Whether an atom is free, and nothing but its units is known of it."""
    return atom.pin is None and not atom.at and atom.of is None and not atom.follows and not atom.plane


def _places(terms: Terms, term: Term, path: tuple[int, ...] = ()) -> Iterator[tuple[Term, _Where]]:
    """Each atom of a term with where it stands: by itself at a place, or in a sum at a place, first in its part, with
    these factors behind it."""
    term = term.found()
    if term.is_atom:
        if term.counts:
            yield term, (path,)
    elif term.in_turn or not term.is_sum:
        for k, part in enumerate(term.parts if term.in_turn else terms.factors(term)):
            yield from _places(terms, part, (*path, k))
    else:
        for k, part in enumerate(terms.parts(term)):
            first, *behind = terms.factors(part) or [part]
            if first.is_atom and first.counts:
                yield first, (path, tuple(behind))
            else:
                yield from _places(terms, first, (*path, k, 0))
            for j, each in enumerate(behind):
                yield from _places(terms, each, (*path, k, j + 1))

"""A dimension as a term: an atom, a product or a sum; and why an atom's units stay."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MOST_CUT", "Pin", "Term"]

# Units whose contents keep orders of their own where a cut goes through one of them.
MOST_CUT = 64


@dataclass(frozen=True)
class Pin:
    """Why units must stay where they are.

    Attributes:
        op: what told them apart: an operation's name, or "input", "output", "integers".
        where: the line of the model's source, "" where there is none.
        why: in a few words.
    """

    op: str
    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.op}: {self.why}" + (f" ({self.where})" if self.where else "")


class Term:
    """An atom, a product or a sum; or a name for another one that it was found to be.

    Attributes:
        size: entries.
        parts: factors of a product, parts of a sum; of an atom none.
        is_sum: of one with parts, which of the two.
        in_turn: of a sum, whether its parts do not lie end to end, but come in turn: the first entry of each, then the
            second of each; the last ones may be those of the first few alone.
        pin: of an atom, why it stays; None where it is free.
        at: instances of an atom, by the atom that was picked from and the index that was picked.
        of: of an instance the atom.
        is_alike: whether all instances of an atom are the atom itself.
        follows: of an atom whose units come in the order of other units' numbers, these others: it moves as they do,
            and stays only if they stay.
        rows: of such an atom dimensions at each of whose indices the order may be another one.
        stiff: of an atom, why it may not turn; None where nothing acts on it entry by entry.
        keeps_ones: of an atom, whether what turns it has to keep the vector of ones.
        plane: of an atom of planes that rotary embedding turns, how the two entries of each stand beside it: "outer"
            or "inner"; "" of any other.
        is_loose: whether a value is the same at all units of this atom, one that only constants have: each use of the
            value may lay it over other units.
        is_unit: of a single, whether it may be a unit beside others, as an entry that is padded is; others say nothing.
        holds: of a loose atom what the value is there, by any name: equal names are equal numbers; None: not known.
    """

    __slots__ = (
        "at",
        "follows",
        "holds",
        "in_turn",
        "is_alike",
        "is_loose",
        "is_sum",
        "is_unit",
        "keeps_ones",
        "number",
        "of",
        "parts",
        "pin",
        "plane",
        "rows",
        "same",
        "size",
        "stiff",
    )

    def __init__(self, size: int, parts: tuple[Term, ...] = (), is_sum: bool = False, number: int = 0) -> None:
        self.size, self.parts, self.is_sum, self.number = size, parts, is_sum, number
        self.pin: Pin | None = None
        self.same: Term | None = None
        self.at: dict[tuple[Term, int], Term] = {}
        self.of: Term | None = None
        self.is_alike = self.is_loose = self.in_turn = self.is_unit = False
        self.follows: tuple[Term, ...] = ()
        self.rows: tuple[Term, ...] = ()
        self.stiff: Pin | None = None
        self.keeps_ones = False
        self.plane = ""
        self.holds: object = None

    def found(self) -> Term:
        """The term that this one was found to be, itself where it is still its own."""
        term = self
        while term.same is not None:
            term = term.same
        return term

    @property
    def is_atom(self) -> bool:
        return not self.parts

    @property
    def counts(self) -> bool:
        """Whether anything is known of its entries: of a single that is no unit nothing is."""
        return self.size > 1 or self.is_unit

    def __repr__(self) -> str:
        term = self.found()
        if term.is_atom:
            return f"{'!' if term.pin else ''}a{term.number}[{term.size}]"
        sign = " | " if term.in_turn else " + " if term.is_sum else " * "
        return "(" + sign.join(map(repr, term.parts)) + ")"

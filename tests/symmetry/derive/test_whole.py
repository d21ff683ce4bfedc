"""What a view has split for nothing is whole again; constants that are the same everywhere tie nothing together."""

from __future__ import annotations

import pytest

from lmc_fast.symmetry.derive.look import Dims, Numbers
from lmc_fast.symmetry.derive.terms import Pin, Term, Terms
from lmc_fast.symmetry.derive.whole import made_whole

WHY = Pin("view", "", "cut")


def rows_and_columns(terms: Terms) -> tuple[Term, Term, Term]:
    """An atom of 12 that is 3 times 4, and its parts."""
    whole, rows, columns = terms.atom(12), terms.atom(3), terms.atom(4)
    terms.unify(whole, terms.product([rows, columns]), WHY)
    return whole, rows, columns


def test_what_always_stands_together_is_one() -> None:
    terms = Terms()
    whole, rows, columns = rows_and_columns(terms)
    batch, tokens = terms.atom(5, WHY), terms.atom(7, WHY)
    values = [[batch, rows, columns], [batch, rows, tokens, columns], [batch, whole], [batch]]
    found = made_whole(terms, [[whole, terms.atom(2)]], values, [])
    assert set(found) == {rows, columns}
    assert [terms.replaced(term, found).size for term in (whole, rows, columns)] == [12, 12, 1]
    assert terms.replaced(whole, found) is terms.replaced(rows, found)


def test_three_parts_are_one_as_well() -> None:
    terms = Terms()
    whole, parts = terms.atom(30), [terms.atom(2), terms.atom(3), terms.atom(5)]
    terms.unify(whole, terms.product(parts), WHY)
    found = made_whole(terms, [[whole]], [parts], [])
    atom = terms.replaced(whole, found)
    assert set(parts) <= set(found) and atom.is_atom and atom.size == 30


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(lambda rows, columns: [rows], id="rows alone"),
        pytest.param(lambda rows, columns: [columns], id="columns alone"),
        pytest.param(lambda rows, columns: [rows, rows, columns], id="rows twice"),
        pytest.param(lambda rows, columns: [rows, columns, rows, columns], id="both twice, apart"),
    ],
)
def test_what_stands_alone_or_twice_in_a_value_stays_apart(value: object) -> None:
    terms = Terms()
    whole, rows, columns = rows_and_columns(terms)
    assert not made_whole(terms, [[whole]], [[whole], value(rows, columns)], [])  # type: ignore[operator]


def test_rows_beside_more_than_the_columns_stay_apart() -> None:
    terms = Terms()
    whole, rows, _ = rows_and_columns(terms)
    more = terms.sum([terms.product([rows, terms.atom(2)]), terms.atom(1)])
    assert not made_whole(terms, [[whole]], [[more]], [])
    assert not made_whole(terms, [[whole], [terms.product([rows, terms.atom(2)])]], [], [])


def test_a_value_of_all_units_with_all_units_keeps_them_one() -> None:
    terms = Terms()
    whole, rows, _ = rows_and_columns(terms)
    assert rows in made_whole(terms, [[whole, whole]], [[whole, whole]], [])


@pytest.mark.parametrize("what", ["pinned", "picked from", "an instance", "in an order", "ordering", "numbered"])
def test_what_is_more_than_units_stays_apart(what: str) -> None:
    terms = Terms()
    whole, rows, columns = rows_and_columns(terms)
    values: list[Dims] = [[rows, columns]]
    numbers = []
    if what == "pinned":
        terms.pin(columns, WHY)
    elif what == "picked from":
        terms.instance(columns, terms.atom(2, WHY), 0)
    elif what == "an instance":
        columns.of = terms.atom(4)
    elif what == "in an order":
        terms.follow(columns, [terms.atom(4)])
    elif what == "ordering":
        other = terms.atom(4)
        terms.follow(other, [columns])
        values.append([other])
    else:
        source = object()
        numbers = [Numbers(rows, [terms.atom(2)], WHY, source, source)]
    assert not made_whole(terms, [[whole]], values, numbers)


def test_each_use_of_a_constant_is_for_itself() -> None:
    terms = Terms()
    constant, other = terms.loose(6), terms.atom(2)
    first, second = (terms.afresh([constant, terms.product([constant, other])]) for _ in range(2))
    one, two = terms.atom(6), terms.atom(6)
    terms.unify(first[0], one, WHY)
    terms.unify(second[0], two, WHY)
    # Within a use the two are one, and units that it was laid over are theirs from then on.
    assert terms.factors(first[1])[0] is one.found()
    assert terms.factors(second[1])[0] is two.found()
    assert one.found() is not two.found()
    assert terms.afresh(first)[0].found() is one.found() and terms.afresh([other]) == [other]


def test_a_constant_whose_units_are_told_apart_is_one_for_all_uses() -> None:
    terms = Terms()
    constant = terms.loose(6)
    terms.pin(constant, WHY)
    assert terms.afresh([constant]) == [constant]


@pytest.mark.parametrize("constant_first", [True, False])
def test_units_of_a_parameter_stay_its_own_beside_a_constant(constant_first: bool) -> None:
    terms = Terms()
    parameter, parts = terms.atom(12), [terms.loose(3), terms.loose(4)]
    pair = [terms.product(parts), parameter]
    terms.unify(*(pair if constant_first else reversed(pair)), WHY)
    assert not any(atom.is_loose for atom in terms.atoms(parameter))
    assert terms.afresh([parameter]) == [parameter]

"""When two dimensions are one: what is refined, what is pinned, and what is looked at index by index."""

from __future__ import annotations

import pytest

from lmc_fast.symmetry.derive.owners import Beside, choose_owners, levels, settle_instances
from lmc_fast.symmetry.derive.terms import Pin, Terms

WHY = Pin("view", "model.py:3: x.view(2, 3)", "cut")


def test_a_product_cuts_what_it_is_laid_over() -> None:
    terms = Terms()
    whole, heads, each = terms.atom(96), terms.atom(6), terms.atom(16)
    terms.unify(whole, terms.product([heads, each]), WHY)
    assert terms.factors(whole) == [heads, each]


def test_a_sum_cuts_the_first_factor_of_a_product() -> None:
    terms = Terms()
    first, second, heads, each = terms.atom(32), terms.atom(64), terms.atom(6), terms.atom(16)
    terms.unify(terms.sum([first, second]), terms.product([heads, each]), WHY)
    assert [part.size for part in terms.parts(heads)] == [2, 4]
    assert [factor.size for factor in terms.factors(first)] == [2, 16]
    assert terms.factors(first)[1].found() is terms.factors(second)[1].found()


def test_a_sum_whose_parts_are_cut_through_pins_the_units_alone() -> None:
    """What each unit holds keeps an order of its own, in two runs where a part ends within it."""
    terms = Terms()
    parts, factors = [terms.atom(5), terms.atom(7)], [terms.atom(3), terms.atom(4)]
    terms.unify(terms.sum(parts), terms.product(factors), WHY)
    assert [[part.size for part in terms.parts(each)] for each in parts] == [[4, 1], [3, 4]]
    assert factors[0].pin is not None
    assert not any(atom.pin for each in (*parts, factors[1]) for atom in terms.atoms(each))


def test_what_ends_alike_is_one_though_its_beginnings_have_no_common_parts() -> None:
    terms = Terms()
    (three, five), (four, two), channels = (
        (terms.atom(3), terms.atom(10)),
        (terms.atom(15), terms.atom(2)),
        terms.atom(7),
    )
    others = [terms.atom(6), terms.atom(5), terms.atom(7)]
    terms.unify(terms.product([three, five, channels]), terms.product(others), WHY)
    assert others[2].found() is channels.found() and channels.found().pin is None
    terms.unify(terms.product([four, two]), terms.product([terms.atom(3), terms.atom(10)]), WHY)
    assert [factor.size for factor in terms.factors(four)] == [3, 5]


def test_sums_are_cut_to_common_parts() -> None:
    terms = Terms()
    one, other = terms.sum([terms.atom(2), terms.atom(6)]), terms.sum([terms.atom(5), terms.atom(3)])
    terms.unify(one, other, WHY)
    assert [part.size for part in terms.parts(one)] == [part.size for part in terms.parts(other)] == [2, 3, 3]
    assert [a.found() for a in terms.atoms(one)] == [b.found() for b in terms.atoms(other)]


def test_what_stays_is_not_cut() -> None:
    terms = Terms()
    one = terms.sum([terms.atom(2, WHY), terms.atom(6, WHY)])
    other = terms.sum([terms.atom(5, WHY), terms.atom(3, WHY)])
    terms.unify(one, other, WHY)
    assert [part.size for part in terms.parts(one)] == [2, 6]
    product = terms.product([terms.atom(4, WHY), terms.atom(2, WHY)])
    terms.unify(one, product, WHY)
    assert [factor.size for factor in terms.factors(product)] == [4, 2]


def test_a_cut_through_a_unit_pins_it() -> None:
    terms = Terms()
    heads, each = terms.atom(3), terms.atom(4)
    first, rest = terms.cut(terms.product([heads, each]), 6, WHY)
    assert [[part.size for part in terms.parts(term)] for term in (first, rest)] == [[4, 2], [2, 4]]
    assert heads.pin is WHY
    assert not any(atom.pin for term in (first, rest) for atom in terms.atoms(term))
    whole = terms.atom(5)
    assert [term.size for term in terms.cut(whole, 0, WHY)] == [0, 5]
    assert [term.size for term in terms.cut(whole, 5, WHY)] == [5, 0] and whole.pin is None


def test_of_many_units_all_is_pinned() -> None:
    """Each would need orders of its own."""
    terms = Terms()
    heads, each = terms.atom(65), terms.atom(4)
    first, rest = terms.cut(terms.product([heads, each]), 6, WHY)
    assert (first.size, rest.size) == (6, 254)
    assert heads.pin is WHY
    assert each.pin is WHY


def test_terms_print_as_what_they_are_made_of() -> None:
    terms = Terms()
    made = terms.product([terms.sum([terms.atom(2), terms.atom(3, WHY)]), terms.atom(4)])
    assert repr(made) == "((a1[2] + !a2[3]) * a3[4])"
    assert terms.product([]).size == 1 and terms.sum([]).size == 0
    assert str(WHY) == "view: cut (model.py:3: x.view(2, 3))"


def test_what_follows_an_order_stays_only_if_that_stays() -> None:
    terms = Terms()
    units, rows, other = terms.atom(3), terms.atom(8), terms.atom(8)
    terms.follow(rows, [units])
    terms.unify(rows, other, WHY)
    assert units.pin is None
    terms.pin(other, WHY)
    assert units.pin is WHY
    late, also = terms.atom(3), terms.atom(8, WHY)
    terms.follow(also, [late])
    assert late.pin is WHY


def picked() -> tuple[Terms, list]:
    """[three, units], of which two of three were picked."""
    terms = Terms()
    three, units = terms.atom(3, WHY), terms.atom(5)
    return terms, [three, units, terms.instance(units, three, 0), terms.instance(units, three, 2)]


def test_instances_stand_apart_where_what_they_were_picked_from_does() -> None:
    terms, (three, units, first, last) = picked()
    values = [[three, units], [first], [last]]
    settle_instances(terms, values, [[three, units]], [])
    assert first.found() is not last.found()
    assert list(levels(terms, [three, units])) == [[three, units], [three, first], [three, last]]


@pytest.mark.parametrize("axes", ["behind", "without"])
def test_instances_are_one_where_no_axis_can_say_it(axes: str) -> None:
    terms, (three, units, first, last) = picked()
    parameter = {"behind": [units, three], "without": [units]}[axes]
    settle_instances(terms, [[three, units], [first], [last]], [[three, units], parameter], [])
    assert first.found() is last.found() is units.found()


def test_an_atom_that_is_its_own_instance_is_one_with_all_of_them() -> None:
    terms, (three, units, first, last) = picked()
    between = terms.atom(5)
    terms.unify(first, between, WHY)
    terms.instance(between, three, 0)
    terms.unify(terms.instance(between, three, 0), units, WHY)
    settle_instances(terms, [[three, units], [three, between]], [[three, units]], [])
    assert last.found() is units.found()


def test_instances_picked_from_atoms_that_are_one_are_one() -> None:
    terms, (three, units, first, _) = picked()
    other = terms.atom(3, WHY)
    second = terms.instance(units, other, 0)
    terms.unify(other, three, WHY)
    settle_instances(terms, [[three, units], [first], [second]], [[three, units]], [])
    assert first.found() is second.found() is not units.found()


def test_owners_stand_beside_what_they_own_everywhere_and_before_it() -> None:
    terms = Terms()
    heads, each, width = terms.atom(3), terms.atom(4), terms.atom(8)
    axes = [[terms.product([heads, each]), width]]
    near = Beside(terms, [[heads, each], *axes]).near
    assert choose_owners(terms, near, axes)[each] is heads
    assert each not in choose_owners(terms, Beside(terms, [[each], *axes]).near, axes)
    assert each not in choose_owners(terms, near, [*axes, [terms.product([each, heads])]])
    # Twice beside it is not beside it.
    assert heads not in Beside(terms, [[heads, heads, each]]).near[each]

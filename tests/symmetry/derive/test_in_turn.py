"""Values laid alternately on one dimension: each keeps units of its own, on the axes of whatever reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

import lmc_fast as lmc
from benchmarks.zoo.torchvision_models import shuffled
from lmc_fast import Segment
from lmc_fast.symmetry.derive import build, owners
from lmc_fast.symmetry.derive.terms import Pin, Term, Terms

from .side_by_side import Case, Derived, derived

WHY = Pin("test", "", "for a test")


def shuffle(x: Tensor, groups: int) -> Tensor:
    """[batch, groups * c, ...] -> the same, those of the groups in turn."""
    batch, channels = x.shape[:2]
    return x.view(batch, groups, channels // groups, *x.shape[2:]).transpose(1, 2).reshape(x.shape)


class Unit(nn.Module):
    """Of ShuffleNet V2: half of the channels go through a branch; the first unit takes all in both."""

    def __init__(self, entering: int, leaving: int, is_first: bool) -> None:
        super().__init__()
        half, taken = leaving // 2, entering if is_first else leaving // 2
        self.conv1, self.norm1 = nn.Conv2d(taken, half, 1, bias=False), nn.BatchNorm2d(half)
        self.deep = nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False)
        self.conv2, self.norm2 = nn.Conv2d(half, half, 1, bias=False), nn.BatchNorm2d(half)
        self.beside = nn.Conv2d(entering, half, 1) if is_first else None

    def forward(self, x: Tensor) -> Tensor:
        kept, taken = (x, x) if self.beside is not None else x.chunk(2, 1)
        taken = self.deep(F.relu(self.norm1(self.conv1(taken))))
        taken = F.relu(self.norm2(self.conv2(taken)))
        kept = kept if self.beside is None else F.relu(self.beside(kept))
        return shuffle(torch.cat([kept, taken], 1), 2)


class ShuffleNet(nn.Module):
    """[batch, 3, height, width] -> [batch, 5]."""

    def __init__(self, entering: int, stages: tuple[tuple[int, int], ...], last: int) -> None:
        super().__init__()
        self.stem, units = nn.Conv2d(3, entering, 1), []
        before = entering
        for leaving, count in stages:
            units += [Unit(before, leaving, k == 0) for k in range(count)]
            before = leaving
        self.units, self.last, self.head = nn.Sequential(*units), nn.Conv2d(before, last, 1), nn.Linear(last, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.last(self.units(F.relu(self.stem(x))))).mean((2, 3)))


# Halves of 6 and then of 3 pairs: the second is cut through one.
KIND = (7, ((12, 4), (16, 2)), 9)


@pytest.fixture(scope="module")
def net() -> tuple[ShuffleNet, Tensor, lmc.PermutationSpec]:
    torch.manual_seed(0)
    model, x = ShuffleNet(*KIND).eval(), torch.randn(2, 3, 5, 5)
    return model, x, lmc.derive_spec(model, x, verify=False)


class TestShuffleNet:
    """All that there is by hand is found, holds, and is matched wherever matching goes."""

    def test_all_is_found_and_holds(self, net: tuple[ShuffleNet, Tensor, lmc.PermutationSpec]) -> None:
        model, x, spec = net
        told, hand = spec.explain(), shuffled(*KIND)
        assert (len(told.groups), sum(each.units for each in told.groups)) == (hand.groups, hand.units)
        assert told.log10_permutations == pytest.approx(hand.log10)
        assert lmc.verify_spec(model, spec, x) < 1e-10

    def test_a_planted_permutation_is_found(
        self, net: tuple[ShuffleNet, Tensor, lmc.PermutationSpec], tmp_path: Path
    ) -> None:
        model, x, spec = net
        planted = lmc.Permutations.random(spec, 1)
        other = planted.apply(model)
        assert torch.allclose(other(x), model(x), atol=1e-5)
        found = lmc.weight_matching(model, other, spec)
        wanted = model.state_dict()
        for name, tensor in found.apply(other).state_dict().items():
            assert torch.equal(tensor, wanted[name]), name
        assert found.permutations == planted.inverse()
        # The same of files, tensor by tensor.
        for name, each in (("a", model), ("b", other)):
            state = {key: value for key, value in each.state_dict().items() if value.is_floating_point()}
            save_file(state, tmp_path / f"{name}.safetensors")
        result = lmc.merge_checkpoints(
            tmp_path / "a.safetensors", tmp_path / "b.safetensors", out=tmp_path / "m.safetensors", spec=spec
        )
        assert result.out == tmp_path / "m.safetensors"
        merged = load_file(tmp_path / "m.safetensors")
        assert all(torch.allclose(value, wanted[key], atol=1e-6) for key, value in merged.items())

    def test_by_what_units_do(self, net: tuple[ShuffleNet, Tensor, lmc.PermutationSpec]) -> None:
        model, _, spec = net
        planted = lmc.Permutations.random(spec, 2)
        batches = [torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(k)) for k in range(2)]
        found = lmc.activation_matching(model, planted.apply(model), batches, spec)
        assert found.permutations == planted.inverse()

    def test_tied_pairs_are_a_false_start_no_more(self, net: tuple[ShuffleNet, Tensor, lmc.PermutationSpec]) -> None:
        """The wrong turn is caught: entries one further on are not those of the branch."""
        model, x, spec = net
        axes = dict(spec.axes)
        name = next(key for key, of in axes.items() if any(s.step > 1 for axis in of for s in axis.segments))
        position = next(k for k, axis in enumerate(axes[name]) if any(s.step > 1 for s in axis.segments))
        one, other, *rest = axes[name][position].segments
        wrong = lmc.Axis((other, one, *rest))
        axes[name] = tuple(wrong if k == position else axis for k, axis in enumerate(axes[name]))
        with pytest.raises(ValueError, match="group"):
            lmc.verify_spec(model, lmc.PermutationSpec(spec.groups, axes), x)


class Two(nn.Module):
    """[batch, 4] -> two branches of 6 units, laid together by a function -> 3 numbers."""

    def __init__(self, together: Callable[[Tensor, Tensor], Tensor], second: int = 6) -> None:
        super().__init__()
        self.a, self.b, self.together = nn.Linear(4, 6), nn.Linear(4, second), together
        self.down = nn.Linear(together(torch.ones(5, 6), torch.ones(5, second)).shape[-1], 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.together(self.a(x).relu(), self.b(x).tanh()))


def _rows(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([a, b], 1).view(-1, 2, 6)


X = torch.zeros(5, 4)
CASES: dict[str, Case] = {
    "rows that are laid out again": Case(Two(lambda a, b: _rows(a, b).flatten(1)), X, (6, 6)),
    "in turn": Case(Two(lambda a, b: _rows(a, b).transpose(1, 2).flatten(1)), X, (6, 6)),
    "a row by itself": Case(Two(lambda a, b: _rows(a, b)[:, 1] * 2), X, (6, 6)),
    "rows added": Case(Two(lambda a, b: _rows(a, b).sum(1)), X, (6,)),
    "a map over both": Case(Two(lambda a, b: (_rows(a, b) + a[:, None]).transpose(1, 2).flatten(1)), X, (6,)),
    "three rows": Case(Two(lambda a, b: torch.cat([a, b, a], 1).view(-1, 3, 6).transpose(1, 2).flatten(1)), X, (6, 6)),
    "the same twice": Case(Two(lambda a, b: shuffle(torch.cat([a, a], 1), 2)), X, (6,)),
    # Of 6 units the first 2, of 12 all: no row of 4 begins where one of them does.
    "no rows of one": Case(Two(lambda a, b: shuffle(torch.cat([a, b], 1), 4)), X, (2, 2, 3)),
    # Each half is cut where both have 3 units.
    "halves of both": Case(
        Two(lambda a, b: torch.cat([c * k for k, c in enumerate(shuffle(torch.cat([a, b], 1), 2).chunk(2, 1))], 1)),
        X,
        (3, 3, 3, 3),
    ),
    # The first half ends with the third unit of the one, and the other begins with that of the other.
    "cut through a pair": Case(
        Two(lambda a, b: shuffle(torch.cat([a[:, :5], b], 1), 2)[:, :5].cos(), second=5), X, (2, 2, 3, 3)
    ),
    # A unit of either has 4 entries, and those of the two come in turn: no axis says that, and they move together.
    "with places behind": Case(
        Two(lambda a, b: shuffle((torch.cat([a, b], 1)[..., None] * torch.arange(1.0, 5)).sin(), 2).flatten(1)), X, (6,)
    ),
}


@pytest.fixture(scope="module")
def found() -> Derived:
    torch.manual_seed(0)
    return derived(CASES)


@pytest.mark.parametrize("name", CASES)
def test_what_is_known_by_hand_is_found(name: str, found: Derived) -> None:
    case = CASES[name]
    roots, owned = found.sizes(name)
    assert (sorted(roots), sorted(owned)) == (sorted(case.roots), sorted(case.owned)), found.reasons(name)


def test_segments_of_what_comes_in_turn(found: Derived) -> None:
    a, b = (found.axes("in turn")[f"{name}.weight"][0].groups[0] for name in "ab")
    assert found.axes("in turn")["down.weight"][1].segments == (Segment(a, step=2), Segment(b, step=2))
    assert found.axes("three rows")["down.weight"][1].groups == tuple(
        found.axes("three rows")[f"{name}.weight"][0].groups[0] for name in "ab"
    )


def test_what_no_axis_can_say_apart_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it was not seen before that no axis can."""
    case = CASES["with places behind"]
    monkeypatch.setattr(owners, "_stands_apart", lambda *_: True)
    spec = lmc.derive_spec(case.module, case.inputs, verify=False)
    assert [group.size for group in spec.groups.values()] == [6]
    assert lmc.verify_spec(case.module, spec, torch.randn(5, 4)) < 1e-10


def test_units_in_turn_that_hold_more_than_an_entry_are_told() -> None:
    """Their entries lie in no steps: they stay, and those beside them may move."""
    terms = Terms()
    a, b, c, held = terms.atom(3), terms.atom(3, WHY), terms.atom(5), terms.atom(2)
    both = terms.in_turn([a, b])
    assert build._cut_in_turn(terms, terms.sum([terms.product([both, held]), c])) == {a}
    assert build._cut_in_turn(terms, terms.product([held, both])) == set()


class TestTerms:
    def test_runs_of_a_sum_that_end_where_rows_do(self) -> None:
        terms = Terms()
        one, other, last = terms.atom(2), terms.atom(4), terms.atom(6)
        whole = terms.sum([one, other, last])
        terms.apart(whole, 2, WHY)
        picked, units = terms.factors(whole)
        assert picked.pin is WHY
        assert terms.parts(terms.at(units, picked, 0)) == [one, other]
        assert terms.at(units, picked, 1) is last

    @pytest.mark.parametrize("sizes", [(2, 4, 6), (6, 5)], ids=["no end there", "no whole rows"])
    def test_what_has_no_such_runs_stays(self, sizes: tuple[int, ...]) -> None:
        terms = Terms()
        whole = terms.sum(terms.atom(size) for size in sizes)
        terms.apart(whole, 3, WHY)
        assert whole.found() is whole

    def test_an_atom_stays(self) -> None:
        terms = Terms()
        whole = terms.atom(12)
        terms.apart(whole, 2, WHY)
        assert whole.found() is whole
        assert whole.is_atom

    def test_it_prints_and_is_made_again(self) -> None:
        terms = Terms()
        a, b = terms.atom(3), terms.atom(3)
        both = terms.in_turn([a, b])
        assert repr(both) == "(a1[3] | a2[3])"
        c: Term = terms.atom(3)
        again = terms.replaced(both, {a: c})
        assert again.in_turn
        assert list(again.parts) == [c, b]
        assert terms.in_turn([terms.atom(0), a]) is a
        # End to end with others it is one part, whose own come in turn.
        assert terms.parts(terms.sum([both, c])) == [both, c]

    def test_it_is_cut_between_any_two_entries(self) -> None:
        """In the part behind a cut the one whose turn it was comes first."""
        terms = Terms()
        a, b, c = terms.atom(3), terms.atom(3), terms.atom(3)
        first, rest = terms.cut(terms.in_turn([a, b, c]), 4, WHY)
        assert [part.size for part in first.parts] == [2, 1, 1]
        assert [part.size for part in rest.parts] == [2, 2, 1]
        assert [terms.parts(part) for part in (a, b, c)] == [
            [first.parts[0], rest.parts[2]],
            [first.parts[1], rest.parts[0]],
            [first.parts[2], rest.parts[1]],
        ]

    def test_two_of_one_kind_are_one_part_by_part(self) -> None:
        terms = Terms()
        a, b, c, d = (terms.atom(3) for _ in range(4))
        terms.unify(terms.in_turn([a, b]), terms.in_turn([c, d]), WHY)
        assert (a.found(), b.found()) == (c.found(), d.found())
        assert a.found().pin is None

    @pytest.mark.parametrize("other", ["other turns", "a product"])
    def test_what_has_no_common_parts_stays(self, other: str) -> None:
        terms = Terms()
        a, b = terms.atom(6), terms.atom(6)
        three = terms.in_turn([terms.atom(4) for _ in range(3)])
        product = terms.product([terms.atom(4), terms.atom(3)])
        terms.unify(terms.in_turn([a, b]), three if other == "other turns" else product, WHY)
        assert all(atom.pin for atom in (a, b, *terms.atoms(three if other == "other turns" else product)))

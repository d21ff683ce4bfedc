"""Units on both sides of others: one group where everything treats both sides alike, two where anything does not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

import lmc_fast as lmc
from benchmarks.networks import PaddedResNet
from lmc_fast import Segment
from lmc_fast.symmetry.derive import build
from lmc_fast.symmetry.derive import siblings as module
from lmc_fast.symmetry.derive.look import Numbers
from lmc_fast.symmetry.derive.rules import products
from lmc_fast.symmetry.derive.siblings import Step, siblings
from lmc_fast.symmetry.derive.terms import Pin, Term, Terms

from .side_by_side import Case, Derived, derived

WHY = Pin("test", "", "for a test")


class Stream(nn.Module):
    """[batch, 4] -> 12 units, to which 4 others come by a shortcut -> what a function makes of them -> 3 numbers."""

    def __init__(self, short: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor] = torch.sin) -> None:
        super().__init__()
        self.old, self.new, self.short, self.after = nn.Linear(4, 4), nn.Linear(4, 12), short, after
        self.down = nn.Linear(int(after(torch.ones(5, 12)).flatten(1).shape[1]), 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.after(self.new(x) + self.short(self.old(x).relu())).flatten(1))


def pad(*amounts: int, value: float = 0.0) -> Callable[[Tensor], Tensor]:
    return lambda x: F.pad(x, amounts, value=value)


def joined(first: Callable[[Tensor], Tensor], last: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Old units between what two functions make of zeros."""
    return lambda x: torch.cat([first(x.new_zeros(x.shape[0], 4)), x, last(x.new_zeros(x.shape[0], 4))], 1)


def same(x: Tensor) -> Tensor:
    return x


def in_halves(x: Tensor) -> Tensor:
    """Each half of the units divided by its length."""
    rows = x.view(-1, 2, 6)
    return (rows / rows.norm(dim=2, keepdim=True)).flatten(1)


def once_over(x: Tensor) -> Tensor:
    """The same zeros, and what is made of them, on both sides."""
    both = x.new_zeros(x.shape[0], 4).cos()
    return torch.cat([both, x, both], 1)


class Along(nn.Module):
    """A convolution over places, of which there is one."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(12, 12, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x[..., None]).flatten(1)


X = torch.zeros(5, 4)
BOTH, APART = (4, 8), (4, 4, 4)
SIDES = pad(4, 4)
CASES: dict[str, Case] = {
    "zeros on both sides": Case(Stream(SIDES), X, BOTH),
    "a number on both sides": Case(Stream(pad(4, 4, value=1.0)), X, BOTH),
    "sides of other sizes": Case(Stream(pad(2, 6)), X, BOTH),
    "one side": Case(Stream(pad(0, 8)), X, BOTH),
    "another number on each side": Case(Stream(lambda x: pad(0, 4, value=1.0)(pad(4, 0)(x))), X, APART),
    # What has inner sides alone is a value too.
    "two in a row": Case(Stream(lambda x: pad(2, 2)(pad(2, 2)(x))), X, (4, 4, 4)),
    "one unit on one side": Case(Stream(pad(1, 7)), X, BOTH),
    "one unit with places behind": Case(
        Stream(pad(7, 1), lambda y: (y[..., None] * torch.arange(1.0, 4)).sin()), X, BOTH
    ),
    "one unit of another number": Case(Stream(lambda x: pad(0, 7, value=1.0)(pad(1, 0)(x))), X, (4, 7)),
    "one unit by another function": Case(
        Stream(pad(1, 7), lambda y: torch.cat([y[:, :1].relu(), y[:, 1:].tanh()], 1)), X, (4, 7)
    ),
    "one unit left out": Case(Stream(pad(1, 7), lambda y: y[:, 1:] * y[:, :1]), X, (4, 7)),
    "another constant for one unit": Case(
        Stream(pad(1, 7), lambda y: y + torch.cat([y.new_zeros(1), y.new_ones(11)])), X, (4, 7)
    ),
    # The two new units of the first half are left alone.
    "one unit and a norm of halves": Case(Stream(pad(1, 7), partial(F.group_norm, num_groups=2)), X, (4, 6)),
    "one unit in order": Case(Stream(pad(1, 7), lambda y: y.cumsum(1)), X, ()),
    "zeros laid beside": Case(Stream(joined(same, same)), X, BOTH),
    "the same of zeros laid beside": Case(Stream(once_over), X, BOTH),
    "other numbers laid beside": Case(Stream(joined(same, torch.ones_like)), X, APART),
    "something done to one side": Case(Stream(joined(same, torch.cos)), X, APART),
    "the number of one side is weights": Case(Stream(joined(same, lambda z: z + 0.5)), X, APART),
    "another constant for one side": Case(
        Stream(SIDES, lambda y: y + torch.cat([y.new_zeros(4), y.new_ones(8)])), X, APART
    ),
    "two constants of which one has other sides": Case(
        Stream(lambda x: joined(torch.zeros_like, torch.ones_like)(x * 0) + joined(same, same)(x)), X, APART
    ),
    "two constants of the same sides": Case(
        Stream(lambda x: joined(torch.ones_like, torch.ones_like)(x * 0) + joined(same, same)(x)), X, BOTH
    ),
    "zeros laid beside, normalised in halves": Case(
        Stream(lambda x: F.group_norm(joined(same, same)(x), 2)), X, (2, 2, 4, 4)
    ),
    "another constant laid beside": Case(
        Stream(joined(same, same), lambda y: y * torch.cat([y.new_zeros(8), y.new_ones(4)])), X, APART
    ),
    "a constant for all": Case(Stream(SIDES, lambda y: y * y.new_full((12,), 2.0)), X, BOTH),
    "halves by other functions": Case(
        Stream(SIDES, lambda y: torch.cat([y[:, :6].relu(), y[:, 6:].tanh()], 1)), X, (2, 2, 4, 4)
    ),
    "halves swapped": Case(Stream(SIDES, lambda y: torch.cat([y[:, 6:], y[:, :6]], 1)), X, (2, 2, 4, 4)),
    "halves normalised by hand": Case(Stream(SIDES, in_halves), X, (2, 2, 4, 4)),
    "halves normalised": Case(Stream(SIDES, partial(F.group_norm, num_groups=2)), X, (2, 2, 4, 4)),
    "normalised as one group": Case(Stream(SIDES, partial(F.group_norm, num_groups=1)), X, BOTH),
    "normalised": Case(Stream(SIDES, partial(F.layer_norm, normalized_shape=(12,))), X, BOTH),
    "compared with each other": Case(Stream(SIDES, lambda y: y.softmax(1) * y.amax(1, keepdim=True)), X, BOTH),
    "channels by themselves": Case(Stream(SIDES, Along(12)), X, BOTH),
    "channels in halves": Case(Stream(SIDES, Along(2)), X, (2, 2, 4, 4, 6, 6)),
    "with places behind": Case(Stream(SIDES, lambda y: (y[..., None] * torch.arange(1.0, 4)).sin()), X, BOTH),
    "an operation that goes by order": Case(Stream(SIDES, lambda y: y.cumsum(1)), X, ()),
}


@pytest.fixture(scope="module")
def found() -> Derived:
    torch.manual_seed(0)
    return derived(CASES)


def test_what_no_rule_says_is_even_keeps_them_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["zeros on both sides"]
    monkeypatch.setattr(module, "_EVEN", module._EVEN - {products.linear})
    assert len(lmc.derive_spec(case.module, case.inputs, verify=False).groups) == 3


@pytest.mark.parametrize("name", CASES)
def test_what_is_known_by_hand_is_found(name: str, found: Derived) -> None:
    case = CASES[name]
    roots, owned = found.sizes(name)
    assert (sorted(roots), sorted(owned)) == (sorted(case.roots), sorted(case.owned)), found.reasons(name)


def test_where_the_runs_lie(found: Derived) -> None:
    (both,) = found.axes("zeros on both sides")["new.weight"][:1]
    (old,) = found.axes("zeros on both sides")["old.weight"][0].groups
    (new,) = set(both.groups) - {old}
    assert both.segments == (Segment(new, runs=(4, 4, 4)), Segment(old))
    places = found.axes("with places behind")["down.weight"][1]
    assert [(each.runs, each.inner) for each in places.segments] == [((12, 12, 12), 3), ((), 3)]
    row = found.axes("two in a row")["down.weight"][1]
    assert [each.runs for each in row.segments] == [(2, 8, 2), (2, 4, 2), ()]
    # They lie end to end where there is nothing between them.
    assert [each.runs for each in found.axes("one side")["down.weight"][1].segments] == [(), ()]


def test_units_that_are_apart_and_joined_by_hand_are_refused() -> None:
    torch.manual_seed(0)
    model, x = CASES["another number on each side"].module.eval(), torch.randn(5, 4)
    stream = (Segment("new", runs=(4, 4, 4)), Segment("old"))
    spec = lmc.PermutationSpec.from_axes(
        {
            "old.weight": ("old", None),
            "old.bias": ("old",),
            "new.weight": (stream, None),
            "new.bias": (stream,),
            "down.weight": (None, stream),
            "down.bias": (None,),
        },
        model=model,
    )
    with pytest.raises(lmc.SymmetryError, match="group 'new'"):
        lmc.verify_spec(model, spec, x)
    # The like of it with the same number on both sides holds.
    assert lmc.verify_spec(CASES["zeros on both sides"].module.eval(), spec, x) < 1e-10


class Bottleneck(nn.Module):
    """Of a ResNet for CIFAR with shortcuts of option A: a quarter of the channels is convolved over places."""

    def __init__(self, entering: int, leaving: int, stride: int) -> None:
        super().__init__()
        inner = leaving // 4
        self.conv1, self.norm1 = nn.Conv2d(entering, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.norm2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv3, self.norm3 = nn.Conv2d(inner, leaving, 1, bias=False), nn.BatchNorm2d(leaving)
        self.stride, self.side = stride, (leaving - entering) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))
        short = x[:, :, :: self.stride, :: self.stride]
        if self.side:
            short = F.pad(short, (0, 0, 0, 0, self.side, self.side), "constant", 0)
        return F.relu(self.norm3(self.conv3(y)) + short)


class BottleneckNet(nn.Module):
    """[batch, 3, height, width] -> [batch, 5]: three stages, two blocks in the second."""

    def __init__(self) -> None:
        super().__init__()
        widths = [(8, 8, 1), (8, 16, 2), (16, 16, 1), (16, 32, 2)]
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.blocks, self.head = nn.Sequential(*(Bottleneck(*of) for of in widths)), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.norm(self.stem(x))))
        return self.head(F.avg_pool2d(x, x.shape[-2:]).flatten(1))


Net = tuple[nn.Module, Tensor, lmc.PermutationSpec]
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "basic": (PaddedResNet, (4, 4, 4, 8, 8, 16)),
    "bottleneck": (BottleneckNet, (2, 2, 4, 4, 4, 4, 8, 8, 8, 8, 16)),
}


@pytest.fixture(scope="module", params=NETS)
def net(request: pytest.FixtureRequest) -> Net:
    torch.manual_seed(0)
    make, _ = NETS[request.param]
    model, x = make().eval(), torch.randn(2, 3, 8, 12)
    return model, x, lmc.derive_spec(model, x, verify=False)


def noisy(model: nn.Module, seed: int) -> nn.Module:
    """With noise of a tenth of what each weight is."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * weight.std() * torch.randn(weight.shape, generator=generator)
    return model


class TestResNets:
    """Stages whose shortcuts add channels on both sides: all that there is is found, holds and is recovered."""

    def test_all_is_found_and_holds(self, net: Net, request: pytest.FixtureRequest) -> None:
        model, x, spec = net
        _, sizes = NETS[request.node.callspec.params["net"]]
        assert sorted(spec.sizes.values()) == sorted(sizes)
        assert lmc.verify_spec(model, spec, x) < 1e-10
        planted = lmc.Permutations.random(spec, 3)
        assert torch.allclose(planted.apply(model)(x), model(x), atol=1e-5)

    def test_planted_permutations_are_found(self, net: Net) -> None:
        model, _, spec = net
        for seed in (1, 2):
            planted = lmc.Permutations.random(spec, seed)
            other = noisy(planted.apply(model), seed)
            assert lmc.weight_matching(model, other, spec).permutations == planted.inverse()

    @pytest.mark.parametrize("net", ["basic"], indirect=True)
    def test_and_from_files(self, net: Net, tmp_path: Path) -> None:
        model, _, spec = net
        planted = lmc.Permutations.random(spec, 4)
        other = noisy(planted.apply(model), 4)
        for name, each in (("a", model), ("b", other)):
            state = {key: value for key, value in each.state_dict().items() if value.is_floating_point()}
            save_file(state, tmp_path / f"{name}.safetensors")
        lmc.merge_checkpoints(
            tmp_path / "a.safetensors", tmp_path / "b.safetensors", out=tmp_path / "m.safetensors", spec=spec
        )
        a, b = model.state_dict(), planted.inverse().apply(other).state_dict()
        for name, merged in load_file(tmp_path / "m.safetensors").items():
            assert torch.allclose(merged, (a[name] + b[name]) / 2, atol=1e-6), name

    def test_by_what_units_do(self, net: Net) -> None:
        model, _, spec = net
        planted = lmc.Permutations.random(spec, 5)
        batches = [torch.randn(6, 3, 8, 12, generator=torch.Generator().manual_seed(k)) for k in range(2)]
        found = lmc.activation_matching(model, planted.apply(model), batches, spec)
        assert found.permutations == planted.inverse()


class TestTerms:
    """What is known of atoms decides: each of these alone keeps two that are alike apart."""

    def _siblings(
        self,
        values: Callable[[Terms, Term, Term, Term], list[list[Term]]] = lambda *_: [],
        steps: Callable[[Terms, Term, Term, Term], list[Step]] = lambda *_: [],
        numbers: Callable[[Terms, Term], list[Numbers]] = lambda *_: [],
        others: bool = False,
    ) -> int:
        """How many atoms are one group: those on both sides of another, on a parameter."""
        terms = Terms()
        one, between, other = terms.atom(4), terms.atom(6), terms.atom(3)
        axis = [terms.sum([one, between, other])]
        found = siblings(
            terms,
            [axis],
            [axis, *values(terms, one, between, other)],
            steps(terms, one, between, other),
            numbers(terms, one),
            {one, between} if others else {between},
            {},
        )
        assert set(found.values()) <= {(one, other)}
        return len(found)

    def test_alike(self) -> None:
        assert self._siblings() == 2
        assert self._siblings(lambda t, a, b, c: [[t.product([t.sum([a, c]), b])]]) == 2
        assert self._siblings(steps=lambda t, a, b, c: [Step(True, [[t.sum([a, b, c])]])]) == 2
        assert self._siblings(steps=lambda t, a, b, c: [Step(False, [[b]])]) == 2
        assert self._siblings(steps=lambda t, a, b, c: [Step(True, [], [{a: (0, "1"), c: (0, "1")}])]) == 2

    def test_in_one_order(self) -> None:
        assert self._siblings(lambda t, a, b, c: [[t.sum([c, b, a])]]) == 0

    @pytest.mark.parametrize(
        "value",
        [
            lambda t, a, b, c: [[a]],
            lambda t, a, b, c: [[t.product([a, b])]],
            lambda t, a, b, c: [[t.sum([a, b])]],
            lambda t, a, b, c: [[t.sum([t.product([a, b]), c])]],
            lambda t, a, b, c: [[t.sum([t.product([t.atom(2), a]), t.product([t.atom(2), c])])]],
            lambda t, a, b, c: [[t.in_turn([a, c])]],
            lambda t, a, b, c: [[t.sum([t.in_turn([a, c]), t.atom(1), b])]],
            lambda t, a, b, c: [[t.sum([a, c, a, c])]],
            lambda t, a, b, c: [[t.product([t.sum([a, c]), t.sum([a, c])])]],
        ],
        ids=[
            "alone",
            "before others",
            "with others",
            "with others behind",
            "behind others",
            "in turn",
            "in turn beside others",
            "twice",
            "squared",
        ],
    )
    def test_stands_elsewhere(self, value: Callable[..., list[list[Term]]]) -> None:
        assert self._siblings(value) == 0

    def test_told_apart_by_what_is_done(self) -> None:
        assert self._siblings(steps=lambda t, a, b, c: [Step(False, [[t.sum([a, b, c])]])]) == 0
        assert self._siblings(steps=lambda t, a, b, c: [Step(True, [[c]])]) == 0
        assert self._siblings(steps=lambda t, a, b, c: [Step(True, [], [{a: (0, "1"), c: (0, "2")}])]) == 0
        assert self._siblings(steps=lambda t, a, b, c: [Step(True, [], [{a: (0, a)}])]) == 0

    def test_what_more_is_known_of(self) -> None:
        def counted(terms: Terms, one: Term) -> list[Numbers]:
            return [Numbers(one, [terms.atom(2)], WHY, object(), object())]

        assert self._siblings(numbers=counted) == 0
        assert self._siblings(others=True) == 0

        def followed(terms: Terms, a: Term, b: Term, c: Term) -> list[list[Term]]:
            last = terms.atom(5)
            terms.follow(last, [a])
            return [[last]]

        def picked(terms: Terms, a: Term, b: Term, c: Term) -> list[list[Term]]:
            held = terms.atom(4)
            held.at[terms.atom(2), 0] = a
            return [[held]]

        assert self._siblings(followed) == 0
        assert self._siblings(picked) == 0

    def test_runs_with_nothing_between(self) -> None:
        terms = Terms()
        a, b, c, d = (terms.atom(size) for size in (2, 3, 4, 5))
        assert build._runs(terms, terms.sum([d, a, b, c]), (a, b), 1) == ()
        assert build._runs(terms, terms.sum([a, b, d, c]), (a, b, c), 2) == (10, 10, 8)
        assert build._runs(terms, terms.sum([a, d, b]), (a, d), 1) == ()

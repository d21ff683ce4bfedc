"""Copies of modules that are referred to by closures, weak references and objects that cannot be copied."""

from __future__ import annotations

import functools
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast._copies import copied

X = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 3
SPEC = lmc.PermutationSpec.from_axes(
    {"fc1.weight": ("P", None), "fc1.bias": ("P",), "fc2.weight": (None, "P"), "fc2.bias": (None,)}
)


class Net(nn.Module):
    """Its forward pass is whatever `run` is."""

    run: Any

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(5, 8), nn.Linear(8, 3)
        self.prepare()

    def prepare(self) -> None:
        self.run = self.plain

    def plain(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(torch.relu(self.fc1(x)))
        return out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.run(x)
        return out


class Pack:
    """Cannot be copied, and knows parts of a model; of itself as well."""

    def __init__(self, model: Net) -> None:
        self.lock, self.parts, self.me = threading.Lock(), {"head": [model.fc2]}, self
        self.call = self.head

    def head(self, x: Tensor) -> Tensor:
        out: Tensor = self.parts["head"][0](x)
        return out


class Steps(NamedTuple):
    first: Callable[[Tensor], Tensor]
    last: Callable[[Tensor], Tensor]


class Closure(Net):
    def prepare(self) -> None:
        self.run = lambda x: self.fc2(torch.relu(self.fc1(x)))


class ClosuresInATuple(Net):
    def prepare(self) -> None:
        steps = Steps(lambda x: self.fc1(x), lambda x: self.fc2(torch.relu(x)))
        self.run = lambda x: steps.last(steps.first(x))


class ClosuresInAList(Net):
    def prepare(self) -> None:
        steps = [lambda x: self.fc1(x), torch.relu, lambda x: self.fc2(x)]
        self.steps = steps
        self.run = lambda x: functools.reduce(lambda value, step: step(value), self.steps, x)


class Default(Net):
    def prepare(self) -> None:
        def run(x: Tensor, *, head: nn.Module = self.fc2) -> Tensor:
            out: Tensor = head(torch.relu(self.fc1(x)))
            return out

        self.run = run


class OfPartial(Net):
    def prepare(self) -> None:
        self.run = functools.partial(lambda head, x: head(torch.relu(self.fc1(x))), self.fc2)


class Wrapped(Net):
    """A forward that was put on a layer, around its own."""

    def prepare(self) -> None:
        super().prepare()
        inner = self.fc1.forward
        self.fc1.forward = functools.wraps(inner)(lambda x: inner(x))  # type: ignore[method-assign]


class KnowsItself(Net):
    """Functions that refer to each other, and to themselves."""

    def prepare(self) -> None:
        def run(x: Tensor, depth: int = 0) -> Tensor:
            return self.plain(x) if depth else again(x, run)

        def again(x: Tensor, function: Callable[[Tensor, int], Tensor]) -> Tensor:
            assert function is run
            return function(x, 1)

        self.run = run


class Parent(Net):
    def prepare(self) -> None:
        parent = weakref.ref(self)
        self.fc1.parent = parent  # type: ignore[assignment]
        self.run = lambda x: self.fc1.parent().fc2(torch.relu(self.fc1(x)))


class Proxy(Net):
    def prepare(self) -> None:
        self.parents = [weakref.proxy(self)]
        self.run = lambda x: self.parents[0].plain(x)


class WeakMethod(Net):
    def prepare(self) -> None:
        method = weakref.WeakMethod(self.plain)
        self.run = lambda x: method()(x)  # type: ignore[misc]


class Hook(Net):
    def prepare(self) -> None:
        super().prepare()
        self.fc1.register_forward_hook(lambda layer, inputs, output: output + self.fc1.bias)


class Packed(Net):
    def prepare(self) -> None:
        pack = self.pack = Pack(self)
        self.run = lambda x: pack.me.call(torch.relu(self.fc1(x)))


class ByPart(Net):
    """A dictionary and a set that tell parts by themselves."""

    def prepare(self) -> None:
        heads, known = {self.fc2: "head"}, frozenset([self.fc2])
        self.run = lambda x: next(head for head in heads if head in known)(torch.relu(self.fc1(x)))


KINDS = {
    kind.__name__: kind
    for kind in (
        *(Net, Closure, ClosuresInATuple, ClosuresInAList, Default, OfPartial, Wrapped, KnowsItself),
        *(Parent, Proxy, WeakMethod, Hook, Packed, ByPart),
    )
}


def two(kind: str) -> tuple[Net, Net]:
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        models.append(KINDS[kind]())
    return models[0], models[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_computes_with_its_own_weights(kind: str) -> None:
    model, other = two(kind)
    expected, theirs = model(X), other(X)
    twin = copied(model)
    twin.load_state_dict(other.state_dict())
    assert torch.equal(twin(X), theirs)
    assert torch.equal(model(X), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_made_of_two_such_models_computes_with_its_own_weights(kind: str) -> None:
    a, b = two(kind)
    assert lmc.verify_spec(a, SPEC, X) < 1e-10
    moved = lmc.Permutations.random(SPEC.bind(b), 1).apply(b)
    torch.testing.assert_close(moved(X), b(X))
    end = lmc.interpolate(a, b, 1.0)
    torch.testing.assert_close(end(X), b(X))
    curve = lmc.loss_barrier(a, b, [(X, Y)], lambdas=3)
    assert curve.loss[-1] == pytest.approx(nn.functional.cross_entropy(b(X), Y).item(), rel=1e-5)


def test_what_does_not_refer_to_the_model_is_shared() -> None:
    model = Net()
    shared, teacher = Pack(Net()), Net()
    gone = weakref.proxy(nn.Linear(1, 1))
    with pytest.raises(ReferenceError):
        str(gone)
    notes = {"gone": gone, "teacher": weakref.ref(teacher)}
    model.extra = [shared, lambda: teacher, notes]  # type: ignore[assignment]
    twin: Any = copied(model)
    assert twin.extra[0] is shared
    assert twin.extra[1]() is teacher
    assert twin.extra[2]["gone"] is gone
    assert twin.extra[2]["teacher"]() is teacher


def test_an_object_that_cannot_be_copied_is_left_as_it_was() -> None:
    model = Packed()
    twin = copied(model)
    assert model.pack.parts["head"][0] is model.fc2
    assert twin.pack is not model.pack and twin.pack.lock is model.pack.lock
    assert twin.pack.parts["head"][0] is twin.fc2
    assert twin.pack.call.__self__ is twin.pack  # type: ignore[attr-defined]


def test_functions_keep_what_else_they_have() -> None:
    model = Default()
    model.run.note = "kept"
    twin = copied(model)
    assert isinstance(twin.run, types.FunctionType)
    assert twin.run.note == "kept"  # type: ignore[attr-defined]
    assert (twin.run.__qualname__, twin.run.__annotations__) == (model.run.__qualname__, model.run.__annotations__)

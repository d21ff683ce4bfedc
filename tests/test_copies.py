"""Copies of modules that keep what cannot be copied."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import lmc_fast as lmc
from lmc_fast._copies import copied

X, Y = torch.randn(32, 5), torch.randint(0, 3, (32,))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(x)))


class Keeps(Net):
    """Keeps activations: on itself, and deep inside a container of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, list[Tensor]] = {"hidden": []}

    def forward(self, x: Tensor) -> Tensor:
        self.hidden = torch.relu(self.fc1(x))
        self.seen["hidden"].append(self.hidden)
        return self.fc2(self.hidden)


class Trainer:
    def __init__(self, model: nn.Module) -> None:
        self.model, self.lock = model, threading.Lock()


def kept() -> Net:
    model = Keeps()
    nn.functional.cross_entropy(model(X), Y).backward()
    return model


def with_attribute(value: Callable[[nn.Module], object]) -> Callable[[], Net]:
    def make() -> Net:
        model = Net()
        model.extra = value(model)  # type: ignore[assignment]
        return model

    return make


def prepared(prepare: Callable[[nn.Module], object]) -> Callable[[], Net]:
    def make() -> Net:
        model = Net()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            prepare(model.fc1)
        nn.functional.cross_entropy(model(X), Y).backward()
        return model

    return make


MAKERS = {
    "plain": Net,
    "activations": kept,
    "a lock": with_attribute(lambda model: threading.Lock()),
    "locks in a list": with_attribute(lambda model: [threading.Lock(), {"one": threading.RLock()}]),
    "a logger": with_attribute(lambda model: logging.getLogger("lmc_fast.test")),
    "a trainer": with_attribute(Trainer),
    "a generator": with_attribute(lambda model: (i for i in range(3))),
    "a file": with_attribute(lambda model: Path(os.devnull).open()),  # noqa: SIM115
    "a list that holds itself": with_attribute(lambda model: (lambda circle: circle.append(circle) or circle)([])),
    "old weight_norm": prepared(lambda layer: nn.utils.weight_norm(layer)),
    "old spectral_norm": prepared(lambda layer: nn.utils.spectral_norm(layer)),
    "weight_norm": prepared(parametrizations.weight_norm),
    "pruned": prepared(lambda layer: prune.l1_unstructured(layer, "weight", 0.3)),
}
TAIL = {"fc1.bias": ("P",), "fc2.weight": (None, "P"), "fc2.bias": (None,)}
WEIGHTS = {
    "old weight_norm": {"fc1.weight_g": ("P", None), "fc1.weight_v": ("P", None)},
    "old spectral_norm": {"fc1.weight_orig": ("P", None), "fc1.weight_u": ("P",), "fc1.weight_v": (None,)},
    "weight_norm": {
        "fc1.parametrizations.weight.original0": ("P", None),
        "fc1.parametrizations.weight.original1": ("P", None),
    },
    "pruned": {"fc1.weight_orig": ("P", None), "fc1.weight_mask": ("P", None)},
}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_copy_computes_the_same_with_tensors_of_its_own(kind: str) -> None:
    model = MAKERS[kind]().eval()
    twin = copied(model)
    assert type(twin) is type(model)
    assert torch.equal(twin(X), model(X))
    mine = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert mine.isdisjoint(tensor.data_ptr() for tensor in twin.state_dict().values())
    assert all(parameter.grad is None and parameter.is_leaf for parameter in twin.parameters())
    with torch.no_grad():
        for tensor in twin.state_dict().values():
            tensor.zero_()
    assert float(model(X).detach().abs().sum()) > 0


@pytest.mark.parametrize("kind", MAKERS)
def test_every_method_takes_such_models(kind: str) -> None:
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        models.append(MAKERS[kind]())
    a, b, c = models
    spec = lmc.PermutationSpec.from_axes({**WEIGHTS.get(kind, {"fc1.weight": ("P", None)}), **TAIL})
    batches = [(X, Y)]
    match = lmc.weight_matching(a, b, spec)
    with torch.no_grad():
        torch.testing.assert_close(match.apply(b).eval()(X), b.eval()(X))
    assert type(lmc.interpolate(a, b, 0.5, match)) is type(a)
    assert type(lmc.merge([a, b], [None, match])) is type(a)
    assert lmc.verify_spec(a, spec, X) < 1e-10
    lmc.reestimate_batchnorm(a, batches)
    assert lmc.straight_through_matching(a, b, batches, spec, epochs=1).permutations.spec.groups["P"].size == 8
    lmc.sinkhorn_matching(a, b, spec, batches=batches, loss="midpoint", steps=2)
    assert lmc.loss_barrier(a, b, batches, match, lambdas=3).loss.shape == (3,)
    assert lmc.taylor_barrier(a, b, batches, match).a.curvature == pytest.approx(
        lmc.taylor_barrier(a, b, batches, match).a.curvature
    )
    assert lmc.loss_landscape([a, b, c], batches, points=2).loss.shape == (2, 2)
    assert lmc.activation_matching(a, b, batches, spec, unseen="keep").permutations.spec.groups["P"].size == 8


def test_parts_that_can_be_copied_are_and_refer_to_the_copy() -> None:
    model = Net()
    model.notes, model.lock = {"heads": [model.fc2]}, threading.Lock()  # type: ignore[assignment]
    twin = copied(model)
    assert twin.notes is not model.notes and twin.notes["heads"][0] is twin.fc2
    assert twin.lock is model.lock


def test_an_attribute_that_stands_in_the_way_is_named() -> None:
    class Stubborn(nn.Linear):
        def __new__(cls, *sizes: int) -> Stubborn:
            if not sizes:
                raise TypeError("made with its sizes alone")
            return super().__new__(cls)

        def __deepcopy__(self, memo: dict[int, object]) -> Stubborn:
            raise RuntimeError("no copies of this")

    model = nn.Sequential(nn.Linear(2, 2), Stubborn(2, 2))
    with pytest.raises(TypeError, match=r"cannot be copied .*no copies of this.*state dicts"):
        copied(model)

"""Batches and losses that a function cannot take, or that are read in an odd way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc

from .test_odd_models import AXES, INPUTS, Net

SPEC = lmc.PermutationSpec.from_axes(AXES)
TARGETS = torch.arange(12) % 3


def models() -> tuple[Net, Net]:
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        made.append(Net())
    return made[0], made[1]


def every_function(batches: list[Any], **options: Any) -> dict[str, Callable[[], object]]:
    """Calls of all functions that take data; those without a loss are given none."""
    a, b = models()
    without = {name: value for name, value in options.items() if name != "loss_fn"}
    return {
        "activation": lambda: lmc.activation_matching(a, b, batches, SPEC, **without),
        "repair": lambda: lmc.repair(lmc.interpolate(a, b, 0.5), [a, b], batches, spec=SPEC, **without),
        "input_alignment": lambda: lmc.input_alignment(a, batches, **without),
        "evaluate": lambda: lmc.evaluate(a, batches, **options),
        "barrier": lambda: lmc.loss_barrier(a, b, batches, lambdas=3, **options),
        "taylor": lambda: lmc.taylor_barrier(a, b, batches, lambdas=3, **options),
        "straight_through": lambda: lmc.straight_through_matching(a, b, batches, SPEC, epochs=1, **options),
        "sinkhorn": lambda: lmc.sinkhorn_matching(a, b, SPEC, batches=batches, loss="midpoint", steps=2, **options),
    }


ALL = list(every_function([]))
WITH_LOSS = [name for name in ALL if name not in ("activation", "repair", "input_alignment")]


class Attributes(dict[str, Any]):
    """A dict that gives its entries as attributes, in the short way."""

    __getattr__ = dict.__getitem__


@pytest.mark.parametrize("call", ALL)
@pytest.mark.parametrize(
    "batch",
    [Attributes(x=INPUTS, labels=TARGETS), (INPUTS.to_sparse(), TARGETS)],
    ids=["attributes", "sparse"],
)
def test_these_are_taken(call: str, batch: Any) -> None:
    assert every_function([batch])[call]() is not None


@pytest.mark.parametrize("call", ALL)
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (INPUTS.double(), r"batches\[0\] must fit the model, which was given a Tensor of shape \(12, 5\)"),
        (INPUTS[:, :4], r"batches\[0\] must fit the model, which was given a Tensor of shape \(12, 4\)"),
        (INPUTS.to("meta"), r"batches\[0\] holds a tensor on the meta device"),
    ],
    ids=["double", "too narrow", "meta"],
)
def test_these_are_named(call: str, inputs: Tensor, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        every_function([(inputs, TARGETS)])[call]()


def test_the_second_batch_is_named_where_it_is_that() -> None:
    a, _ = models()
    with pytest.raises(ValueError, match=r"batches\[1\] must fit the model"):
        lmc.evaluate(a, [(INPUTS, TARGETS), (INPUTS.int(), TARGETS)])


def test_errors_of_a_kind_of_their_own_stay_what_they_are() -> None:
    class Full(RuntimeError):
        pass

    class Fails(Net):
        def forward(self, x: Tensor) -> Tensor:
            raise Full("no room")

    with pytest.raises(Full, match="no room"):
        lmc.evaluate(Fails(), [(INPUTS, TARGETS)])


@pytest.mark.parametrize("call", WITH_LOSS)
@pytest.mark.parametrize(
    ("loss_fn", "message"),
    [
        (nn.CrossEntropyLoss, r"loss_fn must be .* got a class: CrossEntropyLoss\(\) makes one"),
        (lambda outputs, targets: outputs.mean() * (1 + 1j), "loss_fn must return one real number"),
    ],
    ids=["class", "complex"],
)
def test_losses_that_are_none(call: str, loss_fn: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        every_function([(INPUTS, TARGETS)], loss_fn=loss_fn)[call]()


def test_a_loss_with_parameters_of_its_own() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return nn.functional.cross_entropy(outputs * self.scale, targets)

    a, b = models()
    loss_fn = Scaled()
    found = lmc.taylor_barrier(a, b, [(INPUTS, TARGETS)], loss_fn=loss_fn)
    plain = lmc.taylor_barrier(
        a, b, [(INPUTS, TARGETS)], loss_fn=lambda outputs, targets: nn.functional.cross_entropy(2 * outputs, targets)
    )
    assert found.a.curvature == pytest.approx(plain.a.curvature, rel=1e-6)
    assert loss_fn.scale.grad is None

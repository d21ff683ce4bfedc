"""A spec that is left out is derived from the model, in every function that takes one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from benchmarks import models
from lmc_fast.symmetry.verification import structure_of

INPUTS = torch.randn(4, 4)
BATCHES = [(torch.randn(8, 4), torch.randint(0, 3, (8,))) for _ in range(2)]
FORWARD = {"forward": lambda model, batch: model(batch[0])}

Find = Callable[..., Any]
METHODS: dict[str, Find] = {
    "weight_matching": lambda a, b, **given: lmc.weight_matching(a, b, **given),
    "activation_matching": lambda a, b, **given: lmc.activation_matching(a, b, BATCHES, **given),
    "straight_through_matching": lambda a, b, **given: lmc.straight_through_matching(a, b, BATCHES, epochs=1, **given),
    "sinkhorn_matching": lambda a, b, **given: lmc.sinkhorn_matching(a, b, steps=2, **given),
    "match_many": lambda a, b, **given: lmc.match_many([b, a], reference=1, **given),
    "match_many, ste_mm": lambda a, b, **given: lmc.match_many(
        [a, b], method="ste_mm", batches=BATCHES, epochs=1, **given
    ),
}
WITH_DATA = ("activation_matching", "straight_through_matching", "match_many, ste_mm")


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    return models.small_mlp(), models.small_mlp()


def spec_in(found: Any) -> lmc.PermutationSpec:
    spec = found.permutations.spec if isinstance(found, lmc.Matching) else found.permutations[0].spec
    assert isinstance(spec, lmc.PermutationSpec)
    return spec


@pytest.mark.parametrize("name", METHODS)
def test_it_is_derived_from_example_inputs(name: str, pair: Any) -> None:
    found = METHODS[name](*pair, example_inputs=INPUTS)
    assert spec_in(found) == lmc.derive_spec(pair[0], INPUTS)
    assert found.verified.by == "verify_spec"


@pytest.mark.parametrize("name", WITH_DATA)
def test_or_else_from_the_first_batch(name: str, pair: Any) -> None:
    assert spec_in(METHODS[name](*pair)) == lmc.derive_spec(pair[0], INPUTS)
    with pytest.raises(ValueError, match="spec or example_inputs must be given, got neither"):
        METHODS[name](*pair, forward=lambda model, batch: model(batch[0]), **loss_of(name))
    found = METHODS[name](*pair, forward=lambda model, batch: model(batch[0]), example_inputs=INPUTS, **loss_of(name))
    assert spec_in(found) == lmc.derive_spec(pair[0], INPUTS)


def loss_of(name: str) -> dict[str, Any]:
    if name == "activation_matching":
        return {}
    return {"loss_fn": lambda outputs, batch: nn.functional.cross_entropy(outputs, batch[1])}


def test_sinkhorns_loss_of_the_task_brings_a_batch(pair: Any) -> None:
    found = lmc.sinkhorn_matching(*pair, batches=BATCHES, loss="midpoint", steps=2)
    assert spec_in(found) == lmc.derive_spec(pair[0], INPUTS)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in WITH_DATA])
def test_without_either_the_message_names_both(name: str, pair: Any) -> None:
    with pytest.raises(ValueError, match="spec or example_inputs must be given, got neither: what may be permuted is"):
        METHODS[name](*pair)


@pytest.mark.parametrize("name", ["weight_matching", "sinkhorn_matching", "match_many"])
def test_a_state_dict_needs_a_spec(name: str, pair: Any) -> None:
    a, b = (model.state_dict() for model in pair)
    with pytest.raises(ValueError, match=r"spec must be given where \S+ is a state dict, of which none can be derived"):
        METHODS[name](a, b, example_inputs=INPUTS)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_no_spec_is_refused(name: str, pair: Any) -> None:
    with pytest.raises(TypeError, match="spec must be a PermutationSpec, got a dict"):
        METHODS[name](*pair, spec={"0.weight": ("a", None)})


def test_repair_derives_one_where_no_match_brings_it(pair: Any) -> None:
    a, b = pair
    merged = lmc.interpolate(a, b, 0.5)
    spec = lmc.derive_spec(a, INPUTS)
    expected = lmc.repair(merged, [a, b], BATCHES, spec=spec).state_dict()
    for given in ({}, {"example_inputs": INPUTS, **FORWARD}):
        found = lmc.repair(merged, [a, b], BATCHES, **given).state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    with pytest.raises(ValueError, match="spec or example_inputs must be given"):
        lmc.repair(merged, [a, b], BATCHES, **FORWARD)


def test_all_inputs_of_a_batch_are_used() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.gate, self.down = nn.Linear(4, 6), nn.Linear(3, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.down(self.up(x).relu() * self.gate(y))

    batches = [((torch.randn(8, 4), torch.randn(8, 3)), torch.randint(0, 3, (8,)))]
    found = lmc.activation_matching(Two(), Two(), batches)
    assert spec_in(found).sizes == {"up": 6}


# A spec that was verified on one model is not trusted for another one of the same name.


def made(sign: float, heads: int = 1) -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down, self.heads = nn.Linear(4, 6), nn.Linear(6, 3), heads

        if sign > 0:

            def forward(self, x: Tensor) -> Tensor:
                return self.down(self.up(x).relu())

        else:

            def forward(self, x: Tensor) -> Tensor:
                return self.down(self.up(x).cumsum(-1))

    return Net()


def test_a_class_that_was_written_anew_is_verified_anew() -> None:
    first, second = made(1), made(-1)
    assert type(first).__qualname__ == type(second).__qualname__
    spec = lmc.derive_spec(first, INPUTS)
    assert lmc.weight_matching(first, made(1), spec, example_inputs=INPUTS).verified is spec.verified
    with pytest.raises(lmc.SymmetryError):
        lmc.weight_matching(second, made(-1), spec, example_inputs=INPUTS)


@pytest.mark.parametrize(
    "other",
    [lambda: made(1, heads=2), lambda: made_with_forward(), lambda: made_with_config(3)],
    ids=["another setting", "a forward of its own", "another configuration"],
)
def test_other_settings_are_another_model(other: Callable[[], nn.Module]) -> None:
    model = made_with_config(2) if isinstance(getattr(other(), "config", None), Config) else made(1)
    spec = lmc.derive_spec(model, INPUTS)
    assert spec.verified is not None
    assert spec.verified.holds_for(model) and not spec.verified.holds_for(other())


def made_with_forward() -> nn.Module:
    model = made(1)
    model.forward = lambda x: model.down(model.up(x).sort(-1).values)  # type: ignore[method-assign]
    return model


class Config:
    def __init__(self, heads: int) -> None:
        self.heads = heads

    def to_dict(self) -> dict[str, Any]:
        return {"heads": self.heads, "sizes": [1, (2, 3)], "kind": Config, "nested": {"x": None}}


def made_with_config(heads: int) -> nn.Module:
    model = made(1)
    model.config = Config(heads)  # type: ignore[assignment]
    return model


def test_what_is_nested_without_end_has_a_structure_too() -> None:
    model = made(1)
    endless: list[Any] = []
    endless.append(endless)
    model.endless = endless  # type: ignore[assignment]
    assert structure_of(model) == structure_of(model)
    assert structure_of(model) != structure_of(made(1))

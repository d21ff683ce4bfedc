"""Buffers of units that no state dict holds: named in a spec, they move with their units."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast import PermutationSpec, architectures


class Scaled(nn.Module):
    """Units that are scaled by a buffer which is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 3)
        self.register_buffer("scale", torch.rand(6) + 0.5, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.tanh(self.fc1(x)) * self.scale)


def spec_of(scale: object = ("fc1",)) -> PermutationSpec:
    axes = architectures.mlp(nn.ModuleDict({"fc1": nn.Linear(4, 6), "fc2": nn.Linear(6, 3)})).axes
    return PermutationSpec.from_axes({**axes, "scale": scale})  # type: ignore[dict-item]


X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def test_they_move_with_their_units() -> None:
    model = Scaled()
    before = model.scale.clone()
    moved = lmc.Permutations.random(spec_of().bind(model), 1).apply(model)
    torch.testing.assert_close(moved(X), model(X))
    assert not torch.equal(moved.scale, before) and torch.equal(model.scale, before)
    back = lmc.Permutations.random(spec_of().bind(model), 1).inverse().apply(moved)
    assert torch.equal(back.scale, before)


def test_the_check_moves_them_and_misses_them() -> None:
    assert lmc.verify_spec(Scaled(), spec_of(), X) < 1e-12
    for wrong in (spec_of((None,)), architectures.mlp(Scaled())):
        with pytest.raises(lmc.SymmetryError, match="group 'fc1'"):
            lmc.verify_spec(Scaled(), wrong, X)


@pytest.mark.parametrize(
    "find",
    [
        lambda a, b, spec: lmc.weight_matching(a, b, spec),
        lambda a, b, spec: lmc.activation_matching(a, b, [X], spec),
        lambda a, b, spec: lmc.straight_through_matching(a, b, [(X, torch.zeros(5).long())], spec, epochs=1),
        lambda a, b, spec: lmc.sinkhorn_matching(a, b, spec, steps=20),
        lambda a, b, spec: lmc.match_many([b, a], spec, reference=1).pairwise(1, 0),
    ],
    ids=["weights", "activations", "straight-through", "sinkhorn", "many"],
)
def test_matchings_move_them(find: Callable[..., lmc.Matching]) -> None:
    torch.manual_seed(1)
    a, spec = Scaled(), spec_of()
    b = lmc.Permutations.random(spec.bind(a), 3).apply(a)
    laid = find(a, b, spec).apply(b)
    torch.testing.assert_close(laid(X), b(X))
    assert torch.equal(laid.scale.sort().values, a.scale.sort().values)


def test_state_dicts_do_without(tmp_path: Path) -> None:
    model = Scaled()
    bound = spec_of().bind(model)
    assert "scale" not in bound.axes and bound.unsaved["scale"] == bound.axes["fc1.bias"]
    assert bound.bind(model.state_dict()) == bound
    moved = lmc.Permutations.random(bound, 1).apply(model.state_dict())
    assert moved.keys() == model.state_dict().keys()
    read = PermutationSpec.from_json(bound.to_json(tmp_path / "spec.json"))
    assert read == bound
    match = lmc.weight_matching(model.state_dict(), moved, read)
    match.save(tmp_path / "match.safetensors")
    other = Scaled()
    torch.testing.assert_close(lmc.Matching.load(tmp_path / "match.safetensors").apply(other)(X), other(X))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: spec_of().bind(Scaled().state_dict()), "names parameter 'scale', which the model lacks"),
        (lambda: spec_of(("fc1", None)).bind(Scaled()), r"parameter 'scale' has 1 dimensions \(6,\)"),
        (lambda: PermutationSpec({}, {"w": ("p",)}, {"w": ("p",)}), "must name different tensors, got 'w' in both"),
        (
            lambda: PermutationSpec({}, architectures.mlp(Scaled()).axes, {"fc2.bias": ("fc1",)}).bind(Scaled()),
            "must name different tensors",
        ),
        (
            lambda: PermutationSpec({}, architectures.mlp(Scaled()).axes, {"other": ("fc1",)}).bind(Scaled()),
            "names buffer 'other', which the model lacks, or has in its state dict",
        ),
        (lambda: PermutationSpec.from_json('{"format": "lmc_fast.PermutationSpec", "version": 1, "groups": {}, '
                                           '"axes": {}, "unsaved": []}'), "an object under 'unsaved'"),
    ],
    ids=["state-dict", "dims", "twice", "saved", "unknown", "json"],
)  # fmt: skip
def test_what_does_not_fit_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

"""Signs of gated units: found by trial, planted and found again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lmc_fast as lmc
from lmc_fast import Group, PermutationSpec, Segment, Transforms
from lmc_fast.symmetry.kinds import KINDS

WIDTH, UNITS = 4, 7
X = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))


class Gated(nn.Module):
    """Layers of gated units, in maps of their own or in one, on a stream; and plain units."""

    def __init__(self, layers: int = 2, *, fused: bool = False) -> None:
        super().__init__()
        self.fused = fused
        self.embed, self.head = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 2)
        self.layers = nn.ModuleList()
        for _ in range(layers):
            layer = nn.Module()
            layer.down = nn.Linear(UNITS, WIDTH)
            if fused:
                layer.both = nn.Linear(WIDTH, 2 * UNITS)
            else:
                layer.gate, layer.up = nn.Linear(WIDTH, UNITS), nn.Linear(WIDTH, UNITS)
            self.layers.append(layer)
        self.plain, self.back = nn.Linear(WIDTH, 5), nn.Linear(5, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for layer in self.layers:
            gate, up = layer.both(x).chunk(2, -1) if self.fused else (layer.gate(x), layer.up(x))
            x = x + layer.down(functional.silu(gate) * up)
        out: Tensor = self.head(x + self.back(self.plain(x).relu()))
        return out


def spec_of(model: Gated) -> PermutationSpec:
    axes: dict[str, tuple[object, ...]] = {
        "embed.weight": (None, None),
        "plain.weight": ("plain", None),
        "plain.bias": ("plain",),
        "back.weight": (None, "plain"),
    }
    groups = [Group("plain")]
    for k in range(len(model.layers)):
        unit = Segment(f"unit{k}")
        axes[f"layers.{k}.down.weight"] = (None, unit)
        for part in ("both",) if model.fused else ("gate", "up"):
            rows = lmc.symmetry.groups.Axis((unit, unit)) if model.fused else unit
            axes |= {f"layers.{k}.{part}.weight": (rows, None), f"layers.{k}.{part}.bias": (rows,)}
        groups.append(Group(f"unit{k}", UNITS))
    return PermutationSpec.from_axes(axes, groups, model=model, rest="fixed")  # type: ignore[arg-type]


@pytest.mark.parametrize("fused", [False, True], ids=["two maps", "one map"])
def test_signs_are_found_where_they_change_nothing(fused: bool) -> None:
    model = Gated(fused=fused)
    spec = spec_of(model)
    found = lmc.with_signs(model, spec, X)
    assert set(found.groups) - set(spec.groups) == {"unit0:sign", "unit1:sign"}
    for k in range(2):
        signed = {
            (name, dim, place)
            for name, axes in found.axes.items()
            for dim, axis in enumerate(axes)
            for place, segment in enumerate(axis.segments)
            if segment == Segment(f"unit{k}", inner=(Segment(f"unit{k}:sign"),))
        }
        at = f"layers.{k}."
        wanted = (
            {(f"{at}both.weight", 0, 1), (f"{at}both.bias", 0, 1), (f"{at}down.weight", 1, 0)}
            if fused
            else {(f"{at}up.weight", 0, 0), (f"{at}up.bias", 0, 0), (f"{at}down.weight", 1, 0)}
        )
        assert signed == wanted
    assert found.verified is not None
    # Once is enough.
    assert lmc.with_signs(model, found, X) == found


def test_planted_signs_are_found_with_their_places() -> None:
    torch.manual_seed(3)
    model = Gated()
    spec = lmc.with_signs(model, spec_of(model), X)
    planted = Transforms.random(spec, 5)
    other = planted.inverse().apply(model)
    assert torch.allclose(other(X), model(X), atol=1e-5)
    flipped = sum(int((planted[f"unit{k}:sign"] < 0).sum()) for k in range(2))
    assert 0 < flipped < 2 * UNITS
    for match in (lmc.weight_matching(model, other, spec), lmc.activation_matching(model, other, [X], spec)):
        assert match.choice == planted and match.l2_after < 1e-5
    # Places alone leave the weights of those units apart.
    assert lmc.weight_matching(model, other, spec_of(model)).l2_after > 1.0


def test_what_has_no_gate_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    spec = PermutationSpec.from_axes(
        {"0.weight": ("unit", None), "0.bias": ("unit",), "2.weight": (None, "unit")}, model=model, rest="fixed"
    )
    assert lmc.with_signs(model, spec, X) == spec


def test_one_sign_of_two_that_would_do_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "silu", lambda x: x)
    model = Gated(1)
    found = lmc.with_signs(model, spec_of(model), X)
    signed = [name for name, axes in found.axes.items() for axis in axes if "unit0:sign" in axis.groups]
    assert sorted(signed) == ["layers.0.down.weight", "layers.0.gate.bias", "layers.0.gate.weight"]


def test_what_is_more_than_single_units_is_left_alone() -> None:
    model = Gated(1)
    spec = PermutationSpec.from_axes(
        {
            "layers.0.gate.weight": (Segment("unit", inner=7), None),
            "layers.0.up.weight": (Segment("unit", inner=7), None),
            "layers.0.gate.bias": (Segment("unit", inner=7),),
            "layers.0.up.bias": (Segment("unit", inner=7),),
            "layers.0.down.weight": (None, Segment("unit", inner=7)),
        },
        [Group("unit", 1)],
        model=model,
        rest="fixed",
    )
    assert lmc.with_signs(model, spec, X) == spec


def test_a_sign_without_places_is_taken_from_its_gain() -> None:
    gain = torch.tensor([2.0, -3.0, 0.0], dtype=torch.float64).reshape(3, 1, 1, 1, 1)
    element, value = KINDS["signed"].best(gain)
    assert element.tolist() == [[0], [-1], [0]] and value.tolist() == [2.0, 3.0, 0.0]


def test_errors() -> None:
    model = Gated()
    with pytest.raises(TypeError, match="spec must be a PermutationSpec, got"):
        lmc.with_signs(model, {}, X)  # type: ignore[arg-type]
    right = spec_of(model)
    wrong = right.edit({"layers.0.gate.bias": (None,)})
    with pytest.raises(lmc.SymmetryError, match="unit"):
        lmc.with_signs(model, wrong, X)

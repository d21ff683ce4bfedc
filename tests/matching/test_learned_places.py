"""Discrete groups that follow the loss while others turn, and paths that go on falling below their line."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast import Group, PermutationSpec, Segment, Transforms
from lmc_fast.matching.engine import learning
from lmc_fast.matching.engine.learning import Check, Turning
from lmc_fast.matching.engine.placing import Placing, placed_roots

CPU = torch.device("cpu")
WIDTH, UNITS = 4, 6


class Gated(nn.Module):
    """A linear stream that turns, gated units that change places and whose product changes signs, an output."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, WIDTH, bias=False)
        self.gate, self.up = nn.Linear(WIDTH, UNITS, bias=False), nn.Linear(WIDTH, UNITS, bias=False)
        self.down = nn.Linear(UNITS, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.embed(x)
        out: Tensor = self.down(nn.functional.silu(self.gate(stream)) * self.up(stream))
        return out


def spec_of(*, signs: bool) -> PermutationSpec:
    units = Segment("unit", inner=(Segment("sign"),)) if signs else Segment("unit")
    signed = [Group("sign", 1, "unit", "signed")] if signs else []
    return PermutationSpec.from_axes(
        {
            "embed.weight": ("stream", None),
            "gate.weight": ("unit", "stream"),
            "up.weight": (units, "stream"),
            "down.weight": (None, units),
        },
        [Group("stream", kind="orthogonal"), Group("unit"), *signed],
        model=Gated(),
    )


def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean()


def made(*, signs: bool) -> tuple[nn.Module, nn.Module, PermutationSpec, list[tuple[Tensor, Tensor]], Transforms]:
    """A model, one of the same function, batches, and what brings the second back but for three units, or two signs."""
    generator = torch.Generator().manual_seed(0)
    model, spec = Gated(), spec_of(signs=signs)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator))
    planted = Transforms.random(spec, 3)
    x = torch.randn(96, 5, generator=generator)
    with torch.no_grad():
        batches = list(zip(x.split(32), model(x).split(32), strict=True))
    elements = planted.elements
    if signs:
        elements["sign"][:2] = -1 - elements["sign"][:2]
    else:
        elements["unit"][:3] = elements["unit"][:3].roll(1)
    return model, planted.inverse().apply(model), spec, batches, Transforms(spec, elements)


@pytest.mark.parametrize(
    "signs", [pytest.param(False, marks=pytest.mark.slow), True], ids=["places", "places and signs"]
)
def test_units_find_their_places_by_the_loss(signs: bool) -> None:
    model, other, spec, batches, start = made(signs=signs)

    def learned(discrete: str) -> lmc.Matching:
        return lmc.learned_matching(
            model,
            other,
            batches,
            spec,
            loss_fn=loss_fn,
            init=start,
            steps=120,
            lr=0.03,
            discrete=discrete,
            tolerance=1e-4,
            patience=20,
            checks=20,
        )

    frozen, followed = learned("frozen"), learned("straight_through")
    for name in ("unit", "sign") if signs else ("unit",):
        assert torch.equal(frozen.choice[name], start[name])
    assert not torch.equal(*(choice["sign" if signs else "unit"] for choice in (followed.choice, start)))
    barriers = [
        lmc.loss_barrier(model, m.apply(other), batches, loss_fn=loss_fn, lambdas=9).barrier for m in (frozen, followed)
    ]
    assert barriers[1] < (barriers[0] if signs else 0.6 * barriers[0])
    # The function is kept wherever the units went.
    x = batches[0][0]
    assert torch.allclose(followed.apply(other)(x), model(x), atol=1e-4)
    assert followed.method.endswith(", straight through") and not frozen.method.endswith("through")
    assert signs or learned("straight_through").choice == followed.choice


def test_the_hat_begins_where_the_model_is_and_goes_where_it_is_told() -> None:
    model, other, spec, _, start = made(signs=True)
    turning = Turning(spec, other.state_dict(), list(other.state_dict()), start, CPU)
    placing = Placing(spec, turning.tensors, turning.names, turning.weights(), CPU)
    assert not placing.best(turning.elements())
    # The model itself, say, is what the loss would have: there the signs are as they were planted.
    planted = Transforms.random(spec, 3)
    with torch.no_grad():
        for name, tensor in placing.hat.items():
            tensor.copy_(model.state_dict()[name])
    found = placing.best(turning.elements())
    assert found.keys() == {"sign"}
    turning.place(found)
    assert turning.choice() == planted != start
    # What turns is where it was; its tensors follow the new places.
    for name, tensor in turning.weights().items():
        assert torch.allclose(tensor, turning.choice().apply_to(name, other.state_dict()[name]), atol=1e-5), name
    placing.see({name: torch.ones_like(tensor) for name, tensor in placing.hat.items()}, 0.25)
    assert all(tensor.grad is not None and float(tensor.grad.min()) == 0.25 for tensor in placing.hat.values())


def test_what_owns_what_turns_stays() -> None:
    spec = PermutationSpec.from_axes(
        {"v": (Segment("head", inner=(Segment("value"),)), None), "up": ("unit", "outer")},
        [Group("head", 2), Group("value", 3, "head", "orthogonal"), Group("unit", 4), Group("outer", 5)],
        model={"v": torch.zeros(6, 2), "up": torch.zeros(4, 5)},
    )
    assert placed_roots(spec) == ["unit", "outer"]


def test_groups_inside_others_stay() -> None:
    spec = PermutationSpec.from_axes(
        {"w": (Segment("around", inner=(Segment("inside"),)), "unit"), "u": ("unit", None)},
        [Group("around", 2), Group("inside", 3), Group("unit", 4)],
        model={"w": torch.zeros(6, 4), "u": torch.zeros(4, 2)},
    )
    tensors = {"w": torch.randn(6, 4), "u": torch.randn(4, 2)}
    assert list(Placing(spec, tensors, list(tensors), tensors, CPU).leaves) == ["unit"]


def test_of_paths_without_a_barrier_the_lowest_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model, other, spec, batches, start = made(signs=False)
    told = iter([(0.1, 0.0), (-0.01, -0.2), (-0.02, -0.1), (-0.005, -0.4), (0.01, -0.9), (-0.001, -0.3)])
    seen: list[object] = []

    def look(self: learning._Judge, step: int) -> Check:
        seen.append(self.between.turnings[0].choice())
        return Check(step, (next(told),), 0.0)

    monkeypatch.setattr(learning._Judge, "__call__", look)
    options = {"loss_fn": loss_fn, "init": start, "steps": 5, "checks": 5}
    match = lmc.learned_matching(model, other, batches, spec, tolerance=None, **options)  # type: ignore[arg-type]
    assert len(seen) == 6 and match.choice == seen[3] != seen[2]
    # A tolerance ends it at the first that has none.
    told = iter([(0.1, 0.0), (-0.01, -0.2)])
    assert lmc.learned_matching(model, other, batches, spec, **options).converged  # type: ignore[arg-type]
    assert len(seen) == 8


@pytest.mark.parametrize("discrete", ["soft", None])
def test_what_discrete_takes(discrete: object) -> None:
    model, other, spec, batches, _ = made(signs=False)
    with pytest.raises(ValueError, match="discrete must be one of 'frozen', 'straight_through', got"):
        lmc.learned_matching(model, other, batches, spec, loss_fn=loss_fn, discrete=discrete)  # type: ignore[arg-type]

"""Low-rank adapters of models whose norms are folded before anything turns: on both sides the models are as stored."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast import Group, PermutationSpec, Transforms
from lmc_fast.merging.adapters import carried_adapter
from lmc_fast.symmetry import Fold, Reader

WIDTH, UNITS = 6, 5
X = torch.randn(9, 4, generator=torch.Generator().manual_seed(8))


class Net(nn.Module):
    """A stream, a LayerNorm with a bias, a layer behind it that a scale multiplies, and an output."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(4, WIDTH), nn.LayerNorm(WIDTH)
        self.up, self.head = nn.Linear(WIDTH, UNITS), nn.Linear(UNITS, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.up(self.norm(self.embed(x))).tanh())
        return out


SPEC = PermutationSpec.from_axes(
    {
        "embed.weight": ("stream", None),
        "embed.bias": ("stream",),
        "norm.weight": (None,),
        "norm.bias": (None,),
        "up.weight": ("unit", "stream"),
        "up.bias": ("unit",),
        "head.weight": (None, "unit"),
        "head.bias": (None,),
    },
    [Group("stream", kind="orthogonal_keeping_ones"), Group("unit")],
    folds=[Fold("norm.weight", (Reader("up.weight", 1, "up.bias"),), "norm.bias")],
)
State = dict[str, Tensor]


def two() -> tuple[State, State, Transforms]:
    """Two models of one function with gains and biases of their own, and what brings the first over the second."""
    generator = torch.Generator().manual_seed(1)
    base = {n: torch.randn(x.shape, generator=generator) for n, x in Net().state_dict().items()}
    choice = Transforms.random(SPEC.bind(base), 4)
    new = choice.apply(lmc.fold_norms(base, SPEC))
    gain, bias = torch.rand(WIDTH, generator=generator) + 0.5, torch.randn(WIDTH, generator=generator)
    new["up.weight"] = new["up.weight"] / gain
    new["up.bias"] = new["up.bias"] - new["up.weight"] @ bias
    new["norm.weight"], new["norm.bias"] = gain, bias
    return base, new, choice


@pytest.fixture
def models() -> tuple[State, State, Transforms]:
    return two()


def adapter(**more: Tensor) -> State:
    generator = torch.Generator().manual_seed(2)
    return {
        "up.lora_A.weight": torch.randn(2, WIDTH, generator=generator),
        "up.lora_B.weight": torch.randn(UNITS, 2, generator=generator),
        "head.lora_A.weight": torch.randn(2, UNITS, generator=generator),
        "head.lora_B.weight": torch.randn(3, 2, generator=generator),
        **more,
    }


def outputs(state: Mapping[str, Tensor], factors: Mapping[str, Tensor], scale: float = 1.0) -> Tensor:
    """As PEFT computes them, with the biases of B."""
    tuned = {n: x.clone() for n, x in state.items()}
    for layer in ("up", "head"):
        b = factors[f"{layer}.lora_B.weight"]
        tuned[f"{layer}.weight"] += scale * b @ factors[f"{layer}.lora_A.weight"]
        tuned[f"{layer}.bias"] += scale * factors.get(f"{layer}.lora_B.bias", torch.zeros(len(b)))
    model = Net()
    model.load_state_dict(tuned)
    with torch.no_grad():
        return model(X)


@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("biased", [False, True], ids=["plain", "with biases of its own"])
def test_the_new_model_computes_what_the_base_did(
    models: tuple[State, State, Transforms], alpha: float, biased: bool
) -> None:
    base, new, choice = models
    own = {"up.lora_B.bias": torch.randn(UNITS), "head.lora_B.bias": torch.randn(3)} if biased else {}
    given = adapter(**own)
    carried = carried_adapter(given, choice, {}, {}, alpha=alpha, stored=(base, new))
    assert torch.allclose(outputs(new, carried), outputs(base, given, alpha), atol=1e-4)
    assert torch.allclose(outputs(new, adapter(), 0.0), outputs(base, given, 0.0), atol=1e-4)
    # What the norm adds is no part of B A.
    assert carried["up.lora_B.bias"].abs().max() > 0.1
    if not biased:
        assert not carried["head.lora_B.bias"].any()


def test_whole_tensors_go_along(models: tuple[State, State, Transforms]) -> None:
    base, new, choice = models
    for state in (base, new):
        state["norm.bias"].zero_()
    tuned = {"up.weight": torch.randn(UNITS, WIDTH), "up.bias": torch.randn(UNITS)}
    saved = {f"up.modules_to_save.{n.partition('.')[2]}": x for n, x in tuned.items()}
    carried = carried_adapter(adapter() | saved, choice, {}, {}, stored=(base, new))
    state = {**new, **{n: carried[f"up.modules_to_save.{n.partition('.')[2]}"] for n in tuned}}
    # The difference of the tuned base and the base, on top of the new model, both in pure form.
    pure = [lmc.fold_norms(each, SPEC) for each in (new, {**base, **tuned}, base, state)]
    for name in tuned:
        wanted = pure[0][name] + choice.apply_to(name, pure[1][name] - pure[2][name])
        assert torch.allclose(pure[3][name], wanted, atol=1e-5)


def test_scales_of_layers_are_met_by_b() -> None:
    spec = PermutationSpec.from_axes(
        {"up.weight": ("stream", None), "up.bias": ("stream",), "scale": (None,), "head.weight": (None, "stream")},
        [Group("stream", kind="orthogonal")],
        folds=[Fold("scale", (Reader("up.weight", 0), Reader("up.bias", 0)))],
    )
    base, new = (
        {"up.weight": torch.randn(4, 3), "up.bias": torch.randn(4), "scale": torch.rand(4) + 0.5, "head.weight": head}
        for head in torch.randn(2, 3, 4)
    )
    choice = Transforms.random(spec.bind(base), 2)
    given = {"up.lora_A.weight": torch.randn(2, 3), "up.lora_B.weight": torch.randn(4, 2), "up.bias": torch.randn(4)}
    carried = carried_adapter(given, choice, {}, {}, stored=(base, new))
    assert torch.equal(carried["up.lora_A.weight"], given["up.lora_A.weight"])

    def added(of: State, state: State) -> Tensor:
        return state["scale"][:, None] * of["up.lora_B.weight"] @ of["up.lora_A.weight"]

    assert torch.allclose(added(carried, new), choice.apply_to("up.weight", added(given, base)), atol=1e-5)
    moved = choice.apply_to("up.bias", base["scale"] * (given["up.bias"] - base["up.bias"]))
    assert torch.allclose(new["scale"] * (carried["up.bias"] - new["up.bias"]), moved, atol=1e-5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"norm.modules_to_save.weight": torch.ones(WIDTH)},
            "'norm.modules_to_save.weight' is of a norm that is folded",
        ),
        ({"up.lora_magnitude_vector": torch.ones(UNITS)}, r"holds magnitudes \(DoRA\) of 'up.weight'"),
        ({"up.modules_to_save.weight": torch.ones(UNITS, WIDTH)}, "reads a norm with a bias"),
        ({"up.lora_A.bias": torch.ones(2)}, "is a bias of a low-rank factor"),
    ],
    ids=["norm", "magnitudes", "whole weight", "bias of A"],
)
def test_what_folding_leaves_unknown_is_named(
    models: tuple[State, State, Transforms], more: State, message: str
) -> None:
    base, new, choice = models
    with pytest.raises(ValueError, match=message):
        carried_adapter(adapter(**more), choice, {}, {}, stored=(base, new))


def test_nothing_is_seen_behind_a_gain_of_0(models: tuple[State, State, Transforms]) -> None:
    base, new, choice = models
    new["norm.weight"][2] = 0.0
    with pytest.raises(ValueError, match=r"the norm that 'up\.weight' reads has gains of 0 in the new model"):
        carried_adapter(adapter(), choice, {}, {}, stored=(base, new))

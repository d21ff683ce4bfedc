"""Fine-tunes carried over to another model: whole ones and low-rank adapters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast.merging.adapters import carried_adapter


class Net(nn.Module):
    """An embedding, a residual stream, units, a batch norm, and a weight that lies as [inputs, outputs]."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(7, 6)
        self.up, self.down = nn.Linear(6, 10), nn.Linear(10, 6)
        self.norm = nn.BatchNorm1d(10)
        self.turned = nn.Parameter(torch.randn(6, 5))
        self.eval()
        self.norm.running_mean.uniform_()  # type: ignore[union-attr, operator]

    def forward(self, words: Tensor) -> Tensor:
        stream: Tensor = self.embed(words)
        hidden = self.norm(self.up(stream))
        return (stream + self.down(hidden.relu())) @ self.turned


SPEC = lmc.PermutationSpec.from_axes(
    {
        "embed.weight": (None, "D"),
        "up.weight": ("H", "D"),
        "up.bias": ("H",),
        "norm.weight": ("H",),
        "norm.bias": ("H",),
        "down.weight": ("D", "H"),
        "down.bias": ("D",),
        "turned": ("D", None),
    }
)
WORDS = torch.arange(7)


@pytest.fixture
def models() -> tuple[Net, Net, lmc.Permutations]:
    """A base, the same model with its units in another order, and what brings the first onto the second."""
    base = Net(0)
    moved = lmc.Permutations.random(SPEC.bind(base), 3)
    return base, moved.apply(base), moved


def tuned_of(base: Net) -> Net:
    tuned = Net(1)
    state = {n: x + 0.1 * tuned.state_dict()[n] if x.is_floating_point() else x for n, x in base.state_dict().items()}
    tuned.load_state_dict(state)
    return tuned


def test_a_fine_tune_computes_on_the_other_model_what_it_did(models: tuple[Net, Net, lmc.Permutations]) -> None:
    base, new, _ = models
    tuned = tuned_of(base)
    match = lmc.weight_matching(new, base, SPEC)
    carried = lmc.rebase(tuned, base, new, match)
    assert not torch.allclose(new(WORDS), tuned(WORDS), atol=1e-2)
    assert torch.allclose(carried(WORDS), tuned(WORDS), atol=1e-5)
    assert torch.allclose(new(WORDS), base(WORDS), atol=1e-5)


def test_half_of_it_is_half_of_the_difference(models: tuple[Net, Net, lmc.Permutations]) -> None:
    base, new, moved = models
    tuned = tuned_of(base)
    carried = lmc.rebase(tuned.state_dict(), base, new.state_dict(), moved, alpha=0.5)
    for name, tensor in carried.items():
        if tensor.is_floating_point():
            delta = moved.apply(tuned).state_dict()[name] - moved.apply(base).state_dict()[name]
            assert torch.allclose(tensor, new.state_dict()[name] + 0.5 * delta, atol=1e-6), name


def test_the_result_has_the_new_models_dtypes(models: tuple[Net, Net, lmc.Permutations]) -> None:
    base, new, moved = models
    carried = lmc.rebase(tuned_of(base), base, new.bfloat16(), moved)
    assert {tensor.dtype for tensor in carried.parameters()} == {torch.bfloat16}


def adapter(rank: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    at = "base_model.model."
    return {
        f"{at}embed.lora_embedding_A": drawn(rank, 7),
        f"{at}embed.lora_embedding_B": drawn(6, rank),
        f"{at}up.lora_A.weight": drawn(rank, 6),
        f"{at}up.lora_B.weight": drawn(10, rank),
        f"{at}up.bias": drawn(10),
        f"{at}down.lora_A.default.weight": drawn(rank, 10),
        f"{at}down.lora_B.default.weight": drawn(6, rank),
        f"{at}norm.modules_to_save.default.weight": drawn(10),
        f"{at}norm.modules_to_save.default.bias": drawn(10),
    }


def with_adapter(model: Net, adapter: dict[str, Tensor], scale: float = 1.0) -> Net:
    """The model that PEFT makes of it."""
    made = Net(2)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    by = {name.removeprefix("base_model.model.").replace(".default", ""): x for name, x in adapter.items()}
    state["embed.weight"] += scale * (by["embed.lora_embedding_B"] @ by["embed.lora_embedding_A"]).T
    for layer in ("up", "down"):
        state[f"{layer}.weight"] += scale * by[f"{layer}.lora_B.weight"] @ by[f"{layer}.lora_A.weight"]
    state["up.bias"] = by["up.bias"]
    for kind in ("weight", "bias"):
        state[f"norm.{kind}"] = by[f"norm.modules_to_save.{kind}"]
    made.load_state_dict(state)
    return made


def test_an_adapter_computes_on_the_other_model_what_it_did(models: tuple[Net, Net, lmc.Permutations]) -> None:
    base, new, _ = models
    match = lmc.weight_matching(new, base, SPEC)
    carried = lmc.rebase(adapter(), base, new.state_dict(), match)
    assert {name: tensor.shape for name, tensor in carried.items()} == {n: x.shape for n, x in adapter().items()}
    wanted = with_adapter(base, adapter())(WORDS)
    assert torch.allclose(with_adapter(new, carried)(WORDS), wanted, atol=1e-5)
    assert not torch.allclose(with_adapter(new, adapter())(WORDS), wanted, atol=1e-1)


def test_half_of_an_adapter(models: tuple[Net, Net, lmc.Permutations]) -> None:
    base, new, moved = models
    carried = lmc.rebase(adapter(), base, new.state_dict(), moved, alpha=0.5)
    halved = with_adapter(new, carried).state_dict()
    wanted = moved.apply(with_adapter(base, adapter(), 0.5)).state_dict()
    for name in ("embed.weight", "up.weight", "down.weight"):
        assert torch.allclose(halved[name], wanted[name], atol=1e-6), name
    middle = 0.5 * (adapter()["base_model.model.up.bias"] + base.up.bias)
    assert torch.allclose(halved["up.bias"], moved.apply_to("up.bias", middle), atol=1e-6)


def test_weights_that_lie_the_other_way(models: tuple[Net, Net, lmc.Permutations]) -> None:
    spec = lmc.PermutationSpec.from_axes({"conv.weight": ("D", "H")})
    state = {"conv.weight": torch.randn(4, 5)}
    moved = lmc.Permutations.random(spec.bind(state), 1)
    factors = {"conv.lora_A.weight": torch.randn(2, 4), "conv.lora_B.weight": torch.randn(5, 2)}
    factors["conv.lora_magnitude_vector"] = torch.randn(5)
    carried = carried_adapter(factors, moved, state, state, fan_in_fan_out=True)

    def delta(of: dict[str, Tensor]) -> Tensor:
        return (of["conv.lora_B.weight"] @ of["conv.lora_A.weight"]).T

    assert torch.equal(delta(carried), moved.apply_to("conv.weight", delta(factors)))
    assert torch.equal(
        carried["conv.lora_magnitude_vector"], factors["conv.lora_magnitude_vector"][moved.index("conv.weight", 1)]
    )


def test_a_spec_of_the_model_without_its_head_is_met(models: tuple[Net, Net, lmc.Permutations]) -> None:
    base, new, moved = models
    renamed = {name.replace("model.up", "model.model.up"): tensor for name, tensor in adapter().items()}
    carried = lmc.rebase(renamed, base, new.state_dict(), moved)
    plain = lmc.rebase(adapter(), base, new.state_dict(), moved)
    name = "base_model.model.model.up.lora_B.weight"
    assert torch.equal(carried[name], plain["base_model.model.up.lora_B.weight"])


@pytest.mark.parametrize(
    ("entries", "options", "message"),
    [
        ({"other.lora_A.weight": torch.zeros(2, 6)}, {}, "belongs to 'other.weight', which is no parameter"),
        ({"up.lora_A.weight": torch.zeros(2, 5)}, {}, "must have 6 entries along dimension 1"),
        ({"up.lora_A.bias": torch.zeros(2), "up.lora_A.weight": torch.zeros(2, 6)}, {}, "is a bias of a low-rank"),
        ({"norm.lora_A.weight": torch.zeros(2, 10)}, {}, "whose axes are not those of a matrix"),
        (
            {"up.lora_A.weight": torch.zeros(2, 6), "down.bias": torch.zeros(5)},
            {},
            r"must be \(6,\), as .down.bias. is",
        ),
        (
            {"up.lora_A.weight": torch.zeros(2, 6), "up.lora_magnitude_vector": torch.zeros(10)},
            {"alpha": 0.5},
            "alpha must be 1 for an adapter with magnitudes",
        ),
        ({"up.lora_A.weight": torch.zeros(2, 6)}, {"alpha": float("nan")}, "alpha must be a finite number"),
    ],
    ids=["unknown", "shape", "bias of a factor", "no matrix", "whole", "magnitudes", "alpha"],
)
def test_what_cannot_be_carried_over_is_named(
    models: tuple[Net, Net, lmc.Permutations], entries: dict[str, Tensor], options: dict[str, Any], message: str
) -> None:
    base, new, moved = models
    with pytest.raises(ValueError, match=message):
        lmc.rebase(entries, base, new, moved, **options)


def test_a_match_is_needed(models: tuple[Net, Net, lmc.Permutations]) -> None:
    base, new, _ = models
    with pytest.raises(TypeError, match="match must be a Matching, Permutations or Transforms"):
        lmc.rebase(base, base, new, None)  # type: ignore[arg-type]

"""Whole tensors that PEFT puts into an adapter, by the names that it gives them."""

from __future__ import annotations

import pytest
import torch

import lmc_fast as lmc
from lmc_fast.merging.adapters import carried_adapter


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.embed.base_layer.weight",
        "base_model.model.embed.modules_to_save.weight",
        "base_model.model.embed.modules_to_save.default.weight",
        "base_model.model.embed.weight",
    ],
    ids=["beside what is added to it", "trained", "of one adapter", "as it is"],
)
def test_they_become_what_the_new_base_has_plus_what_was_trained(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    base, new, trained = (torch.randn(5, 4, generator=generator) for _ in range(3))
    spec = lmc.PermutationSpec.from_axes({"embed.weight": (None, "D")}).bind({"embed.weight": base})
    moved = lmc.Permutations.random(spec, 1)
    found = carried_adapter({name: trained}, moved, {"embed.weight": base}, {"embed.weight": new}, alpha=0.5)
    wanted = new + 0.5 * moved.apply_to("embed.weight", trained - base)
    assert list(found) == [name]
    assert torch.allclose(found[name], wanted, atol=1e-6)
    if name.endswith("base_layer.weight"):
        same = carried_adapter({name: base}, moved, {"embed.weight": base}, {"embed.weight": new})
        assert torch.allclose(same[name], new, atol=1e-6)

"""The demo's methods, each by its name."""

from __future__ import annotations

import pytest
import torch

import lmc_fast as lmc
from lmc_fast import architectures
from lmc_fast.experiments.datasets import Dataset
from lmc_fast.experiments.demo_methods import METHODS
from lmc_fast.experiments.models import MLP


def test_directions_and_fisher_weights() -> None:
    torch.manual_seed(0)
    data = Dataset("mine", torch.randn(20, 1, 2, 3), torch.arange(20) % 4, torch.randn(8, 1, 2, 3), torch.arange(8) % 4)
    a, b = (MLP(6, (9, 8), 4).eval() for _ in range(2))
    spec = architectures.mlp(a)
    found = {name: METHODS[name](a, b, data, spec, 0, False) for name in ("wm", "cosine", "fisher")}
    assert found["cosine"].permutations == lmc.weight_matching(a, b, spec, similarity="cosine").permutations
    weights = [lmc.fisher_weights(model, data.train_batches(256, 512)) for model in (a, b)]
    assert found["fisher"].permutations == lmc.weight_matching(a, b, spec, entry_weights=weights).permutations
    # Distances are told in one measure: the plain one, which plain matching makes least.
    assert found["fisher"].l2_before == pytest.approx(found["wm"].l2_before)
    assert found["wm"].l2_after <= min(match.l2_after for match in found.values()) + 1e-6

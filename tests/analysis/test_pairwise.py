"""Barriers between all pairs are those of each pair by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import architectures


@pytest.fixture
def three() -> tuple[list[nn.Module], lmc.ManyMatching, list[tuple[Tensor, Tensor]]]:
    model = models.randomise(models.small_mlp((19, 17)), 0)
    spec = architectures.mlp(model).bind(model)
    # One function under other orders of the units: a barrier for the plain mean, none for the matched one.
    found = [lmc.Permutations.random(spec, seed).apply(model) for seed in range(3)]
    inputs = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        batch = inputs, model(inputs).argmax(1)
    return found, lmc.match_many(found, spec), [batch]


@pytest.mark.parametrize("at", ["midpoint", "worst"])
def test_the_matrix_holds_what_each_pair_has(
    three: tuple[list[nn.Module], lmc.ManyMatching, list[tuple[Tensor, Tensor]]], at: str
) -> None:
    trained, many, batches = three
    found = lmc.pairwise_barriers(trained, many, batches, at=at, lambdas=5)
    moved = many.apply(trained)
    for i in range(3):
        assert found[i, i] == 0
        for j in range(i):
            curve = lmc.loss_barrier(moved[i], moved[j], batches, lambdas=5)
            wanted = curve.midpoint_barrier if at == "midpoint" else curve.barrier
            assert found[i, j] == found[j, i] == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    plain = lmc.pairwise_barriers(trained, None, batches, at=at, lambdas=5)
    pairs = ~np.eye(3, dtype=bool)
    assert (plain[pairs] > 0.01).all() and (abs(found) < 1e-4).all()


def test_errors_name_the_argument(
    three: tuple[list[nn.Module], lmc.ManyMatching, list[tuple[Tensor, Tensor]]],
) -> None:
    trained, many, batches = three
    with pytest.raises(ValueError, match="models must be the 3 that were matched, got 2"):
        lmc.pairwise_barriers(trained[:2], many, batches)
    with pytest.raises(ValueError, match="at must be 'midpoint' or 'worst', got 'end'"):
        lmc.pairwise_barriers(trained, many, batches, at="end")
    with pytest.raises(TypeError, match=r"many must be a ManyMatching or None"):
        lmc.pairwise_barriers(trained, many.permutations, batches)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"models\[0\] must be a torch\.nn\.Module"):
        lmc.pairwise_barriers([m.state_dict() for m in trained], many, batches)  # type: ignore[misc]

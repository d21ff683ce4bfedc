"""The plane through three models, against models built by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import architectures

from .test_barrier import Parabola


def three() -> list[torch.nn.Module]:
    return [models.randomise(models.small_mlp(), seed) for seed in (1, 2, 3)]


def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.randn(n, 4), torch.randint(3, (n,))) for n in (12, 5)]


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().double().reshape(-1) for p in model.parameters()])


def test_every_point_is_the_model_there() -> None:
    """Coordinates are distances from the models, which settles a point of the plane; losses are those there."""
    trio, batches = three(), data()
    spec = architectures.mlp(trio[0])
    matches = [None, lmc.Permutations.random(spec, 1), lmc.weight_matching(trio[0], trio[2], spec)]
    found = lmc.loss_landscape(trio, batches, matches, points=5, margin=0.3)
    laid = [m if match is None else match.apply(m) for m, match in zip(trio, matches, strict=True)]
    w = [weights(m) for m in laid]
    positions = torch.from_numpy(found.positions)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert float((positions[i] - positions[j]).norm()) == pytest.approx(float((w[i] - w[j]).norm()), rel=1e-6)
    assert found.positions[0].tolist() == [0.0, 0.0] and found.positions[1, 1] == 0 and found.positions[2, 1] > 0
    across = (w[1] - w[0]) / (w[1] - w[0]).norm()
    up = (w[2] - w[0]) - ((w[2] - w[0]) @ across) * across
    up = up / up.norm()
    probe = models.small_mlp()
    for r, c in ((0, 0), (2, 3), (4, 1)):
        point = w[0] + found.x[c] * across + found.y[r] * up
        torch.nn.utils.vector_to_parameters(point.float(), probe.parameters())
        loss, accuracy = lmc.evaluate(probe, batches)
        assert found.loss[r, c] == pytest.approx(loss, rel=1e-4)
        assert found.accuracy is not None and found.accuracy[r, c] == pytest.approx(accuracy)
    extent = found.positions[:, 0].max() - found.positions[:, 0].min()
    assert found.x[0] == pytest.approx(found.positions[:, 0].min() - 0.3 * extent)
    assert "5 x 5 points" in str(found)


def test_the_models_losses_are_met_at_their_positions() -> None:
    trio, batches = three(), data()
    found = lmc.loss_landscape(trio, batches, points=2, margin=0.0)
    ends = [lmc.evaluate(m, batches)[0] for m in trio]
    # With no margin the grid's first corner is the first model, if the third lies between the others.
    assert 0 < found.positions[2, 0] < found.positions[1, 0]
    assert found.loss[0, 0] == pytest.approx(ends[0], rel=1e-5)
    assert found.loss[0, 1] == pytest.approx(ends[1], rel=1e-5)


def test_statistics_are_kept_apart_from_distances_and_above_zero() -> None:
    trio = [models.randomise(models.small_resnet(), seed) for seed in (1, 2, 3)]
    batches = [(torch.randn(8, 1, 8, 8), torch.randint(3, (8,)))]
    found = lmc.loss_landscape(trio, batches, points=2, margin=1.5)
    assert np.isfinite(found.loss).all()
    again = lmc.loss_landscape(trio, batches, points=2, margin=1.5, batchnorm_batches=batches)
    assert np.isfinite(again.loss).all() and not np.allclose(again.loss, found.loss)
    expected = float((weights(trio[0]) - weights(trio[1])).norm())
    assert found.positions[1, 0] == pytest.approx(expected, rel=1e-6)


def test_bad_input_is_named() -> None:
    trio, batches = three(), data()
    with pytest.raises(ValueError, match="models must be a sequence of three models"):
        lmc.loss_landscape(trio[:2], batches)
    with pytest.raises(TypeError, match=r"models\[0\] must be a torch"):
        lmc.loss_landscape([trio[0].state_dict(), *trio[1:]], batches)
    with pytest.raises(ValueError, match="matches must have one entry for each of the 3 models, got 1"):
        lmc.loss_landscape(trio, batches, [None])
    with pytest.raises(ValueError, match="models must not lie on one line"):
        lmc.loss_landscape([Parabola(1.0), Parabola(2.0), Parabola(3.0)], batches)
    with pytest.raises(ValueError, match="points must be a whole number of at least 2, got 1"):
        lmc.loss_landscape(trio, batches, points=1)
    with pytest.raises(ValueError, match=r"models\[2\] must have the shapes of models\[0\]"):
        lmc.loss_landscape([*trio[:2], models.small_mlp((9, 8))], batches)
    with pytest.raises(TypeError, match="loss_fn must be a function"):
        lmc.loss_landscape(trio, batches, loss_fn=3)  # type: ignore[arg-type]

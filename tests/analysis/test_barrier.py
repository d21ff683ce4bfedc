"""Barrier curves against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import architectures


class Parabola(nn.Module):
    """Its output is its weight; with a squared loss the curve is known."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([value]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w.expand(len(x), 1)


def mean_fourth(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return ((outputs - targets) ** 2 - 1).square().mean()


BATCHES = [(torch.zeros(3, 1), torch.zeros(3, 1)), (torch.zeros(1, 1), torch.zeros(1, 1))]


def test_a_double_well_has_the_barrier_between_its_wells() -> None:
    """(w^2 - 1)^2 from w = -1 to w = 1: zero at both ends, one in the middle."""
    curve = lmc.loss_barrier(Parabola(-1.0), Parabola(1.0), BATCHES, lambdas=5, loss_fn=mean_fourth)
    assert curve.lambdas.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    np.testing.assert_allclose(curve.loss, [0, 0.5625, 1, 0.5625, 0], atol=1e-6)
    assert curve.barrier == pytest.approx(1.0) and curve.midpoint_barrier == pytest.approx(1.0)
    assert curve.midpoint_loss == pytest.approx(1.0)
    assert curve.accuracy is None and curve.accuracy_barrier is None and curve.midpoint_accuracy is None


def test_the_barrier_is_above_the_line_between_the_ends() -> None:
    """From w = -1 (loss 0) to w = 2 (loss 9): the middle is at w = 0.5, loss 0.5625, line 4.5."""
    curve = lmc.loss_barrier(Parabola(-1.0), Parabola(2.0), BATCHES, lambdas=[0.5], loss_fn=mean_fourth)
    assert curve.lambdas.tolist() == [0.0, 0.5, 1.0]
    assert curve.midpoint_barrier == pytest.approx(0.5625 - 4.5)
    assert curve.barrier == 0.0


def test_batches_count_by_their_size() -> None:
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    x = torch.tensor([[1.0], [1.0], [-1.0], [1.0]])
    y = torch.tensor([0, 0, 0, 1])
    loss, accuracy = lmc.evaluate(model, [(x[:3], y[:3]), (x[3:], y[3:])])
    assert loss == pytest.approx(nn.functional.cross_entropy(model(x), y).item())
    assert accuracy == 0.5


def test_the_accuracy_barrier_is_the_fall_below_the_line() -> None:
    curve = lmc.BarrierCurve(
        lambdas=np.array([0.0, 0.5, 1.0]), loss=np.zeros(3), accuracy=np.array([0.9, 0.2, 0.7]), batchnorm=None
    )
    assert curve.accuracy_barrier == pytest.approx(0.6) and curve.midpoint_accuracy == 0.2


def test_one_output_is_no_classification() -> None:
    model = nn.Linear(1, 1)
    loss_fn = lambda out, y: (out[:, 0] - y).square().mean()  # noqa: E731
    assert lmc.evaluate(model, [(torch.ones(3, 1), torch.ones(3, dtype=torch.long))], loss_fn=loss_fn)[1] is None


def test_no_gradients_are_recorded() -> None:
    recorded = []

    def loss_fn(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        recorded.append(outputs.requires_grad)
        return nn.functional.cross_entropy(outputs, targets)

    lmc.evaluate(nn.Linear(1, 2), [(torch.ones(3, 1), torch.zeros(3, dtype=torch.long))], loss_fn=loss_fn)
    assert recorded == [False]


@pytest.mark.parametrize("count", [2, 3, 25, 99, 197])
def test_so_many_points(count: int) -> None:
    curve = lmc.loss_barrier(Parabola(-1.0), Parabola(1.0), BATCHES, lambdas=count, loss_fn=mean_fourth)
    assert len(curve.lambdas) == count + (count % 2 == 0)
    again = lmc.loss_barrier(Parabola(-1.0), Parabola(1.0), BATCHES, lambdas=curve.lambdas, loss_fn=mean_fourth)  # type: ignore[arg-type]
    assert np.array_equal(again.loss, curve.loss)


def test_permutations_make_no_barrier_of_their_own() -> None:
    model = models.randomise(models.small_resnet(), seed=1)
    spec = architectures.resnet(model)
    truth = lmc.Permutations.random(spec, 4)
    other = truth.inverse().apply(model)
    batches = [(torch.randn(16, 1, 8, 8), torch.randint(3, (16,)))]
    before = lmc.loss_barrier(model, other, batches, lambdas=5)
    after = lmc.loss_barrier(model, other, batches, truth, lambdas=5)
    assert before.barrier > 0.1
    assert after.barrier == pytest.approx(0.0, abs=1e-5)
    assert after.accuracy is not None and after.accuracy_barrier == pytest.approx(0.0)
    assert "barrier" in str(after) and "accuracy" in str(after)


def test_statistics_are_estimated_anew_at_every_point() -> None:
    a, b = (models.randomise(models.small_resnet(), seed=s) for s in (1, 2))
    data = torch.randn(32, 1, 8, 8)
    batches = [(data, torch.randint(3, (32,)))]
    curve = lmc.loss_barrier(a, b, batches, lambdas=3, batchnorm_batches=[data])
    by_hand = lmc.reestimate_batchnorm(lmc.interpolate(a, b, 0.5), [data])
    assert curve.midpoint_loss == pytest.approx(lmc.evaluate(by_hand, batches)[0], rel=1e-5)
    assert curve.batchnorm == "re-estimated" and "statistics re-estimated" in str(curve)
    without = lmc.loss_barrier(Parabola(-1.0), Parabola(1.0), BATCHES, loss_fn=mean_fourth, batchnorm_batches=[data])
    assert without.batchnorm is None
    assert curve.midpoint_loss != pytest.approx(lmc.loss_barrier(a, b, batches, lambdas=3).midpoint_loss, rel=1e-3)


def test_the_callers_models_stay() -> None:
    model = models.randomise(models.small_resnet(), seed=1).train()
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    data = torch.randn(8, 1, 8, 8)
    batches = [(data, torch.randint(3, (8,)))]
    lmc.loss_barrier(model, model.state_dict(), batches, lambdas=3, batchnorm_batches=[data])
    lmc.evaluate(model, batches)
    assert all(part.training for part in model.modules())
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())


def test_bad_input_is_named() -> None:
    model = models.small_mlp()
    batches = [(torch.randn(2, 4), torch.tensor([0, 1]))]
    with pytest.raises(TypeError, match="batches must be batches that can be gone through again"):
        lmc.loss_barrier(model, model, iter(batches))
    with pytest.raises(TypeError, match="model_a must be a torch"):
        lmc.loss_barrier(model.state_dict(), model, batches)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batches must hold one example at least"):
        lmc.loss_barrier(model, model, [])
    with pytest.raises(ValueError, match=r"lambdas must lie in 0\.\.1, got 1\.5"):
        lmc.loss_barrier(model, model, batches, lambdas=[1.5])
    with pytest.raises(ValueError, match="lambdas must be a whole number of at least 2, got 1"):
        lmc.loss_barrier(model, model, batches, lambdas=1)
    with pytest.raises(TypeError, match=r"batches must be \(inputs, targets\) pairs"):
        lmc.evaluate(model, [torch.randn(2, 4)])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="loss_fn must be a function"):
        lmc.evaluate(model, batches, loss_fn=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="loss_fn must be a function"):
        lmc.loss_barrier(model, model, batches, loss_fn=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"loss_fn must return one number, the mean loss, got shape \(2,\)"):
        lmc.evaluate(model, batches, loss_fn=lambda out, y: nn.functional.cross_entropy(out, y, reduction="none"))
    with pytest.raises(TypeError, match=r"batches must be .* got 3"):
        lmc.evaluate(model, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="batchnorm_batches must be batches"):
        lmc.loss_barrier(model, model, batches, batchnorm_batches=iter([]))

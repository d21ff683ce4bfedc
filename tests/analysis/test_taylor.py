"""The second-order estimate: exact for quadratics, its derivatives those of a dense Hessian."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import architectures
from lmc_fast.analysis.taylor import hessian_vector_product


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean()


def test_on_a_quadratic_loss_it_is_the_barrier() -> None:
    """A linear model with a squared loss, ends that are no minima, batches of unequal size."""
    a, b = (nn.Linear(5, 3).double() for _ in range(2))
    x, y = torch.randn(30, 5).double(), torch.randn(30, 3).double()
    batches = [(x[:7], y[:7]), (x[7:], y[7:])]
    estimate = lmc.taylor_barrier(a, b, batches, loss_fn=squared, lambdas=9)
    curve = lmc.loss_barrier(a, b, batches, loss_fn=squared, lambdas=9)
    np.testing.assert_array_equal(estimate.lambdas, curve.lambdas)
    np.testing.assert_allclose(estimate.excess, curve.excess, rtol=0, atol=1e-8)
    assert float(np.abs(curve.excess).max()) > 0.1
    assert estimate.barrier == pytest.approx(curve.barrier, abs=1e-8)
    assert estimate.midpoint_barrier == pytest.approx(curve.midpoint_barrier, abs=1e-8)
    assert estimate.a.loss == pytest.approx(curve.loss[0]) and estimate.b.loss == pytest.approx(curve.loss[-1])
    assert "barrier" in str(estimate) and "curvature" in str(estimate)


def flat_loss(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, object]:
    """All parameters end to end, and the loss as a function of them."""
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    def loss(point: Tensor) -> Tensor:
        parts = torch.split(point, [shape.numel() for shape in shapes])
        tensors = {name: part.reshape(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return nn.functional.cross_entropy(functional_call(model, tensors, (x,)), y)

    return flat, loss


@pytest.mark.parametrize("kind", ["mlp", "convolution"])
def test_products_are_those_of_a_dense_hessian(kind: str) -> None:
    if kind == "mlp":
        model, x = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double(), torch.randn(9, 4).double()
    else:
        layers = [nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)]
        model, x = models.randomise(nn.Sequential(*layers).double(), 1), torch.randn(5, 1, 4, 4).double()
    y = torch.randint(3, (len(x),))
    flat, loss = flat_loss(model, x, y)
    hessian = torch.autograd.functional.hessian(loss, flat)
    direction = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    v = torch.cat([part.reshape(-1) for part in direction.values()])
    value, gradient, product = hessian_vector_product(model, dict(model.state_dict()), direction, x, y)
    assert float(value) == pytest.approx(float(loss(flat)))
    torch.testing.assert_close(torch.cat([part.reshape(-1) for part in product.values()]), hessian @ v)
    expected = torch.autograd.functional.jacobian(loss, flat)
    torch.testing.assert_close(torch.cat([part.reshape(-1) for part in gradient.values()]), expected)
    assert float((hessian @ v).norm()) > 0.1 and not value.requires_grad


def test_its_parts_are_the_derivatives_along_the_line() -> None:
    """Central differences of the loss along theta_a + t mu, model b permuted."""
    a, b = (models.randomise(models.small_mlp().double(), seed) for seed in (1, 2))
    for model in (a, b):
        model[2], model[4] = nn.Tanh(), nn.Tanh()
    permutations = lmc.Permutations.random(architectures.mlp(a), 3)
    batches = [(torch.randn(20, 4).double(), torch.randint(3, (20,)))]
    found = lmc.taylor_barrier(a, b, batches, permutations)
    moved, h = permutations.apply(b), 1e-4
    for end, at in ((found.a, 0.0), (found.b, 1.0)):
        low, middle, high = (lmc.evaluate(lmc.interpolate(a, moved, at + d), batches)[0] for d in (-h, 0.0, h))
        assert end.loss == pytest.approx(middle)
        assert end.slope == pytest.approx((high - low) / (2 * h), rel=1e-5)
        assert end.curvature == pytest.approx((high - 2 * middle + low) / h**2, rel=1e-4)
    assert found.a.slope != pytest.approx(lmc.taylor_barrier(a, b, batches).a.slope, rel=1e-2)


def test_batchnorm_keeps_each_ends_statistics_and_models_stay() -> None:
    a, b = (models.randomise(models.small_resnet().double(), seed).train() for seed in (1, 2))
    kept = {name: tensor.clone() for name, tensor in a.state_dict().items()}
    data = [(torch.randn(6, 1, 8, 8).double(), torch.randint(3, (6,)))]
    found = lmc.taylor_barrier(a, b, data, architectures_free(a))
    assert found.a.loss == pytest.approx(lmc.evaluate(a, data)[0])
    assert found.b.loss == pytest.approx(lmc.evaluate(b, data)[0])
    assert all(part.training for part in a.modules())
    assert all(torch.equal(tensor, kept[name]) for name, tensor in a.state_dict().items())
    assert all(p.grad is None for p in a.parameters())


def architectures_free(model: nn.Module) -> lmc.Permutations:
    """Permutations that move nothing."""
    return lmc.Permutations.identity(architectures.resnet(model))


def test_tied_weights_move_together() -> None:
    """y = w2 (w1 x) with both tied: the loss is w^4, its derivatives known."""

    class Twice(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(1, 1, bias=False).double(), nn.Linear(1, 1, bias=False).double()
            self.two.weight = self.one.weight
            nn.init.constant_(self.one.weight, value)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x))

    batches = [(torch.ones(4, 1).double(), torch.zeros(4, 1).double())]
    found = lmc.taylor_barrier(Twice(1.0), Twice(2.0), batches, loss_fn=squared, lambdas=[0.25])
    assert (found.a.loss, found.a.slope, found.a.curvature) == pytest.approx((1.0, 4.0, 12.0))
    assert (found.b.loss, found.b.slope, found.b.curvature) == pytest.approx((16.0, 32.0, 48.0))
    # At 1/4: the expansion around w = 1 weighs 3/4, that around w = 2 weighs 1/4, less the line from 1 to 16.
    by_a, by_b = 1 + 4 * 0.25 + 12 * 0.25**2 / 2, 16 - 32 * 0.75 + 48 * 0.75**2 / 2
    assert found.excess[1] == pytest.approx(0.75 * by_a + 0.25 * by_b - (1 + 15 * 0.25))
    curve = lmc.loss_barrier(Twice(1.0), Twice(2.0), batches, loss_fn=squared, lambdas=3)
    assert curve.midpoint_loss == pytest.approx(1.5**4)


def test_attention_has_second_derivatives() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).double()
    outer = nn.Sequential(model, nn.Flatten(), nn.Linear(24, 3).double())
    other = models.randomise(nn.Sequential(model, nn.Flatten(), nn.Linear(24, 3).double()), 1).state_dict()
    batches = [(torch.randn(4, 3, 8).double(), torch.randint(3, (4,)))]
    assert np.isfinite(lmc.taylor_barrier(outer, other, batches).excess).all()


def test_bad_input_is_named() -> None:
    model = models.small_mlp()
    batches = [(torch.randn(2, 4), torch.tensor([0, 1]))]
    with pytest.raises(TypeError, match="model_a must be a torch"):
        lmc.taylor_barrier(model.state_dict(), model, batches)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="batches must be batches that can be gone through again"):
        lmc.taylor_barrier(model, model, iter(batches))
    with pytest.raises(ValueError, match="batches must hold one example at least"):
        lmc.taylor_barrier(model, model, [])
    with pytest.raises(TypeError, match="loss_fn must be a function"):
        lmc.taylor_barrier(model, model, batches, loss_fn=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"loss_fn must return one number, the mean loss, got shape \(2,\)"):
        lmc.taylor_barrier(
            model, model, batches, loss_fn=lambda out, y: nn.functional.cross_entropy(out, y, reduction="none")
        )
    with pytest.raises(ValueError, match="model_b must have the shapes of model_a"):
        lmc.taylor_barrier(model, models.small_mlp((9, 8)), batches)

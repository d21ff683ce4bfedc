"""The best temperature of a classifier, against the plain formula."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

import lmc_fast as lmc

ENTROPY = functional.cross_entropy


class Given(nn.Module):
    """Gives its inputs as logits."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def drawn(rows: int = 200, classes: int = 4, scale: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits whose softmax the targets are drawn from, times a scale: the best temperature is near that scale."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    targets = torch.multinomial(torch.softmax(logits, dim=1), 1, generator=generator)[:, 0]
    return scale * logits, targets


def best_on_a_grid(logits: Tensor, targets: Tensor) -> tuple[float, float]:
    """(temperature, loss), by trying many."""
    grid = np.geomspace(0.01, 100.0, 4001)
    losses = [float(ENTROPY(logits / t, targets)) for t in grid]
    return float(grid[int(np.argmin(losses))]), min(losses)


@pytest.mark.parametrize("scale", [0.05, 0.4, 1.0, 30.0])
def test_it_is_the_best_of_all(scale: float) -> None:
    logits, targets = drawn(scale=scale)
    batches = list(zip(logits.split(70), targets.split(70), strict=True))
    fit = lmc.calibrate_temperature(Given(), batches)
    temperature, loss = best_on_a_grid(logits, targets)
    assert fit.temperature == pytest.approx(temperature, rel=5e-3) and loss - 1e-5 < fit.loss <= loss
    assert fit.loss_before == pytest.approx(float(ENTROPY(logits, targets)))
    assert fit.accuracy == pytest.approx(float((logits.argmax(1) == targets).double().mean())) and fit.targets == 200
    # No slope is left there.
    t = torch.tensor(fit.temperature, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(ENTROPY(logits / t, targets), t)
    assert abs(float(slope)) * fit.temperature < 1e-9
    assert f"temperature {fit.temperature:.4g}" in str(fit)


@pytest.mark.parametrize(
    ("logits", "targets", "temperature"),
    [
        ([[2.0, 1.0], [0.0, 3.0]], [0, 1], 0.01),
        ([[2.0, 1.0], [0.0, 3.0]], [1, 0], 100.0),
        ([[1.0, 1.0], [1.0, 1.0]], [1, 0], 100.0),
        ([[1e5, 0.0], [0.0, 1e5], [1e5, 0.0]], [0, 1, 1], 100.0),
    ],
    ids=["all-right", "all-wrong", "says-nothing", "sure-of-it"],
)
def test_it_ends_where_the_loss_falls_all_the_way(logits: Any, targets: Any, temperature: float) -> None:
    fit = lmc.calibrate_temperature(Given(), [(torch.tensor(logits), torch.tensor(targets))])
    assert fit.temperature == pytest.approx(temperature) and math.isfinite(fit.loss)


SHAPES: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "tokens": lambda x, y: (x.reshape(20, 10, 4), y.reshape(20, 10)),
    "maps": lambda x, y: (x.reshape(20, 10, 4).movedim(2, 1), y.reshape(20, 10)),
    "bytes": lambda x, y: (x, y.to(torch.uint8)),
}


@pytest.mark.parametrize("shaped", SHAPES.values(), ids=SHAPES.keys())
def test_logits_of_any_shape(shaped: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
    plain = lmc.calibrate_temperature(Given(), [drawn(scale=0.4)])
    assert lmc.calibrate_temperature(Given(), [shaped(*drawn(scale=0.4))]).temperature == plain.temperature


def test_targets_that_do_not_count() -> None:
    logits, targets = drawn(scale=0.4)
    padded = torch.cat([targets, torch.full((50,), -100)]), torch.cat([logits, torch.randn(50, 4).double()])
    found = lmc.calibrate_temperature(Given(), [(padded[1], padded[0])])
    assert found.temperature == lmc.calibrate_temperature(Given(), [(logits, targets)]).temperature


@dataclass
class Outputs:
    logits: Tensor
    hidden: Tensor
    loss: Tensor | None = None


class Attributed(Given):
    def forward(self, x: Tensor) -> Any:
        return Outputs(x, x, x.sum())


class Plain(Given):
    def forward(self, x: Tensor) -> Any:
        return SimpleNamespace(logits=x, hidden=x)


class Named(Given):
    def forward(self, x: Tensor) -> Any:
        return {"logits": x, "hidden": x, "loss": x.sum()}


@pytest.mark.parametrize(
    "model", [Given(), Attributed(), Plain(), Named()], ids=["tensor", "dataclass", "attribute", "mapping"]
)
def test_what_is_applied_divides_logits_alone(model: nn.Module) -> None:
    x, y = drawn(scale=0.4)
    fit = lmc.calibrate_temperature(model, [(x, y)])
    tempered = fit.apply(model)
    assert isinstance(tempered, lmc.Tempered) and tempered.module is not model
    outputs = tempered(x)
    logits = (
        outputs if isinstance(outputs, Tensor) else outputs["logits"] if isinstance(outputs, dict) else outputs.logits
    )
    torch.testing.assert_close(logits, x / fit.temperature)
    if not isinstance(outputs, Tensor):
        assert (outputs["hidden"] if isinstance(outputs, dict) else outputs.hidden) is x
    # Batches are read as for the model inside.
    for batch in ((x, y), {"x": x, "labels": y}):
        assert lmc.evaluate(tempered, [batch])[0] == pytest.approx(fit.loss)
    assert "temperature=" in repr(tempered)


def test_a_layer_takes_it_and_the_class_stays() -> None:
    x, _ = drawn()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4)).double()
    y = torch.multinomial(torch.softmax(2 * model(x).detach(), dim=1), 1)[:, 0]
    fit = lmc.calibrate_temperature(model, [(x, y)])
    folded = fit.apply(model, layer="2")
    assert type(folded) is nn.Sequential
    torch.testing.assert_close(folded(x), model(x) / fit.temperature)
    assert lmc.calibrate_temperature(folded, [(x, y)]).temperature == pytest.approx(1.0, rel=1e-6)


def shared() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    return model


def test_a_curve_is_calibrated_at_every_point() -> None:
    torch.manual_seed(0)
    a, b = (nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)).double() for _ in range(2))
    x, y = drawn()
    seen, test = [(x[:120], y[:120])], [(x[120:], y[120:])]
    plain = lmc.loss_barrier(a, b, test, lambdas=3, batchnorm_batches=seen)
    curve = lmc.loss_barrier(a, b, test, lambdas=3, batchnorm_batches=seen, temperature_batches=seen)
    assert plain.temperatures is None and curve.temperatures is not None
    assert np.array_equal(curve.accuracy, plain.accuracy)  # type: ignore[arg-type]
    for k, lam in enumerate((0.0, 0.5, 1.0)):
        model = lmc.reestimate_batchnorm(lmc.interpolate(a, b, lam), seen)
        fit = lmc.calibrate_temperature(model, seen)
        assert curve.temperatures[k] == pytest.approx(fit.temperature)
        assert curve.loss[k] == pytest.approx(lmc.evaluate(fit.apply(model), test)[0])


FIT = lmc.TemperatureFit(0.5, 1.0, 0.5, 1.0, 1)
REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no-layer": (
        lambda: FIT.apply(shared(), layer="7"),
        ValueError,
        "layer must name a layer with a weight .* got '7'",
    ),
    "no-weight": (lambda: FIT.apply(nn.Sequential(nn.ReLU()), layer="0"), ValueError, "layer must name a layer"),
    "shared": (lambda: FIT.apply(shared(), layer="1"), ValueError, "that of '1' is another layer's too"),
    "computed": (
        lambda: FIT.apply(nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4))), layer="0"),
        ValueError,
        "layer must name a layer with a weight of its own",
    ),
    "temperature": (lambda: lmc.Tempered(Given(), 0.0), ValueError, "temperature must be above 0, got 0.0"),
    "no-logits": (lambda: lmc.Tempered(nn.LSTM(2, 2), 2.0)(torch.ones(1, 2)), TypeError, "module must give logits, or"),
    "no-targets": (lambda: lmc.calibrate_temperature(Given(), []), ValueError, "batches must hold one target at least"),
    "no-classes": (
        lambda: lmc.calibrate_temperature(Given(), [(torch.ones(3, 2), torch.ones(3))]),
        ValueError,
        r"batches\[0\] must give logits with one row of classes for each integer target",
    ),
    "infinite": (
        lambda: lmc.calibrate_temperature(Given(), [(torch.full((1, 2), torch.inf), torch.tensor([0]))]),
        ValueError,
        "logits must be finite",
    ),
    "class": (
        lambda: lmc.calibrate_temperature(Given(), [(torch.ones(1, 2), torch.tensor([2]))]),
        ValueError,
        "targets must be classes from 0 to 1",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_fit_is_named(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()

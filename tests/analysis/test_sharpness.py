"""The Hessian's trace by random probes, against the Hessian itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.utils import parametrizations

import lmc_fast as lmc


def whole_hessian(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Every second derivative of the mean loss: float64 [parameters, parameters]."""
    shapes = {name: p.shape for name, p in model.named_parameters()}
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    def loss(point: Tensor) -> Tensor:
        parts = dict(zip(shapes, point.split([shape.numel() for shape in shapes.values()]), strict=True))
        given = {name: parts[name].reshape(shape) for name, shape in shapes.items()}
        return functional.cross_entropy(functional_call(model, given, (inputs,)), targets)

    return torch.autograd.functional.hessian(loss, flat)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def problem() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3)).double().train()
    return model, torch.randn(20, 4).double(), torch.arange(20) % 3


def test_it_is_the_trace_within_its_error(problem: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = problem
    hessian = whole_hessian(model.eval(), x, y)
    model.train()
    # Of batches of any sizes: they count by their examples.
    found = lmc.hessian_trace(model, list(zip(x.split(7), y.split(7), strict=True)), probes=40)
    trace = float(hessian.diagonal().sum())
    assert abs(found.trace - trace) < 4 * found.standard_error
    # The error is as large as the entries beside the diagonal make it.
    beside = hessian - torch.diag(hessian.diagonal())
    assert found.standard_error == pytest.approx((2 * float(beside.square().sum()) / 40) ** 0.5, rel=0.5)
    assert found.parameters == 43 and found.per_parameter == found.trace / 43 and model.training
    assert found.loss == pytest.approx(lmc.evaluate(model, [(x, y)])[0])
    assert "standard error of 40 probes" in str(found) and found.to_dict()["probes"] == 40


def test_a_diagonal_hessian_has_no_error() -> None:
    model = nn.Linear(3, 1, bias=False)
    found = lmc.hessian_trace(
        model,
        [(torch.eye(3)[k : k + 1], torch.zeros(1)) for k in range(3)],
        probes=3,
        loss_fn=lambda out, _: out.square().sum(),
    )
    assert found.trace == pytest.approx(2.0) and found.standard_error == pytest.approx(0.0, abs=1e-6)


def test_seeds_decide_and_the_global_generator_is_left(problem: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = problem
    before = torch.get_rng_state()
    one, again, other = (lmc.hessian_trace(model, [(x, y)], probes=2, seed=seed) for seed in (0, 0, 1))
    assert one.trace == again.trace != other.trace
    assert torch.equal(torch.get_rng_state(), before)


def test_computed_weights_are_those_that_the_function_sees(problem: tuple[nn.Module, Tensor, Tensor]) -> None:
    _, x, y = problem
    torch.manual_seed(1)
    plain = nn.Linear(4, 3).double()
    normed = parametrizations.weight_norm(nn.Linear(4, 3).double())
    with torch.no_grad():
        normed.bias.copy_(plain.bias)
        normed.weight = plain.weight.detach()
    traces = [lmc.hessian_trace(model, [(x, y)], probes=4) for model in (plain, normed)]
    assert traces[0].parameters == traces[1].parameters == 15
    assert traces[0].trace == pytest.approx(traces[1].trace)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"probes": 1}, "probes must be"), ({"batches": []}, "batches must hold one example at least")],
    ids=["one-probe", "no-batch"],
)
def test_what_does_not_fit_is_named(options: dict[str, Any], message: str) -> None:
    given = {"batches": [(torch.ones(1, 3), torch.tensor([0]))], **options}
    with pytest.raises(ValueError, match=message):
        lmc.hessian_trace(nn.Linear(3, 2), **given)

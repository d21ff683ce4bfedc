"""Elements that learn: they begin where they are told, stay elements, and have the gradient that differences show."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmc_fast.symmetry.kinds import KINDS

CONTINUOUS = ("orthogonal", "orthogonal_keeping_ones", "phases")
CPU = torch.device("cpu")


def set_to(parameters: tuple[torch.Tensor, ...], seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("name", [name for name in KINDS if name not in CONTINUOUS])
def test_what_only_changes_places_has_no_gradient(name: str) -> None:
    assert KINDS[name].learned(KINDS[name].identity((2, 5)), CPU) is None


@pytest.mark.parametrize("shape", [(1,), (2,), (3, 7)])
@pytest.mark.parametrize("name", CONTINUOUS)
def test_learning_begins_at_the_element_and_stays_among_its_kind(name: str, shape: tuple[int, ...]) -> None:
    kind = KINDS[name]
    element = kind.random(shape, np.random.default_rng(3))
    learned = kind.learned(element, CPU)
    assert learned is not None
    assert torch.allclose(learned.element(), element, atol=1e-12)
    set_to(learned.parameters, 1, 2.0)
    moved = learned.element()
    assert moved.dtype == torch.float64 and not moved.requires_grad
    assert torch.allclose(kind.checked("element", moved, shape), moved)
    assert torch.allclose(learned.make(torch.float32).double(), moved, atol=1e-4)
    # In one dimension nothing turns.
    dimensions = shape[-1] * kind.entries - (name == "orthogonal_keeping_ones")
    assert torch.allclose(moved, element, atol=0.1) == (dimensions < 2)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_gradients_are_those_of_differences(name: str) -> None:
    kind = KINDS[name]
    learned = kind.learned(kind.random((2, 5), np.random.default_rng(0)), CPU)
    assert learned is not None
    set_to(learned.parameters, 2, 0.7)
    generator = torch.Generator().manual_seed(4)
    weights = torch.randn(learned.element().shape, generator=generator, dtype=torch.float64)
    x = torch.randn(2, 5, kind.entries, 3, generator=generator, dtype=torch.float64)
    target = torch.randn(x.shape, generator=generator, dtype=torch.float64)

    def loss() -> torch.Tensor:
        element = learned.make(torch.float64)
        return (weights * element).sum() + (kind.act(element, x) - target).square().sum()

    grads = torch.autograd.grad(loss(), list(learned.parameters))
    for parameter, grad in zip(learned.parameters, grads, strict=True):
        direction = torch.randn(parameter.shape, generator=generator)
        here, step = parameter.detach().clone(), 2.0**-8
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.copy_(here + sign * step * direction)
            ends.append(loss().item())
        with torch.no_grad():
            parameter.copy_(here)
        slope = (ends[0] - ends[1]) / (2 * step)
        assert slope == pytest.approx(float((grad * direction).sum()), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("name", ["orthogonal", "orthogonal_keeping_ones"])
def test_steps_down_a_gradient_find_the_best_element(name: str) -> None:
    kind = KINDS[name]
    target = kind.random((6,), np.random.default_rng(5))
    learned = kind.learned(target, CPU)
    assert learned is not None
    set_to(learned.parameters, 6, 0.2)
    steps = torch.optim.Adam(learned.parameters, lr=0.02)
    for _ in range(200):
        steps.zero_grad()
        (learned.make(torch.float32) - target.float()).square().sum().backward()
        steps.step()
    assert torch.allclose(learned.element(), target, atol=1e-2)

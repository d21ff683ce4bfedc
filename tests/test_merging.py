"""Interpolation and merging."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lmc_fast as lmc
from lmc_fast import architectures

from . import models


@pytest.fixture
def trio() -> tuple[list[nn.Module], list[lmc.Permutations]]:
    nets = [models.randomise(models.small_resnet(), seed=s) for s in range(3)]
    spec = architectures.resnet(nets[0])
    return nets, [lmc.Permutations.random(spec, s) for s in range(3)]


def test_the_ends_are_the_models(trio: tuple[list[nn.Module], list[lmc.Permutations]]) -> None:
    (a, b, _), (_, match, _) = trio
    start, end = lmc.interpolate(a, b, [0.0, 1.0], match)
    expected = match.apply(b).state_dict()
    for name, tensor in a.state_dict().items():
        assert torch.equal(start.state_dict()[name], tensor)
        if tensor.is_floating_point():
            assert torch.equal(end.state_dict()[name], expected[name])


def test_in_between_is_the_weighted_sum(trio: tuple[list[nn.Module], list[lmc.Permutations]]) -> None:
    (a, b, _), (_, match, _) = trio
    middle = lmc.interpolate(a.state_dict(), b, 0.3, match)
    assert isinstance(middle, dict)
    permuted = match.apply(b.state_dict())
    for name, tensor in a.state_dict().items():
        if tensor.is_floating_point():
            exact = 0.7 * tensor.double() + 0.3 * permuted[name].double()
            torch.testing.assert_close(middle[name].double(), exact, rtol=1e-6, atol=1e-7)
        else:
            assert torch.equal(middle[name], tensor)


def test_merge_weighs_permuted_models(trio: tuple[list[nn.Module], list[lmc.Permutations]]) -> None:
    nets, matches = trio
    merged = lmc.merge(nets, [None, *matches[1:]], weights=[0.5, 0.3, 0.2])
    permuted = [nets[0].state_dict(), *(m.apply(n).state_dict() for m, n in zip(matches[1:], nets[1:], strict=True))]
    for name, tensor in merged.named_parameters():
        exact = sum(w * state[name].double() for w, state in zip([0.5, 0.3, 0.2], permuted, strict=True))
        torch.testing.assert_close(tensor.double(), exact, rtol=1e-6, atol=1e-7)
    assert isinstance(merged, type(nets[0]))


def test_equal_weights_are_the_default(trio: tuple[list[nn.Module], list[lmc.Permutations]]) -> None:
    nets, _ = trio
    merged = lmc.merge([net.state_dict() for net in nets])
    name = "fc.weight"
    exact = sum(net.state_dict()[name].double() for net in nets) / 3
    torch.testing.assert_close(merged[name].double(), exact, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_half_types_are_rounded_once(dtype: torch.dtype) -> None:
    a, b = ({"w": torch.randn(63, 5).to(dtype)} for _ in range(2))
    out = lmc.interpolate(a, b, 0.3)["w"]
    exact = 0.7 * a["w"].double() + 0.3 * b["w"].double()
    assert out.dtype == dtype
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(out, exact.to(dtype), rtol=eps, atol=4 * min(eps, torch.finfo(torch.float32).eps))


def test_stacked_experts_interpolate_by_their_own_axes() -> None:
    a, b = (models.randomise(models.Experts(), seed=s) for s in (1, 2))
    match = lmc.Permutations.random(models.Experts.spec().bind(a), 3)
    merged = lmc.interpolate(a, b, 1.0, match)
    inputs = torch.randn(4, 5)
    torch.testing.assert_close(merged(inputs), b(inputs))


def test_bad_input_is_named(trio: tuple[list[nn.Module], list[lmc.Permutations]]) -> None:
    (a, b, c), matches = trio
    with pytest.raises(ValueError, match="lam must be a finite number, got nan"):
        lmc.interpolate(a, b, float("nan"))
    with pytest.raises(TypeError, match="lam must be a finite number, got 'half'"):
        lmc.interpolate(a, b, ["half"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="match must be a Matching, Permutations or None, got 3"):
        lmc.interpolate(a, b, 0.5, 3)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="model_b must have"):
        lmc.interpolate(a, models.small_mlp(), 0.5)
    with pytest.raises(ValueError, match=r"models\[2\] must have"):
        lmc.merge([a, b, models.small_mlp()])
    with pytest.raises(ValueError, match="weights must sum to 1, got 2"):
        lmc.merge([a, b], weights=[1, 1])
    with pytest.raises(ValueError, match="weights must have one entry for each of the 2 models, got 1"):
        lmc.merge([a, b], weights=[1.0])
    with pytest.raises(ValueError, match="matches must have one entry for each of the 3 models, got 2"):
        lmc.merge([a, b, c], matches[:2])
    with pytest.raises(ValueError, match="one model at least"):
        lmc.merge([])
    with pytest.raises(TypeError, match="models must be a sequence of models"):
        lmc.merge(a.state_dict())  # type: ignore[arg-type]

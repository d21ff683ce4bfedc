"""Interpolation and merging."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import architectures


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


def test_arrays_of_lambdas_give_lists() -> None:
    a, b = {"w": torch.zeros(2)}, {"w": torch.ones(2)}
    for lam in (np.linspace(0, 1, 3), torch.linspace(0, 1, 3), (0.0, 0.5, 1.0)):
        assert [float(model["w"][0]) for model in lmc.interpolate(a, b, lam)] == [0.0, 0.5, 1.0]
    assert isinstance(lmc.interpolate(a, b, np.float64(0.5)), dict)


def test_an_end_is_the_model_whatever_the_other_holds() -> None:
    a, b = {"w": torch.ones(2)}, {"w": torch.full((2,), float("inf"))}
    assert torch.equal(lmc.interpolate(a, b, 0.0)["w"], a["w"])


def test_integers_are_the_first_models() -> None:
    a, b = {"count": torch.tensor(3)}, {"count": torch.tensor(8)}
    assert lmc.interpolate(a, b, 1.0)["count"] == 3 and lmc.merge([b, a])["count"] == 8


def test_results_share_no_memory_and_carry_no_gradients() -> None:
    model = nn.Linear(2, 2)
    model.weight.grad = torch.ones(2, 2)
    state = model.state_dict()
    for merged in (lmc.interpolate(state, state, 0.5), lmc.merge([state])):
        assert all(merged[name].data_ptr() != tensor.data_ptr() for name, tensor in state.items())
    merged = lmc.interpolate(model, model, 0.5)
    assert merged.weight.grad is None and merged.weight.requires_grad


def test_two_ways_to_take_dimensions_together() -> None:
    a, b = (models.randomise(models.Experts(), seed=s) for s in (1, 2))
    stacked = lmc.Permutations.random(models.Experts.spec().bind(a), 3)
    flat = lmc.PermutationSpec.from_axes(
        {
            "router.weight": ("e", None),
            "router.bias": ("e",),
            "gate_up": ("e", None, None),
            "down": ("e", None, None),
        },
        model=a,
    )
    experts = lmc.Permutations.random(flat, 4)
    merged = lmc.merge([a.state_dict(), b.state_dict()], [stacked, experts])
    for name, tensor in merged.items():
        expected = 0.5 * (stacked.apply(a.state_dict())[name] + experts.apply(b.state_dict())[name])
        torch.testing.assert_close(tensor, expected)


class Extra(nn.Linear):
    """Keeps something of its own in the state dict."""

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 3}

    def set_extra_state(self, state: dict[str, int]) -> None:
        assert state == {"version": 3}


def test_extra_state_is_left_to_the_module() -> None:
    assert isinstance(lmc.interpolate(Extra(2, 2), Extra(2, 2), 0.5), Extra)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(2, dtype=torch.complex64),
        torch.ones(2).to(torch.float8_e4m3fn),
        torch.zeros(2).to_sparse(),
        torch.zeros(2, device="meta"),
        torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8),
    ],
    ids=["complex", "float8", "sparse", "meta", "quantised"],
)
def test_what_is_no_plain_number_is_refused(tensor: torch.Tensor) -> None:
    # Complex numbers and floats of 8 bits are taken where both models have the same.
    other = torch.zeros(2, dtype=tensor.dtype) if tensor.dtype in (torch.complex64, torch.float8_e4m3fn) else tensor
    with pytest.raises(ValueError, match=r"model_a\['w'\] must be a dense "):
        lmc.interpolate({"w": tensor}, {"w": other}, 0.5)


def test_lazy_modules_are_told_to_run_once() -> None:
    with pytest.raises(ValueError, match="'weight' is lazy: run the model once first"):
        lmc.interpolate(nn.LazyLinear(3), nn.LazyLinear(3), 0.5)


def test_bad_input_is_named(trio: tuple[list[nn.Module], list[lmc.Permutations]]) -> None:
    (a, b, c), matches = trio
    with pytest.raises(ValueError, match="lam must be a finite number, got nan"):
        lmc.interpolate(a, b, float("nan"))
    with pytest.raises(TypeError, match=r"lam\[0\] must be a finite number, got 'half'"):
        lmc.interpolate(a, b, ["half"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="match must be a Matching, Permutations, Transforms or None, got 3"):
        lmc.interpolate(a, b, 0.5, 3)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="model_b must have"):
        lmc.interpolate(a, models.small_mlp(), 0.5)
    with pytest.raises(ValueError, match=r"models\[2\] must have the tensors of models\[0\]"):
        lmc.merge([a, b, models.small_mlp()])
    with pytest.raises(ValueError, match=r"weights must sum to 1, got 2\.0"):
        lmc.merge([a, b], weights=[1, 1])
    with pytest.raises(ValueError, match="weights must have one entry for each of the 2 models, got 1"):
        lmc.merge([a, b], weights=[1.0])
    with pytest.raises(ValueError, match="matches must have one entry for each of the 3 models, got 2"):
        lmc.merge([a, b, c], matches[:2])
    with pytest.raises(TypeError, match=r"matches\[1\] must be a Matching, Permutations, Transforms or None, got 3"):
        lmc.merge([a, b], [None, 3])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="matches must be a sequence"):
        lmc.merge([a, b], 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="weights must be a sequence of finite numbers, got 3"):
        lmc.merge([a, b], weights=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lam must be a finite number"):
        lmc.interpolate(a, b, 10**400)
    with pytest.raises(ValueError, match="weights must be a sequence of finite numbers, got a ndarray of shape"):
        lmc.merge([a, b], weights=np.ones((1, 2)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one model at least"):
        lmc.merge([])
    with pytest.raises(TypeError, match="models must be a sequence of models"):
        lmc.merge(a.state_dict())  # type: ignore[arg-type]

"""Many tensors looked at together are let through as one by one, and what is odd is left to that."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast._models import tensors_of
from lmc_fast._tensors import addresses, addresses_at_once, plain, plain_at_once

CPU = torch.device("cpu")


class Named(Tensor):
    pass


def freed() -> Tensor:
    tensor = torch.zeros(8)
    tensor.untyped_storage().resize_(0)
    return tensor


def cut_short() -> Tensor:
    tensor = torch.zeros(8)
    tensor.untyped_storage().resize_(8)
    return tensor


ODD: dict[str, Callable[[], Tensor]] = {
    "transposed": lambda: torch.randn(3, 4).T,
    "a-part": lambda: torch.randn(9)[1:5],
    "complex": lambda: torch.randn(3, dtype=torch.complex64),
    "lazy-negative": lambda: torch.complex(torch.zeros(3), torch.ones(3)).conj().imag,
    # Its entries lie as those of any other do.
    "lazy-negative-in-order": lambda: torch._neg_view(torch.ones(8)),
    "meta": lambda: torch.zeros(3, device="meta"),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "float8": lambda: torch.zeros(4).to(torch.float8_e4m3fn),
    "empty": lambda: torch.zeros(0, 3),
    "freed": freed,
    "cut-short": cut_short,
    "subclass": lambda: torch.zeros(3).as_subclass(Named),
    "odd-address": lambda: torch.frombuffer(bytearray(20), dtype=torch.uint8)[1:17].view(torch.uint8),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool], ids=str)
def test_ordinary_ones_are_let_through(dtype: torch.dtype) -> None:
    given = [nn.Parameter(torch.randn(3, 4)), torch.ones(2, 5).to(dtype), torch.tensor(1.0)]
    found = plain_at_once(given)
    assert found is not None
    for one, other in zip(found, (plain("x", tensor) for tensor in given), strict=True):
        assert type(one) is Tensor and not one.requires_grad
        assert one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.dtype == other.dtype


@pytest.mark.parametrize("kind", ODD)
def test_odd_ones_are_left(kind: str) -> None:
    assert plain_at_once([torch.ones(3), ODD[kind](), torch.ones(2)]) is None


@pytest.mark.parametrize("kind", ["meta", "sparse", "freed", "cut-short"])
def test_one_that_is_refused_is_named_among_many(kind: str) -> None:
    with pytest.raises(ValueError, match=r"model\['odd'\] must be a dense tensor with data"):
        tensors_of("model", {"a": torch.ones(3), "odd": ODD[kind](), "b": torch.ones(2)})


def test_no_address_of_a_lazy_negative_is_given_out_among_many() -> None:
    tensors = [*(torch.ones(8) for _ in range(6)), ODD["lazy-negative-in-order"]()]
    assert addresses_at_once(tensors, CPU, {torch.float32}) is None
    with pytest.raises(ValueError, match="x must hold computed numbers, got a lazy negative"):
        addresses("x", tensors, CPU, {torch.float32})


def test_lazy_negatives_among_many_count_with_their_sign() -> None:
    plain_ones = {f"w{n}": torch.randn(4, 5) for n in range(8)}
    lazy = {name: torch._neg_view(-tensor) for name, tensor in plain_ones.items()}
    assert all(tensor.is_neg() and tensor.is_contiguous() for tensor in lazy.values())
    for name, tensor in lmc.interpolate(lazy, lazy, 0.5).items():
        torch.testing.assert_close(tensor, plain_ones[name])


def test_inside_transforms_they_are_left() -> None:
    def of(tensor: Tensor) -> Tensor:
        assert plain_at_once([tensor]) is None
        return tensor

    torch.vmap(of)(torch.ones(2, 3))

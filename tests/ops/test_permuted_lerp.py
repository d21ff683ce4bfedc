"""The reference interpolation against sums written out by hand."""

from __future__ import annotations

import pytest
import torch

from lmc_fast.ops.permuted_lerp import permuted_lerp


@pytest.mark.parametrize("shape", [(1,), (2, 3), (63, 1), (5, 4, 3, 2)], ids=str)
def test_it_is_the_weighted_sum_of_gathered_tensors(shape: tuple[int, ...]) -> None:
    tensors = [torch.randn(shape) for _ in range(3)]
    gathers = [tuple(torch.randperm(n) for n in shape), (None,) * len(shape), tuple(torch.randperm(n) for n in shape)]
    weights = [0.5, -0.25, 2.0]
    expected = torch.zeros(shape, dtype=torch.float64)
    for tensor, weight, indices in zip(tensors, weights, gathers, strict=True):
        places = (torch.arange(n) if i is None else i for i, n in zip(indices, shape, strict=True))
        grid = torch.meshgrid(*places, indexing="ij")
        expected += weight * tensor.double()[grid]
    out = permuted_lerp(tensors, weights, gathers)
    torch.testing.assert_close(out.double(), expected, rtol=1e-6, atol=1e-6)
    assert all(out.data_ptr() != tensor.data_ptr() for tensor in tensors)


def test_strides_and_empty_tensors() -> None:
    tensor = torch.randn(4, 6).T
    torch.testing.assert_close(permuted_lerp([tensor], [1.0], [(None, None)]), tensor)
    assert permuted_lerp([torch.empty(0, 3)], [1.0], [(None, None)]).shape == (0, 3)

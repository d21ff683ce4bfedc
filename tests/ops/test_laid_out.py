"""Operands gathered and cast in one pass, against plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lmc_fast.ops.laid_out import laid_out, naive

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SHAPES = [(), (1,), (7,), (63, 65), (5, 1, 9), (1000, 17), (3, 40, 50), (0, 4), (300, 1100)]
VIEWS = {"as is": lambda x: x, "turned": lambda x: x.movedim(0, -1), "every other": lambda x: x[..., ::2]}
GATHERS = ["none", "permuted", "some", "some of the last"]


def gathers_of(kind: str, shape: torch.Size, seed: int = 0) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    found: list[Tensor | None] = []
    for dim, size in enumerate(shape):
        count = size if kind == "permuted" else (size + 1) // 2
        off = kind == "none" or (kind == "some of the last" and dim < len(shape) - 1)
        found.append(None if off else torch.randperm(size, generator=generator)[:count])
    return found


@pytest.mark.parametrize("gathers", GATHERS)
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_backend_gives_what_torch_does(dtype: torch.dtype, shape: Any, view: Any, gathers: str) -> None:
    generator = torch.Generator().manual_seed(1)
    tensor = view(torch.randn(shape, generator=generator).to(dtype)) if shape else torch.tensor(2.5, dtype=dtype)
    at = gathers_of(gathers, tensor.shape)
    wanted = tensor
    for dim, index in enumerate(at):
        wanted = wanted if index is None else wanted.index_select(dim, index)
    for target in (torch.float32, torch.float64):
        for backend in ("auto", "torch"):
            found = laid_out(tensor, at, target, backend=backend)
            assert found.dtype == target
            assert torch.equal(found, wanted.to(target))


def test_what_is_laid_out_already_is_not_copied() -> None:
    tensor = torch.randn(3, 4)
    assert laid_out(tensor, (None, None), torch.float32) is tensor


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("wrong", [-1, 4], ids=["below", "beyond"])
def test_indices_beyond_their_dimension_are_refused(backend: str, wrong: int) -> None:
    tensor = torch.zeros(3, 4, dtype=torch.bfloat16)
    with pytest.raises(IndexError, match=r"gathers\[1\] must hold indices of its dimension"):
        laid_out(tensor, (None, torch.tensor([0, wrong])), torch.float32, backend=backend)


@pytest.mark.parametrize(
    ("gathers", "dtype", "message"),
    [
        ((None,), torch.float32, "one entry for each of 2 dimensions, got 1"),
        ((None, None), torch.float16, r"dtype must be torch.float32 or torch.float64, got torch.float16"),
        ((None, torch.zeros(2)), torch.float32, r"gathers\[1\] must be int64 indices on cpu"),
        ((None, torch.zeros(2, 1, dtype=torch.int64)), torch.float32, r"gathers\[1\] must be int64 indices on cpu"),
    ],
    ids=["too few", "to half", "float indices", "two dimensions"],
)
def test_what_does_not_fit_is_refused(gathers: Any, dtype: torch.dtype, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        laid_out(torch.zeros(3, 4, dtype=torch.bfloat16), gathers, dtype)


def test_a_backend_that_cannot_is_refused() -> None:
    with pytest.raises(RuntimeError, match="it casts to the dtype that sums are kept in"):
        laid_out(torch.zeros(3, dtype=torch.int64), (None,), torch.float32, backend="native")


def test_the_reference_is_plain_torch() -> None:
    tensor = torch.arange(6.0).reshape(2, 3).half()
    found = naive.laid_out(tensor, (torch.tensor([1]), torch.tensor([2, 0])), torch.float32)
    assert found.tolist() == [[5.0, 3.0]]

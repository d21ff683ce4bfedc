"""Inner products in float64 of gathered tensors, by each backend."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lmc_fast.ops.permuted_dot import overlap, permuted_dot

BACKENDS = ["native", "torch"]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SHAPES = [(), (0,), (1,), (7,), (5, 0, 3), (33, 70), (64, 3, 3, 3), (3, 200, 9), (2, 5000), (300, 257)]


def tensors(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(len(shape))
    a, b = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    return a, b


def gathers_of(shape: tuple[int, ...], which: int) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(which)
    return [torch.randperm(n, generator=generator) if which >> d & 1 else None for d, n in enumerate(shape)]


def exact(a: Tensor, b: Tensor, gathers: list[Tensor | None]) -> tuple[float, float]:
    """The inner product, and the sum of its terms' sizes; no sum is rounded, and terms of float64 alone are."""
    for d, index in enumerate(gathers):
        b = b if index is None else b.index_select(d, index)
    terms = (a.double() * b.double()).flatten().tolist()
    return math.fsum(terms), math.fsum(map(abs, terms))


def rounding(shape: tuple[int, ...], size: float, backend: str) -> float:
    """How far a sum of terms whose sizes sum to `size` may be from the exact one (Higham 2002, section 4.2).

    A unit roundoff for each addition that a term goes through, and one for its product. In torch the order is that of
    BLAS, which depends on the threads: a term may go through all additions. The core adds up rows, or runs of 1024
    entries, and then these.
    """
    terms = math.prod(shape)
    additions = terms
    if backend == "native" and terms:
        additions = min(terms, max(length + terms // length for length in (shape[-1] if shape else 1, 1024)))
    return (additions + 1) * 2.0**-53 * size


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_are_those_of_exact_arithmetic(shape: tuple[int, ...], dtype: torch.dtype, backend: str) -> None:
    a, b = tensors(shape, dtype)
    for which in range(min(4, 2 ** len(shape))):
        gathers = gathers_of(shape, which)
        expected, size = exact(a, b, gathers)
        found = permuted_dot(a, b, gathers, backend=backend)
        assert found == pytest.approx(expected, rel=0, abs=rounding(shape, size, backend))
    sums = overlap(a, b, backend=backend)
    for got, (x, y) in zip(sums, ((a, a), (b, b), (a, b)), strict=True):
        expected, size = exact(x, y, [None] * a.ndim)
        assert got == pytest.approx(expected, rel=0, abs=rounding(shape, size, backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_strides_are_followed(backend: str) -> None:
    a, b = tensors((40, 30, 6), torch.float32)
    gathers = gathers_of((30, 40, 3), 7)
    views = [tensor[..., ::2].transpose(0, 1) for tensor in (a, b)]
    expected, size = exact(*views, gathers)
    assert permuted_dot(*views, gathers, backend=backend) == pytest.approx(
        expected, rel=0, abs=rounding(views[0].shape, size, backend)
    )
    spread = a[:1, :, :1].expand(40, 30, 6)
    expected, size = exact(spread, b, [None] * 3)
    assert permuted_dot(spread, b, [None] * 3, backend=backend) == pytest.approx(
        expected, rel=0, abs=rounding(spread.shape, size, backend)
    )


def test_threads_do_not_change_the_sum() -> None:
    a, b = tensors((700, 513), torch.float32)
    gathers = gathers_of((700, 513), 3)
    found = set()
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.add((permuted_dot(a, b, gathers, backend="native"), overlap(a, b, backend="native")))
    finally:
        torch.set_num_threads(threads)
    assert len(found) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_not_finite_is_told(backend: str) -> None:
    a, b = tensors((50, 40), torch.float32)
    b[3, 4] = torch.inf
    a[3, 4] = 0
    found = overlap(a, b, backend=backend)
    assert found.a == pytest.approx(overlap(a, a).a) and found.b == float("inf") and found.dot != found.dot


def test_two_dtypes_are_multiplied_in_plain_torch() -> None:
    a, b = tensors((9, 8), torch.float32)[0], tensors((9, 8), torch.bfloat16)[1]
    assert permuted_dot(a, b, [None, None]) == permuted_dot(a, b, [None, None], backend="torch")
    with pytest.raises(RuntimeError, match=r"one dtype of both, got torch\.float32, torch\.bfloat16"):
        permuted_dot(a, b, [None, None], backend="native")


@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_arguments_are_named(backend: str) -> None:
    a = torch.zeros(4, 3)
    with pytest.raises(ValueError, match="b must be a tensor of the shape of a"):
        permuted_dot(a, a.T, [None, None], backend=backend)
    with pytest.raises(ValueError, match="gathers must have one entry for each of 2 dimensions, got 1"):
        permuted_dot(a, a, [None], backend=backend)
    for index in (torch.tensor([0, 1]), torch.tensor([0, 1, 2], dtype=torch.int32)):
        with pytest.raises(ValueError, match=r"gathers\[1\] must be int64 indices, 3 of them"):
            permuted_dot(a, a, [None, index], backend=backend)
    for index in (torch.tensor([0, 1, 3]), torch.tensor([-1, 1, 2])):
        with pytest.raises((IndexError, RuntimeError)):
            permuted_dot(a, a, [None, index], backend=backend)
    with pytest.raises(ValueError, match="backend must be one of"):
        overlap(a, a, backend="fortran")

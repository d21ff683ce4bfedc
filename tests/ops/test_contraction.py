"""Contractions with a vector in float64, by each backend."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lmc_fast.ops.contraction import over_others, over_units

BACKENDS = ["native", "torch"]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SHAPES = [(1, 1, 1), (1, 7, 1), (5, 1, 1), (1, 1, 9), (1, 300, 257), (40, 33, 1), (300, 257, 1), (30, 17, 9)]
SHAPES += [(3, 2, 1000), (0, 4, 2), (4, 0, 2), (4, 2, 0), (70, 70, 20)]


def inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    before, units, after = shape
    sizes = (shape, (units,), (before, after))
    tensor, vector, entries = (torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes)
    return tensor.to(dtype), vector, entries


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_contractions_are_those_of_float64(shape: tuple[int, ...], dtype: torch.dtype, backend: str) -> None:
    tensor, vector, entries = inputs(shape, dtype)
    wide = tensor.double()
    found = over_units(tensor, vector, backend=backend), over_others(tensor, entries, backend=backend)
    expected = torch.einsum("bua,u->ba", wide, vector), torch.einsum("bua,ba->u", wide, entries)
    for got, wanted in zip(found, expected, strict=True):
        assert got.dtype == torch.float64
        torch.testing.assert_close(got, wanted, rtol=1e-13, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_may_lie_apart(backend: str) -> None:
    tensor, vector, entries = inputs((31, 18, 9))
    wide = torch.full((62, 20, 11), torch.nan)
    apart = wide[::2, 1:19, 2:]
    apart.copy_(tensor)
    torch.testing.assert_close(over_units(apart, vector, backend=backend), over_units(tensor, vector))
    torch.testing.assert_close(over_others(apart, entries, backend=backend), over_others(tensor, entries))


def test_threads_do_not_change_the_sums() -> None:
    threads = torch.get_num_threads()
    for shape in ((1, 400, 300), (300, 400, 1), (60, 70, 40)):
        tensor, vector, entries = inputs(shape)
        found = set()
        try:
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                both = (over_units(tensor, vector, backend="native"), over_others(tensor, entries, backend="native"))
                found.add(tuple(tuple(sums.flatten().tolist()) for sums in both))
        finally:
            torch.set_num_threads(threads)
        assert len(found) == 1


def test_entries_out_of_runs_are_for_plain_torch() -> None:
    tensor = inputs((8, 6, 5))[0]
    vector, entries = inputs((5, 8, 6))[1:]
    turned = tensor.permute(2, 0, 1)[..., ::2]
    torch.testing.assert_close(over_units(turned, vector), torch.einsum("bua,u->ba", turned.double(), vector))
    with pytest.raises(RuntimeError, match="entries that lie in runs"):
        over_others(turned, entries[:, ::2], backend="native")


def test_bad_arguments_are_named() -> None:
    tensor, vector, entries = inputs((4, 3, 2))
    with pytest.raises(ValueError, match="tensor must be a tensor of 3 dimensions"):
        over_units(tensor[0], vector)
    with pytest.raises(ValueError, match=r"vector must be float64 \[3\]"):
        over_units(tensor, vector[:2])
    with pytest.raises(ValueError, match=r"entries must be float64 \[4, 2\]"):
        over_others(tensor, entries.float())

"""Products of half numbers: of float32 split in two, and of half types by a GPU's own library.

Kernels run in Triton's interpreter, in the process that `test_kernels.py` starts, or on a GPU (-m gpu).
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lmc_fast.ops.gain_matrix import Term, gain_matrix, gain_matrix_and_candidates

from .candidates import assert_promised
from .test_kernels import FLOATS, HALVES, KINDS, device, error_of, permutation, terms_of

__all__ = ["device"]

pytest.importorskip("triton", reason="Triton is not installed: pip install 'lmc_fast[triton]'")


def exact(term: Term) -> Tensor:
    b = term.b.double()
    for dim, index in enumerate(term.gathers):
        b = b if index is None else b.index_select(dim, index)
    a = term.a.double()
    return a.T @ b if term.units == (1,) else a @ b.T


@pytest.mark.parametrize("kind", KINDS)
def test_float32_by_halves_is_exact_to_float32(kind: str, device: str) -> None:
    for n, k in [(33, 40), (1, 5)] if device == "cpu" else [(700, 4096), (63, 100), (1, 5), (1500, 2049)]:
        terms = terms_of(kind, n, k, torch.float32, device)
        gain = gain_matrix(terms, precision="fp16x3", backend="triton")
        assert gain.dtype == torch.float32 and error_of(gain, terms) < 1e-6
        base = torch.randn(len(gain), len(gain) + 3, device=device)[:, :-3]
        was = base.clone()
        assert gain_matrix(terms, base, precision="fp16x3", backend="triton") is base
        assert error_of(base, terms, was) < 1e-6


@pytest.mark.parametrize("columns", [False, True], ids=["units on rows", "units on columns"])
@pytest.mark.parametrize("longest", [0, 16384], ids=["by tiles", "by rows"])
def test_each_unit_keeps_the_digits_of_its_own_size(
    columns: bool,
    longest: int,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Halves have five bits of exponent: a unit of tiny weights beside one of huge ones would be left with none."""
    from lmc_fast.ops.gain_matrix import triton_halves

    monkeypatch.setattr(triton_halves, "LONGEST", longest)
    n, k = (21, 70) if device == "cpu" else (700, 1000)
    a, b = (
        torch.randn(n, k, device=device) * 10.0 ** torch.linspace(-30, low, n, device=device)[:, None]
        for low in (6, 12)
    )
    order = permutation(k, device)
    term = Term(a.T.contiguous(), b.T.contiguous(), (1,), (order, None)) if columns else Term(a, b, (0,), (None, order))
    gain = gain_matrix([term], precision="fp16x3", backend="triton").double()
    off = (gain - exact(term)).abs() / (a.double().norm(dim=1)[:, None] * b.double().norm(dim=1))
    # But for results that float32 has no normal numbers for.
    assert float(off[exact(term).abs() > 1e-37].max()) < 1e-6


def test_gathers_choose_from_longer_rows(device: str) -> None:
    a, b = torch.randn(9, 20, device=device), torch.randn(9, 50, device=device)
    term = Term(a, b, (0,), (None, permutation(50, device)[:20]))
    gain = gain_matrix([term], precision="fp16x3", backend="triton")
    assert float((gain - exact(term)).norm() / exact(term).norm()) < 1e-6


def test_still_units_gain_nothing_and_what_is_not_finite_stays_so(device: str) -> None:
    a, b = torch.randn(6, 20, device=device), torch.randn(6, 20, device=device)
    a[2, 3], a[4] = torch.nan, 0
    gain = gain_matrix([Term(a, b, (0,), (None, None))], precision="fp16x3", backend="triton")
    assert bool(gain[2].isnan().all()) and not bool(gain[3].isnan().any())
    assert torch.equal(gain[4], torch.zeros_like(gain[4]))


def test_halves_leave_the_candidates_of_their_gains(device: str) -> None:
    n, k = (37, 40) if device == "cpu" else (700, 2000)
    terms = terms_of("correction", n, k, torch.float32, device)
    duals, base = torch.randn(n), torch.ones(n, n, device=device)
    out, found = gain_matrix_and_candidates(terms, duals, 6, base, precision="fp16x3", backend="triton")
    assert out is base
    assert_promised(out, duals, 6, found)


def test_large_products_of_float32_are_made_of_halves(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from lmc_fast.ops.gain_matrix import triton

    monkeypatch.setattr(triton, "HALVES_FROM", 30)
    (large,), (small,) = (terms_of("rows", n, 90, torch.float32, device)[:1] for n in (30, 29))
    for term, same in ((large, True), (small, False)):
        gain = gain_matrix([term], backend="triton")
        assert torch.equal(gain, gain_matrix([term], precision="fp16x3", backend="triton")) == same
        assert torch.equal(gain, gain_matrix([term], precision="tf32x3", backend="triton")) != same


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_rows_of_halves_are_gathered_in_pairs(rows: int, dtype: torch.dtype, device: str) -> None:
    from lmc_fast.ops.gain_matrix import triton_gather

    tensor = torch.randn(rows, 50, device=device).to(dtype)
    tensor[0, 3] = torch.nan
    for index in (permutation(50, device), permutation(50, device)[:20]):
        found = triton_gather.gathered(tensor, (None, index))
        assert torch.equal(found.view(torch.int16), tensor[:, index].view(torch.int16))
    both = permutation(rows, device), permutation(50, device)
    assert torch.equal(
        triton_gather.gathered(tensor, both).view(torch.int16), tensor[both[0]][:, both[1]].view(torch.int16)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_sums_of_half_types_by_the_library(dtype: torch.dtype, kind: str, device: str) -> None:
    """Here with torch's sums on a CPU in its place."""
    from lmc_fast.ops.gain_matrix import blas

    # Several chunks, and few enough entries for one.
    for n, k, chunk in [(33, 90, 32), (20, 18, 64)] if device == "cpu" else [(700, 4096, 512), (63, 100, 512)]:
        terms = terms_of(kind, n, k, dtype, device)
        gain = blas.gain_matrix(terms, chunk=chunk)
        assert gain.dtype == torch.float32 and error_of(gain, terms) < 1e-6
        base = torch.randn(len(gain), len(gain) + 3, device=device)[:, :-3]
        was = base.clone()
        assert blas.gain_matrix(terms, base, chunk) is base
        assert error_of(base, terms, was) < 1e-6


def test_the_library_is_taken_where_it_is_asked_for(device: str) -> None:
    """And sums halves in float32: there is none such in the interpreter, where tiles do the same."""
    from lmc_fast.ops.gain_matrix import blas

    large = terms_of("rows", 600, 70, torch.bfloat16, device)
    small = terms_of("rows", 40, 70, torch.bfloat16, device)
    has = device == "cuda" and blas._sums_in_float32(torch.device("cuda", 0))
    assert blas.takes(large, "library") == has
    assert not blas.takes(small, "library") and not blas.takes(large, "auto")
    assert not blas.takes(terms_of("rows", 600, 70, torch.float32, device), "library")
    assert error_of(gain_matrix(small, precision="library", backend="triton"), small) < 1e-6


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_the_library_keeps_its_promise(dtype: torch.dtype) -> None:
    terms = terms_of("group", 1000, 4096, dtype, "cuda")
    assert error_of(gain_matrix(terms, precision="library", backend="triton"), terms) < 1e-5


@pytest.mark.gpu
def test_default_gains_of_large_products_keep_float32s_digits() -> None:
    for dtype in FLOATS:
        terms = terms_of("group", 2048, 8192, dtype, "cuda")
        assert error_of(gain_matrix(terms, backend="triton"), terms) < 1e-6

"""Products of halves by a GPU's own library: what they are made of, here with torch's sums on a CPU in its place.

Kernels run in Triton's interpreter, in the process that `test_kernels.py` starts, or on a GPU (-m gpu).
"""

from __future__ import annotations

import pytest
import torch

from lmc_fast.ops.gain_matrix import Term, gain_matrix

from .test_kernels import FLOATS, KINDS, error_of, patch_once, terms_of

pytest.importorskip("triton", reason="Triton is not installed: pip install 'lmc_fast[triton]'")


@pytest.fixture(
    params=[pytest.param("cpu", marks=pytest.mark.interpreter), pytest.param("cuda", marks=pytest.mark.gpu)]
)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "cpu":
        patch_once(monkeypatch)
    return str(request.param)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_sums_of_halves_are_exact_to_float32(dtype: torch.dtype, kind: str, device: str) -> None:
    from lmc_fast.ops.gain_matrix import blas

    # Several chunks, and few enough entries for one product of all parts.
    for n, k, chunk in [(33, 90, 32), (20, 18, 64)] if device == "cpu" else [(700, 4096, 512), (63, 100, 512)]:
        terms = terms_of(kind, n, k, dtype, device)
        gain = blas.gain_matrix(terms, chunk=chunk)
        assert gain.dtype == torch.float32 and error_of(gain, terms) < 1e-6
        base = torch.randn(len(gain), len(gain) + 3, device=device)[:, :-3]
        was = base.clone()
        assert blas.gain_matrix(terms, base, chunk) is base
        assert error_of(base, terms, was) < 1e-6


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e12], ids=str)
def test_float32_of_any_size_keeps_its_digits(scale: float, device: str) -> None:
    """Halves have five bits of exponent: entries are scaled to them, and small ones beside large ones keep theirs."""
    from lmc_fast.ops.gain_matrix import blas

    a, b = torch.randn(40, 70, device=device) * scale, torch.randn(40, 70, device=device)
    a[::2] *= 1e-3
    (term,) = terms = [Term(a, b, (0,), (None, None))]
    gain = blas.gain_matrix(terms)
    exact = a.double() @ b.double().T
    for rows in (slice(0, None, 2), slice(1, None, 2)):
        assert float((gain[rows].double() - exact[rows]).norm() / exact[rows].norm()) < 1e-6
    still = torch.zeros_like(a)
    zero = blas.gain_matrix([Term(still, b, (0,), (None, None))])
    assert torch.equal(zero, torch.zeros_like(zero)) and term.a is a


def test_what_is_not_finite_stays_so(device: str) -> None:
    from lmc_fast.ops.gain_matrix import blas

    a, b = torch.randn(6, 20, device=device), torch.randn(6, 20, device=device)
    a[2, 3] = torch.nan
    gain = blas.gain_matrix([Term(a, b, (0,), (None, None))])
    assert bool(gain[2].isnan().all())


def test_the_library_is_taken_where_it_is_asked_for(device: str) -> None:
    """And sums halves in float32: there is none such in the interpreter, where tiles do the same."""
    from lmc_fast.ops.gain_matrix import blas

    large = terms_of("rows", 600, 70, torch.bfloat16, device)
    small = terms_of("rows", 40, 70, torch.bfloat16, device)
    has = device == "cuda" and blas._sums_in_float32(torch.device("cuda", 0))
    assert blas.takes(large, "library") == has
    assert not blas.takes(small, "library") and not blas.takes(large, "tf32x3")
    assert error_of(gain_matrix(small, precision="library", backend="triton"), small) < 1e-6


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_library_keeps_its_promise(dtype: torch.dtype) -> None:
    terms = terms_of("group", 1000, 4096, dtype, "cuda")
    assert error_of(gain_matrix(terms, precision="library", backend="triton"), terms) < 1e-6

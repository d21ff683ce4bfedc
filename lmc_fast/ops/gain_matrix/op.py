"""Gain matrices: the choice of a backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ..._backend import check_backend, choose
from ..._checks import check_int, check_type, fail_type, fail_value
from ..._tensors import as_base, check_dense
from . import naive
from .terms import PRECISIONS, GainCandidates, Term

__all__ = ["gain_candidates", "gain_matrices", "gain_matrix", "gain_matrix_and_candidates"]


def gain_matrix(
    terms: Sequence[Term], base: Tensor | None = None, *, precision: str = "auto", backend: str = "auto"
) -> Tensor:
    """G = sum over terms of A_mat @ B_mat^T, B permuted along its other dimensions (Ainsworth et al. 2023, eq. 3).

    ``*_mat`` moves the unit dimensions of a term to the front and flattens the rest: [units, rest]. A term with
    `before` adds A_mat @ (B_mat - B_before)^T, the correction for the entries that have moved.

    Args:
        terms: one at least without `base`; all with the same number of units, on one device.
        base: a gain matrix of before, which the terms are added to in place; None: start from nothing.
        precision: how a GPU's matrix units multiply. float32: "fp16x3" (two halves of 11 bits each), "tf32x3" and
            "ieee" keep its digits, "tf32" ten bits of each entry; "auto" is the first of these for products of 1024
            units and more where their tiles fit (Hopper and later), the second elsewhere: off by 7e-7 and 2e-7 of the
            root of the summed squares of all products. Half types: "library" leaves large products to the GPU's own
            library where that sums halves in float32 (CUDA, torch 2.8 and later), over up to 4096 entries in one go:
            off by 5e-6, where all else is by 5e-7. Plain torch takes its own settings.
        backend: "auto", "torch" or "triton" (GPU).

    Returns:
        [units, units]; row: unit of a, column: unit of b. float64 if any term is, else float32: half types are
        multiplied exactly and summed in float32. `base` itself where it is given.

    Raises:
        TypeError, ValueError: what does not fit the above.
        RuntimeError: a backend that cannot be used here; the message says why.
    """
    _check_options(precision, backend)
    terms = _checked("terms", terms, base)
    if not terms:
        return naive.gain_matrix(terms, base)
    if choose(backend, "gain_matrix", terms[0].a.device, {"triton": partial(_no_triton, [terms], [base])}) == "torch":
        return naive.gain_matrix(terms, base)
    from . import triton

    return triton.gain_matrix(terms, base, precision)


def gain_matrix_and_candidates(
    terms: Sequence[Term],
    column_duals: Tensor,
    k: int = 16,
    base: Tensor | None = None,
    *,
    precision: str = "auto",
    backend: str = "auto",
) -> tuple[Tensor, GainCandidates]:
    """`gain_matrix`, and `gain_candidates` of the result; on a GPU without reading it again.

    Args:
        terms, base, precision, backend: as `gain_matrix` takes them.
        column_duals: real [units], of the assignment that the gain goes to.
        k: how many columns of each row.

    Returns:
        (gain [units, units], its candidates).

    Raises:
        TypeError, ValueError: what does not fit the above.
        RuntimeError: a backend that cannot be used here; the message says why.
    """
    _check_options(precision, backend)
    terms = _checked("terms", terms, base)
    if not terms:
        gain = naive.gain_matrix(terms, base)
        return gain, gain_candidates(gain, column_duals, k, backend=backend)
    units = terms[0].unit_count()
    _check_search(column_duals, units, k)
    cannot = {"triton": partial(_no_triton, [terms], [base])}
    if choose(backend, "gain_matrix_and_candidates", terms[0].a.device, cannot) == "torch":
        return naive.gain_matrix_and_candidates(terms, column_duals, k, base)
    from . import triton

    return triton.gain_matrix_and_candidates(terms, column_duals, k, base, precision)


def gain_candidates(gain: Tensor, column_duals: Tensor, k: int = 16, *, backend: str = "auto") -> GainCandidates:
    """Each row's best columns by gain less column dual, and a bound of the others: a solve need not read the gain then.

    Args:
        gain: float32 or float64 [n, m], any strides.
        column_duals: real [m], of the assignment that the gain goes to; on any device.
        k: how many columns of each row; those of Triton may list fewer, and have a bound that is less tight.
        backend: "auto", "torch" or "triton" (GPU, float32).

    Returns:
        `GainCandidates` on the device of `gain`; `assignment.Candidates(*found)` goes to a solver that maximizes.

    Raises:
        TypeError, ValueError: what does not fit the above.
        RuntimeError: a backend that cannot be used here; the message says why.
    """
    check_backend(backend)
    check_dense("gain", gain)
    gain = as_base(gain)
    if gain.dtype not in (torch.float32, torch.float64):
        fail_type("gain", "a matrix in float32 or float64", gain)
    if gain.ndim != 2:
        fail_value("gain", "a matrix, of 2 dimensions", gain)
    _check_search(column_duals, gain.shape[1], k)

    def no_triton() -> str | None:
        return None if gain.dtype == torch.float32 else "its search has no float64 form"

    if choose(backend, "gain_candidates", gain.device, {"triton": no_triton}) == "torch":
        return naive.gain_candidates(gain, column_duals, k)
    from . import triton_candidates

    return triton_candidates.gain_candidates(gain, column_duals, k)


def gain_matrices(
    groups: Sequence[Sequence[Term]],
    bases: Sequence[Tensor | None] | None = None,
    *,
    precision: str = "auto",
    backend: str = "auto",
) -> list[Tensor]:
    """`gain_matrix` of many groups at once: on a GPU those of a few hundred units share one launch.

    Args:
        groups: the terms of each group, all on one device; without terms a group's result is its base.
        bases: for each group a gain matrix of before, which its terms are added to in place, or None: start from
            nothing. No two share memory. None: start all from nothing.
        precision, backend: as in `gain_matrix`; they hold for every group.

    Returns:
        For each group [units, units], as `gain_matrix` gives it; sums of the same entries may be rounded otherwise.

    Raises:
        TypeError, ValueError: what does not fit the above.
        RuntimeError: a backend that cannot be used here; the message says why.
    """
    _check_options(precision, backend)
    given = [None] * len(groups) if bases is None else list(bases)
    if len(given) != len(groups):
        raise ValueError(f"bases must have one entry for each of {len(groups)} groups, got {len(given)}")
    for g, (terms, base) in enumerate(zip(groups, given, strict=True)):
        if not terms and base is None:
            raise ValueError(f"groups[{g}] must hold one Term at least, got none, and it has no base")
    groups = [_checked(f"groups[{g}]", terms, base) for g, (terms, base) in enumerate(zip(groups, given, strict=True))]
    places = [base.data_ptr() for base in given if base is not None and base.numel()]
    if len(set(places)) < len(places):
        raise ValueError("bases must lie apart, got one twice")
    devices = [terms[0].a.device for terms in groups if terms]
    if (
        not devices
        or choose(backend, "gain_matrix", devices[0], {"triton": partial(_no_triton, groups, given)}) == "torch"
    ):
        return naive.gain_matrices(groups, given)
    from . import triton

    return triton.gain_matrices(groups, given, precision)


def _checked(argument: str, terms: Sequence[Term], base: Tensor | None) -> list[Term]:
    """The terms with tensors of the base class and no lazy signs, after a look at all that will be read.

    Raises:
        TypeError: what is no Term, or complex numbers.
        ValueError: a tensor without data, on another device than the first, or of another shape than its term's `a`.
    """
    found = []
    if base is not None:
        check_dense("base", base)
        if base.is_neg() or (base.is_inference() and not torch.is_inference_mode_enabled()):
            raise ValueError("base must be free to be added to, got a lazy negative or a tensor of inference mode")
    device = next(
        (term.a.device for term in terms[:1] if isinstance(term, Term)), None if base is None else base.device
    )
    for t, term in enumerate(terms):
        check_type(f"{argument}[{t}]", term, Term, "a Term")
        indices = (*term.gathers, *(() if term.before is None else term.before))
        for name, tensor in (("a", term.a), ("b", term.b), *(("gathers", one) for one in indices if one is not None)):
            check_dense(f"{argument}[{t}].{name}", tensor)
            if tensor.is_complex():
                fail_type(f"{argument}[{t}].{name}", "a tensor of real numbers", tensor)
            if tensor.device != device:
                raise ValueError(f"{argument}[{t}].{name} must be on {device}, got a tensor on {tensor.device}")
        a, b = as_base(term.a), as_base(term.b)
        found.append(term if a is term.a and b is term.b else replace(term, a=a, b=b))
    if base is not None and base.device != device:
        raise ValueError(f"base must be on {device}, got a tensor on {base.device}")
    return found


def _check_search(column_duals: Tensor, columns: int, k: int) -> None:
    check_dense("column_duals", column_duals)
    if column_duals.is_complex():
        fail_type("column_duals", "a vector of real numbers", column_duals)
    if column_duals.shape != (columns,):
        fail_value("column_duals", f"a vector of length {columns}", column_duals)
    check_int("k", k, 1)


def _check_options(precision: str, backend: str) -> None:
    check_backend(backend)
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS}, got {precision!r}")


def _no_triton(groups: Sequence[Sequence[Term]], bases: Sequence[Tensor | None]) -> str | None:
    if any(term.a.dtype == torch.float64 or term.b.dtype == torch.float64 for terms in groups for term in terms):
        return "its matrix product has no float64 form"
    if any(base is not None and (base.dtype != torch.float32 or base.stride(1) != 1) for base in bases):
        return "base must be float32 with rows in one run"
    return None

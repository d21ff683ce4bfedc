"""Spectral overlap: checks and the choice of a backend."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ..._backend import check_backend, choose
from ..._checks import check_floats, fail_type
from ..._tensors import as_base, check_dense
from . import naive

__all__ = ["spectral_overlap"]

# Pairs of singular vectors whose products fit into memory three times over.
MOST_PAIRS = 1 << 28


def spectral_overlap(
    u_a: Tensor,
    s_a: Tensor,
    v_a: Tensor,
    u_b: Tensor,
    s_b: Tensor,
    v_b: Tensor,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
    *,
    gammas: Sequence[float] = (0.0, 0.3),
    backend: str = "auto",
) -> Tensor:
    """R(gamma) = sum_ij <u_a,i, P u_b,j> <v_a,i, Q v_b,j> / sqrt(k_a k_b) (Ito et al. 2025, section 4).

    The sum is over the k_a and k_b singular values of a and b that are at least gamma times the largest of their
    matrix; those that are zero, to rounding, never count, as their vectors are arbitrary. Of equal singular values
    any pair of bases that an SVD may return can be given: all of them are in the sum or none, and it is the same. A
    threshold within rounding of a value takes it in, and all that follow within rounding of each other.

    Args:
        u_a, u_b: left singular vectors as columns, [m, r_a] and [m, r_b].
        s_a, s_b: singular values, [r_a] and [r_b], in any order, none negative; or the largest of them, as many as
            take part at the least threshold.
        v_a, v_b: right singular vectors as columns, [n, r_a] and [n, r_b] (not ``Vh``).
        rows, columns: int64 indices that permute b's rows [m] and columns [n]; None where nothing moves.
        gammas: thresholds from 0 to 1; all are summed in one pass.
        backend: "auto", "torch" or "triton" (GPU; the products of vectors are not written to memory). "auto" is torch
            while those are no more than 2^28 pairs, for it is up to twice as fast.

    Returns:
        [len(gammas)] float64 on the CPU; 0 where no singular value takes part.

    Raises:
        TypeError, ValueError: what does not fit the above.
        RuntimeError: a backend that cannot be used here; the message says why.
    """
    check_backend(backend)
    thresholds = check_floats("gammas", gammas)
    for gamma in thresholds:
        if not 0 <= gamma <= 1:
            raise ValueError(f"gammas must be from 0 to 1, got {gamma}")
    sides = {"u_a": u_a, "s_a": s_a, "v_a": v_a, "u_b": u_b, "s_b": s_b, "v_b": v_b}
    for name, tensor in sides.items():
        check_dense(name, tensor)
        if tensor.dtype not in (torch.float32, torch.float64):
            fail_type(name, "a float32 or float64 tensor", tensor)
    for name, index in (("rows", rows), ("columns", columns)):
        if index is not None:
            check_dense(name, index)
    for side in "ab":
        u, s, v = (sides[f"{kind}_{side}"] for kind in "usv")
        if s.ndim != 1 or u.ndim != 2 or v.ndim != 2 or u.shape[1] != s.shape[0] or v.shape[1] != s.shape[0]:
            raise ValueError(
                f"u_{side}, s_{side} and v_{side} must be [m, r], [r] and [n, r], got {tuple(u.shape)}, "
                f"{tuple(s.shape)} and {tuple(v.shape)}"
            )
    for kind, index in (("u", rows), ("v", columns)):
        a, b = sides[f"{kind}_a"], sides[f"{kind}_b"]
        if a.shape[0] != b.shape[0]:
            raise ValueError(f"{kind}_a and {kind}_b must have as many rows, got {a.shape[0]} and {b.shape[0]}")
        if index is not None and (index.dtype != torch.int64 or index.shape != b.shape[:1]):
            name = "rows" if kind == "u" else "columns"
            raise ValueError(f"{name} must be int64 of shape ({b.shape[0]},), got {index.dtype}, {tuple(index.shape)}")
    device = u_a.device
    rows, columns = (None if index is None else index.to(device) for index in (rows, columns))
    u_a, s_a, v_a, u_b, s_b, v_b = tensors = [as_base(tensor).to(device) for tensor in sides.values()]
    small = backend == "auto" and s_a.numel() * s_b.numel() <= MOST_PAIRS
    if small or choose(backend, "spectral_overlap", device, {"triton": partial(_no_triton, tensors)}) == "torch":
        return naive.spectral_overlap(u_a, s_a, v_a, u_b, s_b, v_b, rows, columns, thresholds)
    from . import triton

    return triton.spectral_overlap(u_a, s_a, v_a, u_b, s_b, v_b, rows, columns, thresholds)


def _no_triton(tensors: Sequence[Tensor]) -> str | None:
    if any(tensor.dtype == torch.float64 for tensor in tensors):
        return "its matrix products have no float64 form"
    return None

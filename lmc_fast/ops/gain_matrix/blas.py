"""Gain matrices on a GPU by its own matrix library: precision "library".

Half types are gathered by torch and multiplied as they are. float32 is split into two halves of float16, 22 bits of
each entry and more of small ones: entries are scaled by a power of two for the largest to lie just below 2^15, hi is
what float16 keeps of them, lo what it keeps of the rest, and

    x y = hi_x hi_y + hi_x lo_y + lo_x hi_y,    but for 2^-22 of it

(Ootomo, Yokota, "Recovering single precision accuracy from Tensor Cores while surpassing the FP32 theoretical peak
performance", 2022). Three products at float16's rate take less than one at float32's.

Operations: 2 n^2 K of halves, three times as many for float32. Bytes beside the product's own: a gather of B, 2 n K s;
for float32 both sides are read and written as pairs of halves, 16 n K, and the sum is scaled in a pass of its own,
8 n^2 or 12 n^2.

The matrix units cut, not round, when they add to a large sum, each time by half of its last digit: what they sum by
themselves is off in proportion to its length. After every `CHUNK` entries the sum so far goes to the result, which
costs a pass over it, 8 n^2 bytes. Measured on an H200 (n = K = 4096, relative to the root of the summed squares of all
products), by entries summed in one go: 512 4.8e-7 in bfloat16 and 6.5e-7 in float32, 1024 1.0e-6 and 1.3e-6, 2048
2.1e-6 and 2.5e-6; the tiles of `triton.py`, which flush after 256 and 64, 2.4e-7 and 2.0e-7. There float32 takes 1.1
ms, 2.8 by torch and 2.3 to 2.6 by the tiles; bfloat16, 0.54 ms, is faster by the tiles (0.39), because of those passes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from .terms import Term, common_dtype, common_units, units_first
from .triton_split import add_scaled, halves_of

__all__ = ["CHUNK", "gain_matrix", "takes"]

# Entries that the matrix units sum by themselves.
CHUNK = 512
# Units and entries from which on this is the faster way.
UNITS_FROM, ENTRIES_FROM = 512, 64
# Terms of fewer entries are put side by side: biases and norms make a product of one column each.
NARROW = 64


def takes(terms: Sequence[Term], precision: str) -> bool:
    """Whether the library is asked for, these terms are large enough, and it sums halves in float32."""
    return (
        precision == "library"
        and terms[0].unit_count() >= UNITS_FROM
        and sum(term.entry_count() for term in terms) >= ENTRIES_FROM
        and _sums_in_float32(terms[0].a.device)
    )


def gain_matrix(terms: Sequence[Term], base: Tensor | None = None, chunk: int | None = None) -> Tensor:
    """`ops.gain_matrix.gain_matrix` of terms in float16, bfloat16 or float32; `base` float32, rows in one run.

    Args:
        terms, base: as there.
        chunk: entries that are summed by themselves; None: `CHUNK`.
    """
    units, dtype = common_units(terms), common_dtype(terms)
    chunk = CHUNK if chunk is None else chunk
    add = base is not None
    out = torch.empty(units, units, device=terms[0].a.device) if base is None else base
    narrow: list[tuple[Tensor, Tensor]] = []
    for term in terms:
        for a, b in _sides(term, dtype):
            if a.shape[1] < NARROW and len(terms) > 1:
                narrow.append((a, b))
            else:
                _multiply(out, a, b, add, chunk)
                add = True
    if narrow:
        _multiply(out, torch.cat([a for a, _ in narrow], 1), torch.cat([b for _, b in narrow], 1), add, chunk)
    return out


def _sides(term: Term, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """A and B [units, entries] of what a term adds; the difference of two half numbers is none, and makes two."""
    a = units_first(term.a.to(dtype), term.units)
    b = units_first(_gathered(term.b, term.gathers).to(dtype), term.units)
    if term.before is None:
        return [(a, b)]
    before = units_first(_gathered(term.b, term.before).to(dtype), term.units)
    return [(a, b - before)] if dtype == torch.float32 else [(a, b), (-a, before)]


def _multiply(out: Tensor, a: Tensor, b: Tensor, add: bool, chunk: int) -> None:
    """out = A @ B^T, added to what it holds if `add`."""
    if a.dtype != torch.float32:
        for start in range(0, max(1, a.shape[1]), chunk):
            _add_product(out, a[:, start : start + chunk], b[:, start : start + chunk], add or start > 0)
        return
    # Few enough for one product of all three parts.
    whole = 3 * a.shape[1] <= 2 * chunk
    halves_a, scale_a = halves_of(a, "hi lo hi" if whole else "hi lo")
    halves_b, scale_b = halves_of(b, "lo hi hi" if whole else "lo hi")
    total = torch.empty(out.shape, device=out.device)
    # The small ones first: they are added to, not cut off.
    _add_product(total, halves_a, halves_b, False)
    if not whole:
        width = halves_a.shape[1] // 2
        for start in range(0, width, chunk):
            end = min(start + chunk, width)
            _add_product(total, halves_a[:, start:end], halves_b[:, width + start : width + end], True)
    add_scaled(out, total, scale_a, scale_b, add)


def _add_product(out: Tensor, a: Tensor, b: Tensor, add: bool) -> None:
    """out = A @ B^T of halves, summed in float32, added to what it holds if `add`."""
    if out.device.type == "cpu":
        # Triton's interpreter.
        torch.addmm(out, a.float(), b.float().T, beta=int(add), out=out)
    else:
        torch.ops.aten.addmm.dtype_out(out, a, b.T, torch.float32, beta=int(add), alpha=1, out=out)


@functools.cache
def _sums_in_float32(device: torch.device) -> bool:
    """Whether torch multiplies halves into float32 here: from 2.8 on, with CUDA."""
    if device.type != "cuda":
        return False
    ones = torch.ones(16, 16, dtype=torch.bfloat16, device=device)
    total = torch.ones(16, 16, device=device)
    try:
        _add_product(total, ones, ones, True)
    # No such form of the function, or none for this device.
    except (AttributeError, NotImplementedError, RuntimeError):
        return False
    return bool((total == 17).all())


def _gathered(tensor: Tensor, gathers: tuple[Tensor | None, ...]) -> Tensor:
    for dim, index in enumerate(gathers):
        if index is not None:
            tensor = tensor.index_select(dim, index)
    return tensor

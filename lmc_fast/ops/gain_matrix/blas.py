"""Gain matrices of half types on a GPU by its own matrix library: precision "library".

Terms are gathered and multiplied as they are, half numbers in, float32 out. Operations: 2 n^2 K. Bytes beside the
product's own: a gather of B, 4 n K.

The matrix units cut, not round, when they add to a large sum, each time by half of its last digit: what they sum by
themselves is off in proportion to its length. After every `CHUNK` entries the sum so far goes to the result, which
costs a pass over it, 8 n^2 bytes. Measured on an H200 (n = K = 4096, relative to the root of the summed squares of all
products), by entries summed in one go: 512 4.8e-7, 1024 1.0e-6, 2048 2.1e-6, 4096 4.4e-6; the tiles of `triton.py`,
which flush after 512, 4.8e-7. The chunk is long, for 0.85 of the rate of the library's product alone, where tiles have
0.55: what is off by 5e-6 is far below what the entries were off when they became bfloat16 (2e-3) or float16 (2e-4).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from .terms import Term, common_dtype, common_units, units_first
from .triton_gather import gathered

__all__ = ["CHUNK", "gain_matrix", "takes"]

# Entries that the matrix units sum by themselves.
CHUNK = 4096
# Units and entries from which on this is the faster way.
UNITS_FROM, ENTRIES_FROM = 512, 64
# Terms of fewer entries are put side by side: biases and norms make a product of one column each.
NARROW = 512


def takes(terms: Sequence[Term], precision: str) -> bool:
    """Whether the library is asked for, these terms are large enough halves, and it sums halves in float32."""
    return (
        precision == "library"
        and common_dtype(terms) != torch.float32
        and terms[0].unit_count() >= UNITS_FROM
        and sum(term.entry_count() for term in terms) >= ENTRIES_FROM
        and _sums_in_float32(terms[0].a.device)
    )


def gain_matrix(terms: Sequence[Term], base: Tensor | None = None, chunk: int | None = None) -> Tensor:
    """`ops.gain_matrix.gain_matrix` of terms in float16 or bfloat16; `base` float32, rows in one run.

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
            if a.shape[1] < NARROW:
                narrow.append((a, b))
            else:
                _multiply(out, a, b, add, chunk)
                add = True
    if narrow:
        # One pass over the result for all of them.
        left, right = narrow[0] if len(narrow) == 1 else (torch.cat(side, 1) for side in zip(*narrow, strict=True))
        _multiply(out, left, right, add, chunk)
    return out


def _sides(term: Term, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """A and B [units, entries] of what a term adds; the difference of two half numbers is none, and makes two."""
    a = units_first(term.a.to(dtype), term.units)
    b = units_first(gathered(term.b, term.gathers).to(dtype), term.units)
    if term.before is None:
        return [(a, b)]
    return [(a, b), (-a, units_first(gathered(term.b, term.before).to(dtype), term.units))]


def _multiply(out: Tensor, a: Tensor, b: Tensor, add: bool, chunk: int) -> None:
    """out = A @ B^T of halves, added to what it holds if `add`."""
    for start in range(0, max(1, a.shape[1]), chunk):
        _add_product(out, a[:, start : start + chunk], b[:, start : start + chunk], add or start > 0)


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

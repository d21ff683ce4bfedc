"""Weights whose leading parts count more, for a search to look at.

Weight matching leaves a low barrier because it aligns the singular vectors with large singular values (Ito, Yamada,
Kumagai, "Analysis of Linear Mode Connectivity via Permutation-Based Weight Matching", ICLR 2025). The sum that it
raises is not made for that: in wide models most of it comes from the many small singular values. Of

    W + (t - 1) sum_{i <= r} s_i u_i v_i^T,

with the r largest singular values t times, the sum is that of the leading parts, and the rest decides where these do
not tell. A permutation of W is one of this matrix too, so that the search is weight matching as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..._models import accumulate_dtype
from ...symmetry import PermutationSpec

__all__ = ["emphasised"]

# How many singular values of each weight count more, at most, and how many times.
RANK = 16
TIMES = 3.0
# Columns of the range in which the leading singular vectors are looked for, beyond their number.
MORE = 16
# Steps of subspace iteration: the vectors of both models must come from their weights, not from where these begin.
STEPS = 2


def emphasised(spec: PermutationSpec, tensors: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """New tensors in the place of those named that have two axes and more, as the spec splits them.

    One axis is the matrix's rows, all others its columns: a convolution is [out, in * kh * kw].

    Args:
        spec: bound.
        tensors: of one model, by name; not changed.
        names: floating-point ones.

    Returns:
        The named ones; those of two axes and more in the dtype that they are accumulated in.
    """
    return {name: _emphasised(spec.view(name, tensors[name])).reshape(tensors[name].shape) for name in names}


def _emphasised(tensor: Tensor) -> Tensor:
    if tensor.ndim < 2 or tensor.numel() == 0:
        return tensor
    # The axis that leaves the most to tell apart; of equal ones the first.
    axis = max(range(tensor.ndim), key=lambda one: (_side(tensor, one), -one))
    whole = tensor.to(accumulate_dtype(tensor.dtype)).movedim(axis, 0)
    matrix = whole.flatten(1)  # [rows, columns]
    vectors = _leading(matrix)
    made = matrix + (TIMES - 1.0) * (vectors @ (vectors.T @ matrix))
    return made.reshape(whole.shape).movedim(0, axis)


def _side(tensor: Tensor, axis: int) -> int:
    rows = tensor.shape[axis]
    return min(rows, tensor.numel() // rows)


def _leading(matrix: Tensor) -> Tensor:
    """[rows, RANK at most]: the left singular vectors of the largest singular values.

    From a randomised range (Halko, Martinsson, Tropp, "Finding structure with randomness", SIAM Review 2011,
    algorithm 4.4), which is all of the range where one side is no longer than that.
    """
    width = min(*matrix.shape, RANK + MORE)
    # Same weights, same vectors.
    probes = torch.randn(matrix.shape[1], width, generator=torch.Generator().manual_seed(0))
    q = torch.linalg.qr(matrix @ probes.to(matrix.device, matrix.dtype)).Q
    for _ in range(STEPS):
        # By columns of one length, or the products would leave the largest singular vector alone.
        q = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ q).Q).Q
    c = q.T @ matrix
    turns = torch.linalg.eigh((c @ c.T).double()).eigenvectors  # of rising eigenvalues
    vectors: Tensor = q @ turns[:, -RANK:].to(q.dtype)
    return vectors

"""What candidates of a gain matrix promise, checked entry by entry in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from lmc_fast.ops.gain_matrix import GainCandidates

__all__ = ["assert_promised"]


def assert_promised(gain: Tensor, column_duals: Tensor, k: int, found: GainCandidates) -> None:
    """Check shapes and dtypes, and of each row that no column which it does not list passes its bound.

    float64 holds the difference of two float32 numbers of like size but for its last digits, which a bound that is
    rounded up to float32 is far above.
    """
    n, m = gain.shape
    assert found.columns.shape == (n, k) and found.columns.dtype == torch.int32
    assert found.bounds.shape == (n,) and found.bounds.dtype == gain.dtype
    duals = column_duals.to(gain.device, gain.dtype)
    assert torch.equal(found.column_duals, duals)
    reduced = gain.double() - duals.double()
    for i in range(n):
        listed = found.columns[i][found.columns[i] >= 0].long()
        assert (listed < m).all() and len(set(listed.tolist())) == len(listed)
        assert (reduced[i, listed][1:] <= reduced[i, listed][:-1] + 1e-5).all(), "not the best first"
        if found.bounds[i] == torch.inf:
            continue
        assert gain[i].isfinite().all()
        others = torch.ones(m, dtype=torch.bool, device=gain.device)
        others[listed] = False
        assert (reduced[i, others] <= found.bounds[i].double()).all(), "a column that is not listed passes the bound"
        # The best column is listed, unless as good a one is left out.
        assert len(listed) and reduced[i].max() <= max(reduced[i, listed].max(), found.bounds[i].double())

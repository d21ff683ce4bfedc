"""Offsets past 32 bits, on sparse files that take next to no space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lmc_fast as lmc


@pytest.mark.parametrize("transposed", [False, True], ids=["rows-far-apart", "columns-far-apart"])
def test_offsets_of_an_assignment_take_64_bits(tmp_path: Path, transposed: bool) -> None:
    """The trap: entries past 2^31 (and here past 2^32) read at wrapped offsets."""
    rows, columns, stride = 5, 6, 2**30 + 12_345
    file = np.memmap(tmp_path / "sparse", dtype=np.float32, mode="w+", shape=(rows * stride,))
    cost = np.lib.stride_tricks.as_strided(file, shape=(rows, columns), strides=(4 * stride, 4))
    cost[:] = np.random.default_rng(0).normal(size=(rows, columns))
    near = np.array(cost)
    if transposed:
        cost, near = cost.T, near.T
    for found, expected in zip(lmc.linear_sum_assignment(cost), lmc.linear_sum_assignment(near), strict=True):
        assert np.array_equal(found, expected)

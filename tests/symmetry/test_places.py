"""What is no permutation is told from what is one, row by row."""

from __future__ import annotations

import re

import numpy as np
import pytest

from lmc_fast.symmetry.kinds.permutation import checked_places

WRONG = {
    "twice": [[1, 0, 2], [2, 2, 0]],
    "beyond": [[1, 0, 2], [1, 2, 3]],
    "below": [[1, 0, 2], [-1, 1, 2]],
    "beyond, and the others once": [[0, 1, 2], [5, 1, 2]],
}


@pytest.mark.parametrize("rows", WRONG.values(), ids=WRONG.keys())
def test_the_row_that_is_none_is_named(rows: list[list[int]]) -> None:
    message = re.escape("places must hold each of 0..2 once in row 1, and does not")
    with pytest.raises(ValueError, match=message):
        checked_places("places", rows, (2, 3))
    with pytest.raises(ValueError, match=message.replace(r"\ in\ row\ 1", "")):
        checked_places("places", rows[1], (3,))


@pytest.mark.parametrize("rows", [[0], [[2, 0, 1], [0, 1, 2]], [[[1, 0]], [[0, 1]]]], ids=str)
def test_permutations_are_copied(rows: list[object]) -> None:
    given = np.array(rows, dtype=np.uint8)
    found = checked_places("places", given, given.shape)
    given[:] = 0
    assert found.tolist() == rows

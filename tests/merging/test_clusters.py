"""Greedy clusters of units, against the plain loop."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from lmc_fast.merging.clusters import clusters_of


def correlations(count: int, seed: int) -> NDArray[np.float64]:
    """Of 2 n units over few samples."""
    features = np.random.default_rng(seed).standard_normal((2 * count, 6))
    return np.corrcoef(features)


def by_hand(near: NDArray[np.float64], count: int, again: float, within: float) -> list[set[int]]:
    """Join the nearest two that may be joined, again and again, every pair looked at anew."""
    clusters = [{k} for k in range(2 * count)]
    value = {frozenset((i, j)): near[i, j] for i in range(2 * count) for j in range(i)}
    left = [int(within * count + 1e-9)] * 2

    def sides(cluster: set[int]) -> tuple[bool, bool]:
        return any(k < count for k in cluster), any(k >= count for k in cluster)

    def may(x: set[int], y: set[int]) -> bool:
        return all(left[m] > 0 or not (sides(x)[m] and sides(y)[m]) for m in (0, 1))

    def of(x: set[int], y: set[int]) -> float:
        return value[frozenset((min(x), min(y)))]

    while len(clusters) > count:
        pairs = [(x, y) for k, x in enumerate(clusters) for y in clusters[:k] if may(x, y)]
        x, y = max(pairs, key=lambda pair: of(*pair))
        for m in (0, 1):
            left[m] -= sides(x)[m] and sides(y)[m]
        joined = x | y
        rest = [c for c in clusters if c is not x and c is not y]
        for c in rest:
            least = min(of(x, c), of(y, c))
            value[frozenset((min(joined), min(c)))] = again * least if least > 0 else least
        clusters = [*rest, joined]
    return clusters


@pytest.mark.parametrize("within", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("again", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("count", [1, 2, 13])
def test_the_nearest_are_joined_first(count: int, again: float, within: float) -> None:
    for seed in range(4):
        near = correlations(count, seed)
        labels = clusters_of(near, count, again=again, within=within)
        assert labels.shape == (2 * count,) and sorted(set(labels.tolist())) == list(range(count))
        assert list(dict.fromkeys(labels.tolist())) == list(range(count))
        found = {frozenset(np.flatnonzero(labels == k).tolist()) for k in range(count)}
        if again > 0:
            assert found == {frozenset(cluster) for cluster in by_hand(near, count, again, within)}
        for mine in (labels[:count], labels[count:]):
            assert count - len(set(mine.tolist())) <= within * count


def test_units_that_are_alike_in_one_model_go_together() -> None:
    near = np.eye(8)
    # Twins in a, and in b; the others correlate across.
    for i, j, value in ((0, 1, 0.99), (6, 7, 0.98), (2, 4, 0.9), (3, 5, 0.8)):
        near[i, j] = near[j, i] = value
    labels = clusters_of(near, 4, within=0.25)
    assert labels.tolist() == [0, 0, 1, 2, 1, 2, 3, 3]
    across = clusters_of(near, 4, within=0.0)
    assert all(len(set(across[k : k + 4].tolist())) == 4 for k in (0, 4))


def test_what_was_given_stays() -> None:
    near = correlations(5, 0)
    before = near.copy()
    clusters_of(near, 5)
    assert np.array_equal(near, before)

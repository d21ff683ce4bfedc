"""Units of two models put together in clusters, the most alike first: the matching of ZipIt.

Stoica, Bolya, Bjorner, Ramesh, Hearn, Hoffman, "ZipIt! Merging Models from Different Tasks without Training" (ICLR
2024), section 4: of all pairs of clusters, within a model as well as across, the two that correlate most are joined,
until as many are left as one model has units. A cluster that was joined is as near to others as its further part,
times a factor that makes it less eager to be joined again.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["clusters_of"]


def clusters_of(
    correlations: NDArray[np.float64], count: int, *, again: float = 0.3, within: float = 0.125
) -> NDArray[np.int64]:
    """The cluster of every unit.

    Args:
        correlations: [2 n, 2 n], symmetric: the units of model a, then those of model b. The diagonal does not count.
        count: n, and how many clusters there are to be.
        again: the factor of a cluster that was joined, 0..1.
        within: of a model's units the largest share that may lie with another of the same model, 0..1. At 0 every
            cluster holds one unit of each.

    Returns:
        int64 [2 n], numbers of clusters, which are told in the order of their first units.
    """
    near = correlations.copy()
    np.fill_diagonal(near, -np.inf)
    size = len(near)
    label = np.arange(size)
    # Which models have units in a cluster, and how many more may join one of their own.
    holds = np.stack([label < count, label >= count])
    left = [int(within * count + 1e-9)] * 2
    if left[0] == 0:
        for of_model in holds:
            near[np.ix_(of_model, of_model)] = -np.inf
    best = near.argmax(axis=1)
    value = near[label, best]
    for _ in range(size - count):
        first = int(value.argmax())
        i, j = sorted((first, int(best[first])))
        # What one of the two may not be joined with, both may not.
        row = np.minimum(near[i], near[j])
        row[row > 0] *= again
        row[[i, j]] = -np.inf
        stale = np.isin(best, (i, j))
        for model, of_model in enumerate(holds):
            inside = bool(of_model[i] and of_model[j])
            left[model] -= inside
            of_model[i] |= of_model[j]
            of_model[j] = False
            if left[model] == 0 and of_model[i]:
                row[of_model] = -np.inf
                if inside:
                    # That was the last one.
                    near[np.ix_(of_model, of_model)] = -np.inf
                    stale |= of_model
        label[label == j] = i
        near[i], near[:, i] = row, row
        near[j], near[:, j] = -np.inf, -np.inf
        stale[i] = True
        best[stale] = near[stale].argmax(axis=1)
        value[stale] = near[stale, best[stale]]
        grown = row > value
        best[grown], value[grown] = i, row[grown]
    numbers = {cluster: k for k, cluster in enumerate(dict.fromkeys(label.tolist()))}
    return np.array([numbers[cluster] for cluster in label.tolist()], dtype=np.int64)

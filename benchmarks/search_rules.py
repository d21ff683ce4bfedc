"""Searches for permutations by weights alone: those of the package, and others to measure them against.

A function f of the singular values makes of W = U S V^T the matrix U f(S) V^T, and of P W Q^T what it makes of W, with
the same permutations around it: weight matching of what it makes is a search of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import lmc_fast as lmc

__all__ = ["OWN", "RULES", "Rule", "edge_of", "transformed"]

# Singular values [k], falling, and the rows and columns of their matrix -> what they become [k].
Values = Callable[[Tensor, int, int], Tensor]


@dataclass(frozen=True)
class Rule:
    """Weight matching of transformed weights.

    Attributes:
        what: in words.
        values: what becomes of singular values; None: they stay.
        search: as `weight_matching` takes it.
        then: sweeps over the weights as they are, from there.
        by_norm: whether every tensor is divided by its norm first.
    """

    what: str
    values: Values | None = None
    search: str = "coordinate_descent"
    then: int = 0
    by_norm: bool = False

    def __call__(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor], spec: lmc.PermutationSpec) -> lmc.Permutations:
        """The permutations that the rule finds for b."""
        match = lmc.weight_matching(
            *(transformed(state, spec, self.values, self.by_norm) for state in (a, b)), spec, search=self.search
        )
        if self.then:
            match = lmc.weight_matching(
                a, b, spec, init=match.permutations, search="coordinate_descent", max_sweeps=self.then
            )
        return match.permutations


def transformed(
    state: Mapping[str, Tensor], spec: lmc.PermutationSpec, values: Values | None, by_norm: bool = False
) -> dict[str, Tensor]:
    """A state dict with other singular values. Convolutions are matrices [out, in * kh * kw]; vectors stay."""
    made: dict[str, Tensor] = dict(state)
    for name in spec.axes:
        tensor = state[name]
        if not tensor.is_floating_point():
            continue
        if values is not None and tensor.ndim > 1:
            u, s, vt = torch.linalg.svd(tensor.flatten(1), full_matrices=False)
            made[name] = ((u * values(s, u.shape[0], vt.shape[1])) @ vt).reshape(tensor.shape)
        if by_norm:
            made[name] = made[name] / made[name].norm().clamp_min(torch.finfo(tensor.dtype).tiny)
    return made


def power(p: float) -> Values:
    """s^p, the largest as it is."""
    return lambda s, rows, columns: s[0] * (s / s[0]) ** p


def rank(r: int) -> Values:
    """The r largest alone."""
    return times(r, 1.0, rest=0.0)


def times(r: int, factor: float, rest: float = 1.0) -> Values:
    """The r largest times a factor, and the rest times another."""
    return lambda s, rows, columns: s * torch.where(torch.arange(len(s)) < r, factor, rest)


def beyond(share: float, factor: float) -> Values:
    """Those of a share of the largest, and more, times a factor."""
    return lambda s, rows, columns: s * torch.where(s >= share * s[0], factor, 1.0)


def energy(share: float) -> Values:
    """The largest that together make up a share of the squared norm, and the next one."""
    return lambda s, rows, columns: s * ((s**2).cumsum(0) - s**2 < share * (s**2).sum())


def soft(share: float) -> Values:
    """Less a share of the largest, 0 at least."""
    return lambda s, rows, columns: (s - share * s[0]).clamp_min(0)


def wiener(share: float) -> Values:
    """s^3 / (s^2 + t^2), where t^2 is a share of the largest's square."""
    return lambda s, rows, columns: s**3 / (s**2 + share * s[0] ** 2)


def above_noise(s: Tensor, rows: int, columns: int) -> Tensor:
    """What least squares leave of singular values with noise (Gavish and Donoho, "Optimal shrinkage", 2017)."""
    beta = min(rows, columns) / max(rows, columns)
    unit = edge_of(s, beta) / (1 + math.sqrt(beta))
    if unit == 0:
        return s
    y = s / unit
    kept = ((y**2 - beta - 1) ** 2 - 4 * beta).clamp_min(0).sqrt() / y
    return torch.where(y > 1 + math.sqrt(beta), unit * kept, torch.zeros_like(s))


def edge_of(s: Tensor, beta: float) -> float:
    """Where noise ends whose median singular value is that of s, by the law of Marchenko and Pastur (1967)."""
    low, high = (1 - math.sqrt(beta)) ** 2, (1 + math.sqrt(beta)) ** 2
    x = np.linspace(low, high, 2001)[1:-1]
    shares = np.cumsum(np.sqrt((high - x) * (x - low)) / x)
    median = float(x[np.searchsorted(shares, shares[-1] / 2)])
    return float(s.median()) * math.sqrt(high / median)


def _own(**options: Any) -> Callable[..., lmc.Permutations]:
    return lambda a, b, spec: lmc.weight_matching(a, b, spec, **options).permutations


# What the package has.
OWN: dict[str, Callable[..., lmc.Permutations]] = {
    "coordinate_descent": _own(search="coordinate_descent"),
    "spectral": _own(search="spectral"),
    "leading": _own(search="leading"),
    "frank_wolfe": _own(search="frank_wolfe"),
}
# By name. "then whole" ends with descent over the weights as they are, as "spectral" does.
RULES: dict[str, Rule] = {
    "power 1.5": Rule("singular values to the power 1.5", power(1.5)),
    "power 2": Rule("squared singular values", power(2)),
    "soft 0.2": Rule("less a fifth of the largest", soft(0.2)),
    "wiener 0.1": Rule("s^3 / (s^2 + a tenth of the largest's square)", wiener(0.1)),
    "energy 0.5": Rule("the largest that make up half of the squared norm", energy(0.5)),
    "above noise": Rule("shrunk as if all below the edge of noise were noise", above_noise),
    "rank 16": Rule("the 16 largest alone", rank(16)),
    "rank 32": Rule("the 32 largest alone", rank(32)),
    "rank 16, then whole": Rule("the 16 largest first", rank(16), then=100),
    "8 times 3": Rule("the 8 largest three times", times(8, 3)),
    "16 times 2": Rule("the 16 largest twice", times(16, 2)),
    "16 times 3": Rule("the 16 largest three times", times(16, 3)),
    "32 times 2": Rule("the 32 largest twice", times(32, 2)),
    "32 times 3": Rule("the 32 largest three times", times(32, 3)),
    "16 times 5": Rule("the 16 largest five times", times(16, 5)),
    "32 times 5": Rule("the 32 largest five times", times(32, 5)),
    "0.3 times 3": Rule("those above 0.3 of the largest three times", beyond(0.3, 3)),
    "0.5 times 3": Rule("those above half of the largest three times", beyond(0.5, 3)),
    "16 times 3, one sweep whole": Rule("the 16 largest three times, then one sweep", times(16, 3), then=1),
    "16 times 3, then whole": Rule("the 16 largest three times, then descent", times(16, 3), then=100),
    "16 times 3, frank_wolfe": Rule("the 16 largest three times, all groups at once", times(16, 3), "frank_wolfe"),
    "by norm": Rule("every tensor over its norm", by_norm=True),
    "by norm, 16 times 3": Rule(
        "every tensor over its norm, and the 16 largest three times", times(16, 3), by_norm=True
    ),
}

"""Does an installed wheel work? The core against scipy, and two networks aligned: `python smoke.py`."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

import lmc_fast as lmc


def main() -> None:
    told = lmc.backends()
    print(told)
    if "native" not in told.available or "NOT OPTIMISED" in told.core:
        raise SystemExit(f"the core is not as it should be: {told}")
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (2, 5), (63, 63), (300, 200)):
        cost = rng.standard_normal(shape)
        rows, columns = lmc.linear_sum_assignment(cost)
        best = cost[linear_sum_assignment(cost)].sum()
        if not np.isclose(cost[rows, columns].sum(), best):
            raise SystemExit(f"assignment of {shape}: {cost[rows, columns].sum()}, scipy {best}")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 70), torch.nn.ReLU(), torch.nn.Linear(70, 3))
    inputs = torch.randn(4, 5)
    spec = lmc.derive_spec(model, inputs)
    planted = lmc.Permutations.random(spec, seed=1).apply(model)
    match = lmc.weight_matching(model, planted, spec)
    if match.l2_after > 1e-5 or not torch.allclose(match.apply(planted)(inputs), model(inputs), atol=1e-5):
        raise SystemExit(f"a planted permutation was not found: {match}")
    halves = lmc.interpolate(model, planted, 0.5, match)
    if not torch.allclose(halves(inputs), model(inputs), atol=1e-5):
        raise SystemExit("a model between two that are the same computes something else")
    print("all as it should be")


if __name__ == "__main__":
    main()

"""Means of models in which every entry has a weight of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .._derived import Derived
from .._models import accumulate_dtype
from ..symmetry.transforms import Choice
from .sums import weighted

__all__ = ["entry_weighted"]


def entry_weighted(
    tensors: Sequence[dict[str, Tensor]],
    weights: Sequence[Sequence[float]],
    choices: Sequence[Choice | None],
    entry_weights: Sequence[Mapping[str, Tensor]],
    backend: str,
    derived: Sequence[Derived],
) -> list[dict[str, Tensor]]:
    """For every row of weights sum_m weights[m] w_m theta_m / sum_m weights[m] w_m, entry by entry.

    Where the denominator is 0, and of tensors that no model has entry weights of, it is the plain weighted sum.

    Args:
        tensors, weights, choices, backend, derived: as `weighted` takes them; the weights are 0 or more.
        entry_weights: of each model, by name; moved as its tensors are.

    Raises:
        ValueError: derived weights, units that turn, negative weights, or models that have entry weights of different
            tensors.
    """
    if derived:
        raise ValueError(
            f"entry_weights take models with weights of their own, but {derived[0].name!r} is {derived[0].kind}"
        )
    for choice in choices:
        if choice is not None:
            choice.spec.check_only_permutes("entry_weights")
    if any(share < 0 for row in weights for share in row):
        raise ValueError("entry_weights take weights of models (lam in 0..1) that are 0 or more")
    for i, mapping in enumerate(entry_weights):
        other = next(iter(sorted(entry_weights[0].keys() ^ mapping.keys())), None)
        if other is not None:
            raise ValueError(
                f"entry_weights must name the same tensors for all models, but {other!r} is in only one of 0 and {i}"
            )
    rows = weighted(tensors, weights, choices, backend, derived)
    # Sums over what is tiny would underflow.
    largest = max((float(w.max()) for mapping in entry_weights for w in mapping.values() if w.numel()), default=0.0)
    if largest == 0.0:
        return rows
    counts, products = [], []
    for of_model, mapping in zip(tensors, entry_weights, strict=True):
        scaled = {}
        for name, each in mapping.items():
            dtype = torch.promote_types(accumulate_dtype(of_model[name].dtype), torch.float32)
            scaled[name] = each.to(of_model[name].device).double().div_(largest).to(dtype)
        counts.append(scaled)
        products.append({name: each * of_model[name] for name, each in scaled.items()})
    denominators = weighted(counts, weights, choices, backend, ())
    numerators = weighted(products, weights, choices, backend, ())
    for row, below, above in zip(rows, denominators, numerators, strict=True):
        for name, count in below.items():
            row[name] = torch.where(count > 0, above[name] / count, row[name]).to(tensors[0][name].dtype)
    return rows

"""Models between models: interpolation and weighted merging of permuted weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from ._checks import check_finite, check_type, fail_type
from ._models import Model, ModelT, check_same_tensors, tensors_of, with_tensors
from .matching import Matching
from .ops.permuted_lerp import permuted_lerp
from .symmetry import Permutations

__all__ = ["interpolate", "merge"]

Match = Matching | Permutations | None


@overload
def interpolate(model_a: ModelT, model_b: Model, lam: float, match: Match = None) -> ModelT: ...
@overload
def interpolate(model_a: ModelT, model_b: Model, lam: Sequence[float], match: Match = None) -> list[ModelT]: ...
def interpolate(
    model_a: ModelT, model_b: Model, lam: float | Sequence[float], match: Match = None
) -> ModelT | list[ModelT]:
    """The model at (1 - lam) theta_a + lam pi(theta_b), or one for each of several `lam`.

    Args:
        model_a, model_b: modules or state dicts of one architecture; neither is changed.
        lam: 0 for model a, 1 for the permuted model b; other values extrapolate. A sequence gives a list.
        match: a `Matching` or `Permutations` for model b; None interpolates without permuting.

    Returns:
        A new model of the kind of `model_a`, in its dtypes and on its devices. Running statistics are interpolated
        (see `reestimate_batchnorm`); integer buffers are model a's.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: models of different shapes, a `match` made for others, or a `lam` that is not finite.
    """
    several = isinstance(lam, Sequence) or (isinstance(lam, Tensor) and lam.ndim > 0)
    values = [check_finite("lam", value) for value in (lam if several else [lam])]  # type: ignore[union-attr]
    models = [model_a, model_b]
    tensors = _tensors(models)
    permutations = _permutations([None, match], tensors)
    merged = [with_tensors(model_a, _weighted(tensors, [1.0 - v, v], permutations)) for v in values]
    return merged if several else merged[0]


def merge(
    models: Sequence[ModelT],
    matches: Sequence[Match] | None = None,
    *,
    weights: Sequence[float] | None = None,
) -> ModelT:
    """The weighted mean of permuted models: sum_m weights[m] * pi_m(theta_m).

    Args:
        models: one at least, modules or state dicts of one architecture; none is changed.
        matches: for each model the `Matching` or `Permutations` that lays it over the others, None for one that
            stays as it is (the one which the others were matched to).
        weights: one for each model, summing to 1; None: equal ones.

    Returns:
        A new model of the kind of ``models[0]``, in its dtypes and on its devices; integer buffers are its.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: no models, models of different shapes, lists of different lengths, or weights that do not sum
            to 1.
    """
    if isinstance(models, (str, dict)) or not isinstance(models, Sequence):
        fail_type("models", "a sequence of models", models)
    if not models:
        raise ValueError("models must hold one model at least, got none")
    count = len(models)
    matches = [None] * count if matches is None else list(matches)
    if len(matches) != count:
        raise ValueError(f"matches must have one entry for each of the {count} models, got {len(matches)}")
    shares = [1.0 / count] * count if weights is None else [check_finite("weights", w) for w in weights]
    if len(shares) != count:
        raise ValueError(f"weights must have one entry for each of the {count} models, got {len(shares)}")
    if abs(sum(shares) - 1.0) > 1e-6:
        raise ValueError(f"weights must sum to 1, got {sum(shares)}")
    tensors = _tensors(models)
    return with_tensors(models[0], _weighted(tensors, shares, _permutations(matches, tensors)))


def _tensors(models: Sequence[Model]) -> list[dict[str, Tensor]]:
    names = ["model_a", "model_b"] if len(models) == 2 else [f"models[{i}]" for i in range(len(models))]
    tensors = [tensors_of(name, model) for name, model in zip(names, models, strict=True)]
    for name, others in zip(names[1:], tensors[1:], strict=True):
        check_same_tensors(name, others, tensors[0])
    return tensors


def _permutations(matches: Sequence[Match], tensors: Sequence[dict[str, Tensor]]) -> list[Permutations | None]:
    """The permutations of each match, checked against the model that they are for."""
    found: list[Permutations | None] = []
    for match, model in zip(matches, tensors, strict=True):
        if match is None:
            found.append(None)
            continue
        check_type("match", match, (Matching, Permutations), "a Matching, Permutations or None")
        permutations = match.permutations if isinstance(match, Matching) else match
        found.append(Permutations(permutations.spec.bind(model), permutations.choices))
    return found


def _weighted(
    tensors: Sequence[dict[str, Tensor]],
    weights: Sequence[float],
    permutations: Sequence[Permutations | None],
) -> dict[str, Tensor]:
    """Weighted sums of all floating tensors; integer ones from the first model."""
    merged = {}
    for name, first in tensors[0].items():
        if not first.is_floating_point():
            merged[name] = first.clone()
            continue
        views: list[Tensor] = []
        gathers: list[tuple[Tensor | None, ...]] = []
        shape = _common_view(name, first, permutations)
        for model, permutation in zip(tensors, permutations, strict=True):
            view = model[name].reshape(shape)
            views.append(view)
            gathers.append((None,) * view.ndim if permutation is None else permutation.gathers(name))
        merged[name] = permuted_lerp(views, weights, gathers).reshape(first.shape)
    return merged


def _common_view(name: str, tensor: Tensor, permutations: Sequence[Permutations | None]) -> torch.Size:
    """The shape in which the tensor has one dimension for each axis of the spec."""
    for permutation in permutations:
        if permutation is not None:
            return permutation.spec.view(name, tensor).shape
    return tensor.shape

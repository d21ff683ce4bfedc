"""What every method reports: the objective and the distance of weights, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from ..._chunks import Gathers
from ...ops.permuted_dot import permuted_dot
from ...symmetry import Permutations
from ...symmetry.transforms import Choice
from .sums import squared_distance

__all__ = ["distance_between", "distance_from", "objective_of"]

# Below this share of the squared norms, their difference with the inner product has lost half its digits.
_NEAR = 1e-6


def objective_of(
    tensors_a: Mapping[str, Tensor],
    tensors_b: Mapping[str, Tensor],
    weights: Mapping[str, float],
    choice: Choice,
) -> float:
    """<theta_a, pi(theta_b)> over the named tensors, each times its weight."""
    return _summed(permuted_dot, tensors_a, tensors_b, weights, choice)


def distance_between(
    tensors_a: Mapping[str, Tensor],
    tensors_b: Mapping[str, Tensor],
    weights: Mapping[str, float],
    choice: Choice,
) -> float:
    """||theta_a - pi(theta_b)|| over the named tensors, each square times its weight."""
    return math.sqrt(_summed(squared_distance, tensors_a, tensors_b, weights, choice))


def distance_from(norms: float, objective: float, direct: Callable[[], float]) -> float:
    """||theta_a - pi(theta_b)|| from ||theta_a||^2 + ||theta_b||^2 and the objective, or `direct` where they are near.

    The identity ||a - b||^2 = ||a||^2 + ||b||^2 - 2 <a, b> saves a pass over the weights.
    """
    square = norms - 2 * objective
    return math.sqrt(square) if square > _NEAR * norms else direct()


def _summed(
    of: Callable[[Tensor, Tensor, Gathers], float],
    tensors_a: Mapping[str, Tensor],
    tensors_b: Mapping[str, Tensor],
    weights: Mapping[str, float],
    choice: Choice,
) -> float:
    total = 0.0
    for name, weight in weights.items():
        if weight:
            a, b = (choice.spec.view(name, tensor) for tensor in (tensors_a[name], tensors_b[name]))
            b = b.to(a.device)
            if isinstance(choice, Permutations):
                gathers = [None if index is None else index.to(a.device) for index in choice.gathers(name)]
            else:
                # Turned in float64, and summed as it then lies.
                a, b, gathers = a.double(), choice.apply_to(name, b.double()), [None] * a.ndim
            total += weight * of(a, b, gathers)
    return total

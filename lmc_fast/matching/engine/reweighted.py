"""Other measures of nearness than the inner product of weights, as pairs of tensors whose inner products they are.

A search over <A, pi(B)> searches for anything that is a sum of such products with parts of both sides that move as the
units do. A squared distance whose entries are weighted is one:

    product:  sum w_a pi(w_b) (a - pi(b))^2 = <w_a a^2, pi(w_b)> - 2 <w_a a, pi(w_b b)> + <w_a, pi(w_b b^2)>
    sum:  sum (w_a + pi(w_b)) (a - pi(b))^2 = <w_a a^2, 1> + <1, w_b b^2> + <a^2, pi(w_b)> + <w_a, pi(b^2)>
                                              - 2 <w_a a, pi(b)> - 2 <a, pi(w_b b)>
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..._models import accumulate_dtype
from ...symmetry import Axis, PermutationSpec
from ...symmetry.transforms import Choice

__all__ = ["Searched", "by_direction", "by_entries", "weighted_distance"]


@dataclass(frozen=True)
class Searched:
    """What a search goes over.

    Attributes:
        spec: bound; with the axes of each tensor.
        tensors_a, tensors_b: by the names of this spec.
        shares: how much each counts.
        scale: what the search's objective is to be multiplied by.
    """

    spec: PermutationSpec
    tensors_a: dict[str, Tensor]
    tensors_b: dict[str, Tensor]
    shares: dict[str, float]
    scale: float = 1.0

    @property
    def parts(self) -> tuple[PermutationSpec, dict[str, Tensor], dict[str, Tensor], dict[str, float]]:
        """Spec, tensors and shares."""
        return self.spec, self.tensors_a, self.tensors_b, self.shares


def by_direction(
    spec: PermutationSpec, tensors_a: Mapping[str, Tensor], tensors_b: Mapping[str, Tensor], shares: Mapping[str, float]
) -> Searched:
    """Every row of every parameter (along its first axis) at a length of 1; a row of zeros stays one.

    What has one axis alone is taken whole: its entries would be but signs.
    """
    a, b = ({name: _directions(spec.view(name, of[name])) for name in shares} for of in (tensors_a, tensors_b))
    shapes = {name: tensors_a[name].shape for name in shares}
    a, b = ({name: tensor.reshape(shapes[name]) for name, tensor in of.items()} for of in (a, b))
    return Searched(spec, a, b, dict(shares))


def _directions(tensor: Tensor) -> Tensor:
    wide = tensor.to(accumulate_dtype(tensor.dtype))
    if wide.ndim == 0:
        return wide.sign()
    rows = wide.reshape(1, -1) if wide.ndim == 1 else wide.flatten(1)
    # Scaled first: squares of what is tiny vanish.
    rows = rows / rows.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return torch.where(lengths > 0, rows / lengths, rows).reshape(wide.shape)


def by_entries(
    spec: PermutationSpec,
    tensors_a: Mapping[str, Tensor],
    tensors_b: Mapping[str, Tensor],
    shares: Mapping[str, float],
    weights_a: Mapping[str, Tensor],
    weights_b: Mapping[str, Tensor],
    combine: str,
) -> Searched:
    """Tensors whose inner products are, but for a constant, minus half the weighted squared distance.

    Args:
        weights_a, weights_b: of every parameter with a share, of its shape, 0 or more.
        combine: "product" or "sum", as above.
    """
    names = [name for name, share in shares.items() if share > 0]
    scale_a, scale_b = (_largest(weights, names) for weights in (weights_a, weights_b))
    if combine == "sum":
        scale_a = scale_b = max(scale_a, scale_b)
    axes: dict[str, tuple[Axis, ...]] = {}
    a: dict[str, Tensor] = {}
    b: dict[str, Tensor] = {}
    new_shares: dict[str, float] = {}
    for name in names:
        x, y = tensors_a[name], tensors_b[name]
        dtype = accumulate_dtype(torch.promote_types(x.dtype, y.dtype))
        u = (weights_a[name].to(x.device).double() / scale_a).to(dtype)
        v = (weights_b[name].to(y.device).double() / scale_b).to(dtype)
        x, y = x.to(dtype), y.to(dtype)
        pairs = (
            [(u * x, v * y), (-0.5 * u * x.square(), v), (-0.5 * u, v * y.square())]
            if combine == "product"
            else [(u * x, y), (x, v * y), (-0.5 * x.square(), v), (-0.5 * u, y.square())]
        )
        for k, (left, right) in enumerate(pairs):
            part = f"{name}:{k}"
            a[part], b[part], axes[part], new_shares[part] = left, right, spec.axes[name], shares[name]
    searched = PermutationSpec(spec.groups, {**spec.axes, **axes}, folds=spec.folds)
    return Searched(searched, a, b, new_shares, scale_a * scale_b if combine == "product" else scale_a)


def weighted_distance(
    tensors_a: Mapping[str, Tensor],
    tensors_b: Mapping[str, Tensor],
    shares: Mapping[str, float],
    weights_a: Mapping[str, Tensor],
    weights_b: Mapping[str, Tensor],
    combine: str,
    choice: Choice,
) -> float:
    """The root of the weighted squared distance between theta_a and pi(theta_b), summed in float64."""
    total = 0.0
    for name, share in shares.items():
        if share > 0:
            where = tensors_a[name].device
            b, v = (choice.apply_to(name, of[name].to(where).double()) for of in (tensors_b, weights_b))
            u = weights_a[name].to(where).double()
            both = u * v if combine == "product" else u + v
            total += share * float((both * (tensors_a[name].double() - b).square()).sum())
    return math.sqrt(total)


def _largest(weights: Mapping[str, Tensor], names: Collection[str]) -> float:
    largest = max((float(weights[name].max()) for name in names if weights[name].numel()), default=0.0)
    return largest if largest > 0 else 1.0

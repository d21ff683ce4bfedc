"""Singular vectors and values of a model's weights, kept so that other permutations need no other SVD."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .._backend import check_device
from .._checks import check_type
from .._models import Model, accumulate_dtype
from .._progress import Progress, tracking
from ..ops.spectral_overlap.naive import counted
from ..symmetry import PermutationSpec
from .layers import check_names, matrices_of

__all__ = ["LayerFactors", "SpectralFactors", "singular_factors"]

# Entries of matrices of one shape that are decomposed in one call.
_AT_ONCE = 1 << 24


@dataclass(frozen=True, eq=False)
class LayerFactors:
    """One weight as a matrix W = U S V^T, its r = min(rows, columns) singular values falling.

    Attributes:
        name: of the parameter.
        weight: the matrix [rows, columns], in the model's dtype and where the model is; not copied where it can be
            a view.
        u: [rows, r], left singular vectors as columns.
        s: [r].
        v: [columns, r], right singular vectors as columns.
    """

    name: str
    weight: Tensor = field(repr=False)
    u: Tensor = field(repr=False)
    s: Tensor = field(repr=False)
    v: Tensor = field(repr=False)
    _isometries: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.weight.shape[0], self.weight.shape[1]

    def kept(self, gamma: float) -> int:
        """How many singular values take part in R(gamma): the first so many."""
        return int(counted(self.s, gamma, max(self.shape)).sum())

    def isometry(self, count: int) -> Tensor:
        """sum_i u_i v_i^T over the first `count` singular values: [rows, columns]. Not to be written to.

        Free of signs and of the basis inside a repeated value, and kept: R is the inner product of two of these,
        and another permutation of one costs no matrix product.
        """
        if count not in self._isometries:
            self._isometries[count] = self.u[:, :count] @ self.v[:, :count].T
        return self._isometries[count]


class SpectralFactors(Mapping[str, LayerFactors]):
    """The factors of every weight of a model, by name; made by `singular_factors`.

    Takes a model's place wherever this package looks at singular vectors. A permutation turns U and V and leaves S:
    P W Q^T = (P U) S (Q V)^T, so that one SVD serves any number of matchings. What R is summed from is kept for every
    threshold that was asked for: one more matrix of the weight's size each.
    """

    def __init__(self, layers: Mapping[str, LayerFactors]) -> None:
        self._layers = dict(layers)

    @classmethod
    def of(cls, model: Model, **options: object) -> SpectralFactors:
        """As `singular_factors`."""
        return singular_factors(model, **options)  # type: ignore[arg-type]

    def __getitem__(self, name: str) -> LayerFactors:
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __repr__(self) -> str:
        return f"SpectralFactors({len(self)} weights)"

    def only(self, parameters: Sequence[str]) -> SpectralFactors:
        """The factors of some of the weights, in this order. ValueError for a name that is not here."""
        return SpectralFactors({name: self[name] for name in check_names(parameters, self)})

    @property
    def values(self) -> dict[str, Tensor]:  # type: ignore[override]
        """Singular values by weight."""
        return {name: layer.s for name, layer in self._layers.items()}


def singular_factors(
    model: Model,
    *,
    parameters: Sequence[str] | None = None,
    spec: PermutationSpec | None = None,
    device: torch.device | str | None = None,
    progress: Progress = False,
) -> SpectralFactors:
    """The singular value decompositions of a model's weights.

    Args:
        model: a module or a state dict; not changed.
        parameters: names of weights; None: every one with two dimensions or more. A convolution is taken as
            [out, in * kernel] (a transposed one as [in, out * kernel]), like every weight: first axis by the rest.
        spec: needed only where it takes several dimensions as one axis (stacked experts).
        device: where to compute and keep the factors; None: where the weights are.
        progress: True for a bar, or a function (description, done, total).

    Returns:
        `SpectralFactors`, in float64 for float64 weights, else in float32.

    Raises:
        TypeError, ValueError: an argument that does not fit the above, or weights that are not finite.
    """
    where = check_device("device", device)
    if spec is not None:
        check_type("spec", spec, PermutationSpec, "a PermutationSpec")
        spec = spec.bind(model)
    matrices = matrices_of("model", model, parameters, spec)
    found: dict[str, LayerFactors] = {}
    with tracking(progress, "singular vectors", len(matrices)) as advance:
        for names in _batches(matrices):
            stack = torch.stack([_ready(matrices[name], where) for name in names])
            # [batch, rows, r], [batch, r], [batch, r, columns]
            u, s, vh = torch.linalg.svd(stack, full_matrices=False)
            for k, name in enumerate(names):
                found[name] = LayerFactors(name, matrices[name], u[k], s[k], vh[k].T)
                advance(name)
    return SpectralFactors({name: found[name] for name in matrices})


def _ready(matrix: Tensor, device: torch.device | None) -> Tensor:
    return matrix.to(device or matrix.device, accumulate_dtype(matrix.dtype))


def _batches(matrices: Mapping[str, Tensor]) -> Iterator[list[str]]:
    """Names of matrices of one shape, dtype and device, few enough to be stacked."""
    alike: dict[object, list[str]] = {}
    for name, matrix in matrices.items():
        alike.setdefault((matrix.shape, accumulate_dtype(matrix.dtype), matrix.device), []).append(name)
    for names in alike.values():
        step = max(1, _AT_ONCE // matrices[names[0]].numel())
        for start in range(0, len(names), step):
            yield names[start : start + step]

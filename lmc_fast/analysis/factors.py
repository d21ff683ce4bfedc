"""Singular vectors and values of a model's weights, kept so that other matchings need no other SVD."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .._backend import check_device
from .._checks import check_finite, check_type
from .._models import Model, accumulate_dtype, tensors_of
from .._modes import neutral
from .._progress import Progress, tracking
from .._wrappers import met
from ..ops.spectral_overlap.naive import counted
from ..symmetry import PermutationSpec, Transforms, check_pure
from ..symmetry.transforms import Choice
from .layers import check_names, gathers_of, matrices_of, moved_columns, moved_rows
from .truncated import largest_factors

__all__ = ["LayerFactors", "SpectralFactors", "decomposed_pair", "laid_over", "matrices_of_both", "singular_factors"]

# Entries of matrices of one shape that are decomposed in one call.
_AT_ONCE = 1 << 24


@dataclass(frozen=True, eq=False)
class LayerFactors:
    """One weight as a matrix W = U S V^T, its r = min(rows, columns) singular values falling, or the first r of them.

    Attributes:
        name: of the parameter.
        weight: the matrix [rows, columns], in the model's dtype and where the model is; not copied where it can be
            a view.
        u: [rows, r], left singular vectors as columns.
        s: [r].
        v: [columns, r], right singular vectors as columns.
        gamma: they are all that take part in R at this threshold and above; 0: all.
    """

    name: str
    weight: Tensor = field(repr=False)
    u: Tensor = field(repr=False)
    s: Tensor = field(repr=False)
    v: Tensor = field(repr=False)
    gamma: float = 0.0
    _isometries: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.weight.shape[0], self.weight.shape[1]

    def kept(self, gamma: float) -> int:
        """How many singular values take part in R(gamma): the first so many.

        Raises:
            ValueError: for a threshold below the one for which they were computed.
        """
        self.check_reaches(gamma)
        return int(counted(self.s, gamma, max(self.shape), min(self.shape)).sum())

    def check_reaches(self, gamma: float) -> None:
        """ValueError unless these are all the factors that take part in R(gamma)."""
        if gamma < self.gamma:
            raise ValueError(
                f"factors must reach down to gamma = {gamma:g}, but those of {self.name!r} were computed for "
                f"gamma = {self.gamma:g} and above: use singular_factors(model, gamma={gamma:g})"
            )

    def down_to(self, gamma: float) -> LayerFactors:
        """Those alone that take part in R(gamma), in memory of their own."""
        kept = self.kept(gamma)
        u, s, v = self.u[:, :kept].clone(), self.s[:kept].clone(), self.v[:, :kept].clone()
        return LayerFactors(self.name, self.weight, u, s, v, gamma)

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

    Takes a model's place wherever this package looks at singular vectors. A permutation, as a rotation, turns U and V
    and leaves S: P W Q^T = (P U) S (Q V)^T, so that one SVD serves any number of matchings. What R is summed from is
    kept for every threshold that was asked for: one more matrix of the weight's size each.
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
        """Singular values by weight: those that were computed."""
        return {name: layer.s for name, layer in self._layers.items()}


@neutral
def singular_factors(
    model: Model,
    *,
    parameters: Sequence[str] | None = None,
    spec: PermutationSpec | None = None,
    gamma: float = 0.0,
    device: torch.device | str | None = None,
    progress: Progress = False,
) -> SpectralFactors:
    """The singular value decompositions of a model's weights.

    Args:
        model: a module or a state dict; not changed.
        parameters: names of weights; None: every one with two dimensions or more. A convolution is taken as
            [out, in * kernel] (a transposed one as [in, out * kernel]), like every weight: first axis by the rest.
        spec: needed only where it takes several dimensions as one axis (stacked experts).
        gamma: from 0 to 1; above 0 those singular values alone that are at least gamma times the largest of their
            weight: enough for R at this threshold and above, and for nothing else. Where they are few that is several
            times as fast; that none is missing is proven, else the whole decomposition is computed and cut.
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
    gamma = check_finite("gamma", gamma)
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must be from 0 to 1, got {gamma}")
    return decomposed(matrices_of("model", model, parameters, spec), gamma, where, progress)


def decomposed(
    matrices: Mapping[str, Tensor], gamma: float, device: torch.device | None, progress: Progress
) -> SpectralFactors:
    """The factors of matrices by name, down to `gamma`; those of one shape are decomposed together."""
    found: dict[str, LayerFactors] = {}
    with tracking(progress, "singular vectors", len(matrices)) as advance:
        for names in _batches(matrices):
            ready = {name: _ready(matrices[name], device) for name in names}
            few = {name: largest_factors(matrix, gamma) if gamma else None for name, matrix in ready.items()}
            for name, factors in few.items():
                if factors is not None:
                    found[name] = LayerFactors(name, matrices[name], *factors, gamma=gamma)
                    advance(name)
            rest = [name for name in names if few[name] is None]
            if not rest:
                continue
            # [batch, rows, r], [batch, r], [batch, r, columns]
            u, s, vh = torch.linalg.svd(torch.stack([ready[name] for name in rest]), full_matrices=False)
            for k, name in enumerate(rest):
                whole = LayerFactors(name, matrices[name], u[k], s[k], vh[k].T)
                found[name] = whole.down_to(gamma) if gamma else whole
                advance(name)
    return SpectralFactors({name: found[name] for name in matrices})


def decomposed_pair(
    model_a: Model | SpectralFactors,
    model_b: Model | SpectralFactors,
    choice: Choice | None,
    parameters: Sequence[str] | None,
    device: torch.device | None,
    progress: Progress,
    gamma: float = 0.0,
) -> tuple[SpectralFactors, SpectralFactors]:
    """The factors of two models over the same weights, down to `gamma` at least.

    Raises:
        ValueError: before anything is decomposed, for weights that differ, or factors that end above `gamma`.
    """
    a, b = matrices_of_both(model_a, model_b, choice, parameters)
    held = [SpectralFactors(met(m, a)) if isinstance(m, SpectralFactors) else None for m in (model_a, model_b)]
    for factors in held:
        if factors is not None:
            for name in a:
                factors[name].check_reaches(gamma)
    given_a, given_b = (
        decomposed(matrices, gamma, device, progress) if factors is None else factors.only(list(a))
        for factors, matrices in zip(held, (a, b), strict=True)
    )
    return given_a, given_b


def matrices_of_both(
    model_a: Model | SpectralFactors,
    model_b: Model | SpectralFactors,
    choice: Choice | None,
    parameters: Sequence[str] | None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of both as matrices: those of model a, or the ones named."""
    a = _matrices("model_a", model_a, choice, parameters)
    b = met(_matrices("model_b", model_b, choice, parameters), a)
    for name, matrix in a.items():
        if name not in b:
            raise ValueError(f"model_b must have the weights of model_a, but lacks {name!r}")
        if b[name].shape != matrix.shape:
            raise ValueError(
                f"model_b must have the shapes of model_a, but {name!r} is {tuple(b[name].shape)} there and "
                f"{tuple(matrix.shape)} in model_a"
            )
    extra = next((name for name in b if name not in a), None)
    if extra is not None and not isinstance(model_a, SpectralFactors):
        raise ValueError(f"model_b must have the weights of model_a, but has {extra!r} as well")
    return a, {name: b[name] for name in a}


def _matrices(
    argument: str,
    model: Model | SpectralFactors,
    choice: Choice | None,
    parameters: Sequence[str] | None,
) -> dict[str, Tensor]:
    if isinstance(model, SpectralFactors):
        chosen = model if parameters is None else model.only(parameters)
        return {name: layer.weight for name, layer in chosen.items()}
    spec = None
    if choice is not None:
        tensors = tensors_of(argument, model)
        spec = choice.spec.bind(tensors)
        check_pure(argument, tensors, spec)
    return matrices_of(argument, model, parameters, spec)


def laid_over(choice: Choice | None, layer: LayerFactors) -> tuple[LayerFactors, tuple[Tensor | None, Tensor | None]]:
    """A weight of model b as a choice lays it: its factors, and what gathers their rows and columns.

    Permutations leave the factors, and gather. Of elements of other kinds the factors are turned, and nothing gathers:
    P W Q^T = (P U) S (Q V)^T, for orthogonal P and Q no less, so that singular values stay and no SVD is made.

    Raises:
        ValueError: as `gathers_of`.
    """
    if not isinstance(choice, Transforms):
        return layer, gathers_of(choice, layer.name, layer.shape)
    name, shape = layer.name, layer.shape
    u, v = moved_rows(choice, name, shape, layer.u), moved_columns(choice, name, shape, layer.v)
    weight = moved_columns(choice, name, shape, moved_rows(choice, name, shape, layer.weight).T).T
    return LayerFactors(name, weight, u, layer.s, v, layer.gamma), (None, None)


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

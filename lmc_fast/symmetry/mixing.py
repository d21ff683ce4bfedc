"""Units mixed by matrices, and soft permutations: doubly stochastic matrices in the place of permutations."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from .._checks import check_type
from .._models import ModelT, accumulate_dtype
from .._modes import neutral
from .._tensors import FLOATS, plain
from .applying import applied
from .groups import Segment, axis_size
from .placing import laid, placed
from .spec import PermutationSpec

__all__ = ["SoftPermutations", "mixed"]

# How far a row or a column may be from a sum of 1: what float32 and Sinkhorn's tolerance leave.
TOLERANCE = 1e-2


class SoftPermutations(Mapping[str, Tensor]):
    """A doubly stochastic matrix for every group of a bound spec: a mapping from group names to tensors.

    ``soft[group][u, i, j]`` is how much of unit j is put at place i, in the unit u of the group's owner (one for a
    group that nothing owns), u before the owner itself is moved. Rows and columns sum to 1. Where all entries are 0 or
    1 it is a permutation. Anything between is no symmetry: ``apply`` gives a model of other, averaged units.

    Args:
        spec: bound, of permutations alone.
        matrices: by group, [owner units, size, size], or [size, size] where nothing owns it; copied.

    Raises:
        TypeError: matrices that are no floating point tensors.
        ValueError: a group that is missing or unknown, another shape, negative entries, or rows or columns that do not
            sum to 1.
    """

    def __init__(self, spec: PermutationSpec, matrices: Mapping[str, Any]) -> None:
        check_type("spec", spec, PermutationSpec, "a PermutationSpec")
        check_type("matrices", matrices, Mapping, "a mapping from group names to tensors")
        spec.check_only_permutes("SoftPermutations")
        odd = sorted(matrices.keys() ^ spec.groups.keys())
        if odd:
            raise ValueError(f"matrices must have one entry for each group, but {odd[0]!r} is in one of the two alone")
        self.spec = spec
        self._matrices = {name: _checked(name, spec, matrices[name]) for name in spec.groups}

    def __getitem__(self, group: str) -> Tensor:
        return self._matrices[group].clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._matrices)

    def __len__(self) -> int:
        return len(self._matrices)

    def __repr__(self) -> str:
        return f"SoftPermutations({len(self)} groups, {100 * self.hardness:.1f} % hard)"

    @property
    def hardness(self) -> float:
        """The mean, over all rows, of their sums of squares: 1 for permutations, 1 / size where all units are alike."""
        rows = torch.cat([matrix.double().square().sum(dim=2).reshape(-1) for matrix in self._matrices.values()])
        return float(rows.mean())

    def apply_to(self, parameter: str, tensor: Tensor) -> Tensor:
        """A new tensor: `tensor` mixed on every axis; same shape, dtype and device. Integers stay as they are."""
        if tensor.dtype not in FLOATS:
            return tensor.clone()
        dtype = accumulate_dtype(tensor.dtype)
        used = {name for axis in self.spec.axes_of(parameter) for name in axis.groups}
        matrices = {name: self._matrices[name].to(tensor.device, dtype) for name in used}
        return mixed(self.spec, parameter, tensor.to(dtype, copy=True), matrices).to(tensor.dtype)

    @neutral
    def apply(self, model: ModelT) -> ModelT:
        """A new model with mixed units, of the kind, the dtypes and the devices of `model`, which stays as it was.

        Raises:
            TypeError: `model` is neither a module nor a state dict.
            ValueError: the model does not fit the spec.
        """
        return applied(self, model)

    def bound_to(self, spec: PermutationSpec) -> SoftPermutations:
        """The same matrices, for a spec of the same groups."""
        return SoftPermutations(spec, self._matrices)


def _checked(name: str, spec: PermutationSpec, given: Any) -> Tensor:
    if not isinstance(given, Tensor) or not given.is_floating_point():
        raise TypeError(f"matrices[{name!r}] must be a floating point tensor, got {type(given).__name__}")
    matrix = plain(f"matrices[{name!r}]", given).clone()
    size = spec.sizes[name]
    owners = spec.units(name) // size
    if owners == 1 and matrix.shape == (size, size):
        matrix = matrix[None]
    if matrix.shape != (owners, size, size):
        raise ValueError(f"matrices[{name!r}] must be of shape {(owners, size, size)}, got {tuple(given.shape)}")
    sums = torch.cat([matrix.double().sum(dim=1), matrix.double().sum(dim=2)])
    if not (bool((matrix >= 0).all()) and bool(((sums - 1).abs() <= TOLERANCE).all())):
        raise ValueError(f"matrices[{name!r}] must be 0 or more, and all rows and columns sum to 1")
    return matrix


def mixed(
    spec: PermutationSpec,
    parameter: str,
    tensor: Tensor,
    matrices: Mapping[str, Tensor],
    axes: Collection[int] | None = None,
) -> Tensor:
    """A parameter whose units are mixed by matrices on every axis: for permutation matrices, permuted.

    Args:
        spec: bound.
        parameter: its name in the spec.
        tensor: the parameter.
        matrices: for every group [owner units, size, size] in the tensor's dtype: row, the place; column, the unit. For
            a group that another owns one matrix for each unit of the owner, the unit before it is moved.
        axes: numbers of the axes to mix; None: all.

    Returns:
        A tensor of the same shape; `tensor` itself where no axis carries a group.
    """
    mix = spec.view(parameter, tensor)
    for dim, axis in enumerate(spec.axes_of(parameter)):
        if not axis.is_fixed and (axes is None or dim in axes):
            front = mix.movedim(dim, 0)
            flat = _mixed_segments(spec, front.reshape(front.shape[0], -1), axis.segments, (), matrices)
            mix = flat.reshape(front.shape).movedim(0, dim)
    return mix.reshape(tensor.shape)


def _mixed_segments(
    spec: PermutationSpec,
    entries: Tensor,
    segments: tuple[Segment, ...],
    around: tuple[str, ...],
    matrices: Mapping[str, Tensor],
) -> Tensor:
    """Segments within one unit of the groups around them, for each of their units.

    Args:
        entries: [units of each group around..., entries, rest].
        around: the groups that the segments lie inside, outermost first.
    """
    places, rest = entries.shape[:-2], entries.shape[-1]
    parts, lie = [], placed(segments, spec.sizes)
    for place in lie:
        segment, length = place.segment, place.length
        part = place.of(entries, -2)
        if segment.group is not None:
            units, outer = spec.sizes[segment.group], segment.outer
            inner = axis_size(segment.parts, spec.sizes)
            # [around..., outer, units, inner, rest] -> [around..., units, inner, outer, rest]
            inside = part.reshape(*places, outer, units, inner, rest).movedim(len(places), -2).flatten(-2)
            if isinstance(segment.inner, tuple):
                inside = _mixed_segments(spec, inside, segment.inner, (*around, segment.group), matrices)
            moved = _matrices_within(spec, segment.group, around, matrices) @ inside.flatten(-2)
            part = moved.reshape(*places, units, inner, outer, rest).movedim(-2, len(places))
            part = part.reshape(*places, length, rest)
        parts.append(part)
    return laid(parts, lie, -2)


def _matrices_within(
    spec: PermutationSpec, group: str, around: tuple[str, ...], matrices: Mapping[str, Tensor]
) -> Tensor:
    """A group's matrices by the units of the groups around it, of length 1 at those that do not own it."""
    owners = spec.chain(group)[:-1]
    shape = [spec.sizes[name] if name in owners else 1 for name in around]
    return matrices[group].reshape(*shape, *matrices[group].shape[1:])

"""The weights of a model as matrices, and how a choice moves their rows and columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .._checks import check_type, fail_type
from .._derived import derived_weights, effective_tensors, main_source
from .._models import Model, check_numbers, counted_names, tensors_of
from .._wrappers import met_name, unwrapped
from ..symmetry import Permutations, PermutationSpec
from ..symmetry.groups import axis_size
from ..symmetry.transforms import Choice, moved_along

__all__ = ["check_names", "gathers_of", "matrices_of", "moved_columns", "moved_rows"]


def matrices_of(
    argument: str, model: Model, parameters: Sequence[str] | None, spec: PermutationSpec | None
) -> dict[str, Tensor]:
    """The weights as matrices [first axis, all others], by name; views of the model's tensors where they can be.

    Weights are those that the function sees: one that is normalised, pruned or parametrised goes by its layer's name
    for it, and what it is computed from is left out.

    Args:
        argument: what the caller calls the model.
        parameters: names of weights; None: every one with two dimensions or more, tied ones once. What a weight is
            computed from may stand for it.
        spec: says which dimensions are one axis (stacked experts); None: each is an axis of its own.

    Raises:
        TypeError, ValueError: names that the model lacks or that are no matrices, and weights that are no finite
            numbers.
    """
    tensors = tensors_of(argument, model)
    derived = derived_weights(unwrapped(argument, model) if isinstance(model, nn.Module) else model, tensors)
    tensors = effective_tensors(tensors, derived)
    counted = [name for name in counted_names(model, tensors) if tensors[name].ndim > 1 and tensors[name].numel()]
    names = counted
    if parameters is not None:
        known = {source: one.name for one in derived for source in one.sources} | {name: name for name in tensors}
        names = list(dict.fromkeys(known[name] for name in check_names(parameters, known)))
    found = {}
    for name in names:
        tensor = tensors[name]
        told = None if spec is None else named_axes(spec, name)
        if spec is not None and told is not None:
            tensor = spec.view(told, tensor)
        if not tensor.is_floating_point() or tensor.ndim < 2 or tensor.numel() == 0:
            if parameters is None:
                continue
            raise ValueError(
                f"parameters must name weights with two axes at least, but {name!r} is {tuple(tensor.shape)}, "
                f"{tensor.dtype}"
            )
        check_numbers(argument, {name: tensor})
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{argument}[{name!r}] must hold finite numbers, and does not")
        found[name] = tensor.reshape(tensor.shape[0], -1)
    if not found:
        raise ValueError(f"{argument} must have a weight with two axes at least, got none")
    return found


def check_names(parameters: object, known: Mapping[str, object]) -> list[str]:
    """The known names that `parameters` names, each once; ValueError for one that is not among them."""
    if isinstance(parameters, str) or not isinstance(parameters, Sequence):
        fail_type("parameters", "a sequence of names or None", parameters)
    found = []
    for name in parameters:
        check_type("parameters", name, str, "a sequence of names or None")
        other = met_name(name, known)
        if other is None:
            raise ValueError(f"parameters must name weights of the model, got {name!r}")
        found.append(other)
    if not parameters:
        raise ValueError("parameters must name one weight at least, got none")
    return list(dict.fromkeys(found))


def named_axes(spec: PermutationSpec, name: str) -> str | None:
    """The spec's name for a weight, or for what it is computed from along the same axes; None where it has neither."""
    found = met_name(name, spec.axes)
    return main_source(name, spec.axes) if found is None else found


def gathers_of(choice: Choice | None, name: str, shape: tuple[int, int]) -> tuple[Tensor | None, Tensor | None]:
    """Indices that gather the rows and the columns of a weight's matrix; None where nothing moves.

    Args:
        choice: of permutations alone.
        shape: of the matrix, as `matrices_of` makes it.

    Raises:
        ValueError: a weight that the spec lacks, or one of another shape.
    """
    if choice is None:
        return None, None
    told, sizes = _told(choice.spec, name, shape)
    assert isinstance(choice, Permutations)
    rows, *rest = choice.gathers(told)
    if all(index is None for index in rest):
        return rows, None
    flat = torch.zeros(1, dtype=torch.int64)
    for size, index in zip(sizes[1:], rest, strict=True):
        places = torch.arange(size) if index is None else index
        # [columns so far, size]
        flat = (flat.unsqueeze(1) * size + places).reshape(-1)
    return rows, flat


def moved_rows(choice: Choice, name: str, shape: tuple[int, int], left: Tensor) -> Tensor:
    """What lies along the rows of a weight's matrix of this shape, [rows, any], moved as these are.

    Raises:
        ValueError: as `gathers_of`.
    """
    told, _ = _told(choice.spec, name, shape)
    return moved_along(choice, told, 0, left, 0)


def moved_columns(choice: Choice, name: str, shape: tuple[int, int], right: Tensor) -> Tensor:
    """As `moved_rows`, of what lies along the columns: [columns, any]."""
    told, sizes = _told(choice.spec, name, shape)
    split = right.reshape(*sizes[1:], right.shape[1])
    for axis in range(1, len(sizes)):
        split = moved_along(choice, told, axis, split, axis - 1)
    return split.reshape(right.shape)


def _told(spec: PermutationSpec, name: str, shape: tuple[int, int]) -> tuple[str, list[int]]:
    """The spec's name for a weight, and the sizes of its axes; ValueError for one that is not this matrix."""
    told = named_axes(spec, name)
    if told is None:
        raise ValueError(f"match must be for these models, but its spec lacks parameter {name!r}")
    sizes = [axis_size(axis.segments, spec.sizes) for axis in spec.axes[told]]
    there = (sizes[0], math.prod(sizes[1:]))
    if there != shape:
        raise ValueError(f"match must be for these models, but {name!r} is {shape} as a matrix here and {there} there")
    return told, sizes

"""A spec and a model side by side: sizes are taken from the model, and the two have to fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from .._models import STATISTICS, tensor_identity
from .._tensors import FLOATS, identities
from .._wrappers import canonical, met
from .folds import Centre, Fold, renamed
from .groups import Axis, AxisLike, Group, Segment, axis_size, walk
from .placing import placed

__all__ = [
    "add_statistics",
    "bound_axes",
    "bound_unsaved",
    "check_names",
    "check_tied",
    "infer_sizes",
    "met_folds",
    "sized",
    "with_rest",
]


def with_rest(axes: Mapping[str, Sequence[AxisLike]], tensors: Mapping[str, Tensor]) -> dict[str, Sequence[AxisLike]]:
    """Axes of all parameters: those that are left out are fixed."""
    met_axes = met(axes, tensors)
    of_tied = {tensor_identity(tensors[name]): entries for name, entries in met_axes.items() if name in tensors}
    found = dict(met_axes)
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        if name in found or not tensor.is_floating_point():
            continue
        if kind in STATISTICS and (f"{layer}.weight" if layer else "weight") in met_axes:
            continue
        found[name] = of_tied.get(tensor_identity(tensor), (None,) * tensor.ndim)
    return found


def bound_unsaved(
    axes: Mapping[str, tuple[Axis, ...]], buffers: Mapping[str, Tensor], sizes: Mapping[str, int]
) -> dict[str, tuple[Axis, ...]]:
    for name in axes:
        if name not in buffers:
            raise ValueError(f"the spec names buffer {name!r}, which the model lacks, or has in its state dict")
    _check_dims(axes, buffers)
    return {name: bound_axes(name, entries, buffers[name], sizes) for name, entries in axes.items()}


def check_names(axes: Mapping[str, tuple[Axis, ...]], tensors: Mapping[str, Tensor]) -> None:
    for name in axes:
        if name not in tensors:
            raise ValueError(f"the spec names parameter {name!r}, which the model lacks")
    _check_dims(axes, tensors)
    for name, tensor in tensors.items():
        if name not in axes and tensor.dtype in FLOATS:
            raise ValueError(
                f"the model has parameter {name!r} {tuple(tensor.shape)}, which the spec leaves out; "
                "name it, with None for its fixed axes"
            )


def _check_dims(axes: Mapping[str, tuple[Axis, ...]], tensors: Mapping[str, Tensor]) -> None:
    for name, entries in axes.items():
        dims = sum(axis.dims for axis in entries)
        if dims != tensors[name].ndim:
            raise ValueError(
                f"parameter {name!r} has {tensors[name].ndim} dimensions {tuple(tensors[name].shape)}, "
                f"but the spec names {dims}"
            )


def _dim_sizes(axes: tuple[Axis, ...], tensor: Tensor) -> list[int]:
    """Entries of each axis, as the tensor has it."""
    sizes, start = [], 0
    for axis in axes:
        size = 1
        for extent in tensor.shape[start : start + axis.dims]:
            size *= extent
        sizes.append(size)
        start += axis.dims
    return sizes


def add_statistics(axes: dict[str, tuple[Axis, ...]], tensors: Iterable[str]) -> None:
    """Give running statistics that are not named the axis of their layer's weight."""
    for name in tensors:
        layer, _, kind = name.rpartition(".")
        weight = f"{layer}.weight" if layer else "weight"
        if name not in axes and kind in STATISTICS and weight in axes:
            axes[name] = axes[weight]


def met_folds(folds: Iterable[Fold | Centre], names: Iterable[str]) -> tuple[Fold | Centre, ...]:
    """Folds under the names that a model has for their parameters."""
    theirs = {canonical(name): name for name in names}
    return tuple(renamed(fold, lambda name: theirs.get(canonical(name), name)) for fold in folds)


def infer_sizes(
    groups: Mapping[str, Group], axes: Mapping[str, tuple[Axis, ...]], tensors: Mapping[str, Tensor]
) -> dict[str, int]:
    """Sizes of all groups: those given, and those that an axis with a single open group settles."""
    sizes = {name: group.size for name, group in groups.items() if group.size is not None}
    if len(sizes) == len(groups):
        return sizes
    pending = [
        (name, position, axis, extent)
        for name, entries in axes.items()
        for position, (axis, extent) in enumerate(zip(entries, _dim_sizes(entries, tensors[name]), strict=True))
        if not axis.is_fixed
    ]
    while any(name not in sizes for name in groups):
        settled = False
        for parameter, position, axis, extent in pending:
            unknown = {name for name in axis.groups if name not in sizes}
            if len(unknown) != 1:
                continue
            name = unknown.pop()
            # The axis has `rest` entries without the group and `each` more for every unit of it.
            rest = axis_size(axis.segments, {**sizes, name: 0})
            each = axis_size(axis.segments, {**sizes, name: 1}) - rest
            if extent <= rest or (extent - rest) % each != 0:
                beside = f", beside {rest} others" if rest else ""
                raise ValueError(
                    f"axis {position} of parameter {parameter!r} has {extent} entries, which is no whole number of "
                    f"units of group {name!r} at {each} entries each{beside}"
                )
            sizes[name] = (extent - rest) // each
            settled = True
        if not settled:
            open_groups = [name for name in groups if name not in sizes]
            raise ValueError(f"nothing in the model settles the size of group {open_groups[0]!r}: give it")
    return sizes


def sized(groups: Mapping[str, Group], sizes: Mapping[str, int]) -> dict[str, Group]:
    return {
        name: group if group.size == sizes[name] else replace(group, size=sizes[name]) for name, group in groups.items()
    }


def bound_axes(name: str, axes: tuple[Axis, ...], tensor: Tensor, sizes: Mapping[str, int]) -> tuple[Axis, ...]:
    bound = []
    for position, (axis, extent) in enumerate(zip(axes, _dim_sizes(axes, tensor), strict=True)):
        if axis.segments == (Segment(),):
            bound.append(replace(axis, segments=(Segment.fixed(extent),)))
            continue
        size = axis_size(axis.segments, sizes)
        if size != extent:
            parts = ", ".join(f"group {g!r} of {sizes[g]} units" for g in axis.groups) or "fixed entries"
            hint = ""
            if len(axis.groups) == 1 == len(axis.segments) and size and extent % size == 0:
                hint = (
                    f"; if each unit owns {extent // size} neighbouring entries (a flatten after a convolution), "
                    f"write Segment({axis.segments[0].group!r}, inner={extent // size})"
                )
            raise ValueError(
                f"axis {position} of parameter {name!r} has {extent} entries, but the spec makes it {size}: "
                f"{parts}{hint}"
            )
        # Segments that lie end to end leave nothing out.
        if not all(segment.is_in_one for segment in walk(axis.segments)):
            try:
                for around in (axis.segments, *(each.parts for each in walk(axis.segments))):
                    placed(around, sizes)
            except ValueError as error:
                raise ValueError(f"axis {position} of parameter {name!r}: {error}") from None
        bound.append(axis)
    return tuple(bound)


def check_tied(axes: Mapping[str, tuple[Axis, ...]], tensors: Mapping[str, Tensor]) -> None:
    """A tensor with two names moves once: both must say the same of it."""
    first: dict[object, str] = {}
    found = identities([tensors[name] for name in axes])
    for (name, entries), identity in zip(axes.items(), found, strict=True):
        other = first.setdefault(identity, name)
        if entries != axes[other]:
            raise ValueError(f"{other!r} and {name!r} are one tied tensor, but the spec gives them different axes")

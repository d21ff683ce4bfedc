"""Specs as research code has them: a pair of plain dicts, under the names of either of two families of code.

git-re-basin and what grew from it call the halves ``perm_to_axes`` and ``axes_to_perm``; C2M3 calls them
``perm_to_layers_and_axes`` and ``layer_and_axes_to_perm``. Whatever class a script brings, its halves are found here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import symmetry
from .._checks import check_type, fail_type
from .._models import STATISTICS
from .structures import derived

__all__ = [
    "Axes",
    "DerivedSpec",
    "LacksError",
    "PermutationSpec",
    "Places",
    "axes_of",
    "counted",
    "derived_spec",
    "engine_spec",
    "entries_a_unit",
    "entry",
    "full_axes",
    "halves_of",
    "is_counter",
    "is_spec",
    "permutation_spec_from_axes_to_perm",
    "random_inputs",
    "whole_of",
]

Places = dict[str, list[tuple[str, int]]]
Axes = dict[str, tuple[str | None, ...]]

FIELDS = (("perm_to_axes", "axes_to_perm"), ("perm_to_layers_and_axes", "layer_and_axes_to_perm"))
# Counts batches; many specs in use give it an axis.
COUNTER = "num_batches_tracked"


class PermutationSpec(NamedTuple):
    """What may be permuted.

    Attributes:
        perm_to_axes: for every permutation the (parameter, axis) pairs that it moves; what is listed here counts.
        axes_to_perm: for every parameter and axis the permutation that moves it, or None.
    """

    perm_to_axes: Places
    axes_to_perm: Axes


class DerivedSpec(PermutationSpec):
    """What `lmc_fast.derive_spec` found in a model, to be read as a pair of dicts.

    Where a unit has several entries on an axis (behind a flatten), or a permutation goes inside another (a head's
    dimensions), the dicts name the permutation alone. How it moves the axis is in `whole`, and the functions of this
    package go by that.

    Attributes:
        whole: the spec as the engine has it.
    """

    whole: symmetry.PermutationSpec


class LacksError(KeyError, ValueError):
    """What scripts catch as a KeyError, with a message that reads as one."""

    def __str__(self) -> str:
        return str(self.args[0])


def permutation_spec_from_axes_to_perm(axes_to_perm: Axes) -> PermutationSpec:
    """A spec from its second half: every axis that moves counts."""
    check_type("axes_to_perm", axes_to_perm, Mapping, "a dict from parameter names to tuples")
    return PermutationSpec(_places(axes_to_perm), axes_to_perm)


def derived_spec(
    model: nn.Module, example_inputs: Any, *, leave_out: Sequence[str] = (), argument: str = "leave_out"
) -> DerivedSpec:
    """The spec that `lmc_fast.derive_spec` finds in a model.

    Args:
        model: left as it is.
        example_inputs: as of `lmc_fast.derive_spec`.
        leave_out: names of permutations whose units are to stay where they are.
        argument: what the caller calls `leave_out`.

    Raises:
        ValueError: a name in `leave_out` that no permutation has, or what `derive_spec` says.
    """
    whole = derived(model, example_inputs)
    for name in leave_out:
        if name not in whole.groups:
            known = ", ".join(map(repr, whole.groups)) or "none"
            raise ValueError(f"{argument} must hold names of permutations of this model ({known}), got {name!r}")
    if leave_out:
        whole = whole.edit(pin=leave_out)
    axes: Axes = {name: tuple(_first(axis) for axis in entries) for name, entries in whole.axes.items()}
    places: Places = {name: [] for name in whole.groups}
    for name, entries in whole.axes.items():
        for position, axis in enumerate(entries):
            for group in axis.groups:
                # Scripts take a permutation's length from where it is listed first.
                here = (name, position)
                places[group].insert(0, here) if _is_plain(axis, group) else places[group].append(here)
    spec = DerivedSpec(places, axes)
    spec.whole = whole
    return spec


def _first(axis: symmetry.Axis) -> str | None:
    return axis.groups[0] if axis.groups else None


def _is_plain(axis: symmetry.Axis, group: str) -> bool:
    return axis == symmetry.Axis((symmetry.Segment(group),))


def _places(axes_to_perm: Mapping[str, tuple[str | None, ...]]) -> Places:
    places: Places = {}
    for name, axes in axes_to_perm.items():
        for axis, perm in enumerate(axes):
            if perm is not None:
                places.setdefault(perm, []).append((name, axis))
    return places


def is_spec(value: object) -> bool:
    """Whether this has the halves of a spec, under either names: scripts often bring a class of their own."""
    return any(all(hasattr(value, half) for half in halves) for halves in FIELDS)


def halves_of(ps: Any) -> tuple[Mapping[str, Sequence[tuple[str, int]]], Mapping[str, tuple[str | None, ...]]]:
    """(permutations to axes, axes to permutations); TypeError for what is no spec."""
    fields = next((halves for halves in FIELDS if all(hasattr(ps, half) for half in halves)), None)
    if fields is None:
        fail_type("ps", "a PermutationSpec", ps)
    return getattr(ps, fields[0]), getattr(ps, fields[1])


def entry(argument: str, entries: Mapping[str, Any], name: str) -> Any:
    """`entries[name]`, or the KeyError that names the argument."""
    if name not in entries:
        raise LacksError(f"{argument} must have an entry for every name in ps, but lacks {name!r}")
    return entries[name]


def is_counter(name: str) -> bool:
    """Whether this counts batches, and has no units."""
    return name.rpartition(".")[2] == COUNTER


def axes_of(axes_to_perm: Mapping[str, tuple[str | None, ...]], k: str) -> tuple[str | None, ...] | None:
    """The permutation of each axis of a parameter, or of a BatchNorm buffer beside one; None: nothing is known."""
    if is_counter(k):
        return ()
    if k in axes_to_perm:
        return axes_to_perm[k]
    layer, _, kind = k.rpartition(".")
    weight = f"{layer}.weight" if layer else "weight"
    if kind in STATISTICS and weight in axes_to_perm:
        return axes_to_perm[weight]
    return None


def counted(ps: Any) -> list[str]:
    """Parameters that count, after a look at whether the halves of the spec agree on them."""
    perm_to_axes, axes_to_perm = halves_of(ps)
    listed = ((name, axis, p) for p, places in perm_to_axes.items() for name, axis in places)
    forward = {(name, axis): p for name, axis, p in listed if not is_counter(name)}
    names = list(dict.fromkeys(name for name, _ in forward))
    halves = {name: entry("ps.axes_to_perm", axes_to_perm, name) for name in names}
    backward = {(name, axis): p for name, axes in halves.items() for axis, p in enumerate(axes) if p is not None}
    wrong = next((place for place in [*forward, *backward] if forward.get(place) != backward.get(place)), None)
    if wrong is not None:
        raise ValueError(
            f"ps must say the same in both halves, but axis {wrong[1]} of {wrong[0]!r} belongs to "
            f"{forward.get(wrong)!r} in perm_to_axes and to {backward.get(wrong)!r} in axes_to_perm"
        )
    return names


def engine_spec(
    axes_to_perm: Mapping[str, tuple[str | None, ...]], tensors: Mapping[str, Tensor], *, flattened: bool = False
) -> symmetry.PermutationSpec:
    """The engine's spec of these tensors, each of which the spec names.

    Args:
        flattened: whether the second axis of a matrix may be some times as long as the permutation on it: that is a
            Linear that reads flattened maps, and has so many entries a unit.
    """
    told = tuple(
        (name, full_axes(name, axes_to_perm[name], tensor.ndim), tuple(tensor.shape))
        for name, tensor in tensors.items()
    )
    # Tensors may be tied, which shapes do not tell.
    return _of_shapes(told, flattened).bind(dict(tensors))


# Scripts match models of the same shapes over and over, and many are small.
@lru_cache(maxsize=16)
def _of_shapes(
    told: tuple[tuple[str, tuple[str | None, ...], tuple[int, ...]], ...], flattened: bool
) -> symmetry.PermutationSpec:
    """The spec of tensors with (name, what is on its axes, shape)."""
    sizes: dict[str, int] = {}
    for _, entries, shape in told:
        for p, length in zip(entries, shape, strict=True):
            if p is not None:
                sizes[p] = min(length, sizes.get(p, length))

    def read(shape: tuple[int, ...], axis: int, p: str | None) -> symmetry.Segment | str | None:
        inner = 1 if p is None or not flattened else entries_a_unit(shape, axis, sizes[p])
        return p if inner == 1 else symmetry.Segment(p, inner=inner)

    axes = {name: tuple(read(shape, i, p) for i, p in enumerate(entries)) for name, entries, shape in told}
    like = {name: torch.empty(shape, device="meta") for name, _, shape in told}
    return symmetry.PermutationSpec.from_axes(axes, model=like)


def entries_a_unit(shape: Sequence[int], axis: int, units: int) -> int:
    """How many entries of an axis belong to each unit: 1, but for the inputs of a matrix that reads flattened maps."""
    flat = len(shape) == 2 and axis == 1 and 0 < units < shape[1] and shape[1] % units == 0
    return shape[1] // units if flat else 1


def full_axes(name: str, axes: tuple[str | None, ...], ndim: int) -> tuple[str | None, ...]:
    """One entry for each dimension: specs in use leave out fixed ones at the end, or name some that are not there."""
    full = (*axes, *[None] * ndim)
    if any(p is not None for p in full[ndim:]):
        raise ValueError(f"ps names {len(axes)} axes of {name!r}, which has {ndim}")
    return full[:ndim]


def whole_of(ps: Any) -> symmetry.PermutationSpec | None:
    """The engine's spec of one that was derived; None of others."""
    return ps.whole if isinstance(ps, DerivedSpec) else None


def random_inputs(argument: str, shape: object, model: nn.Module) -> Tensor:
    """Standard normal example inputs of a shape, in the model's dtype and where it is; the same in every call."""
    check_type(argument, shape, Sequence, "a sequence of whole numbers")
    size = [int(length) for length in shape]  # type: ignore[attr-defined]
    like = next(model.parameters(), torch.empty(0))
    dtype = like.dtype if like.dtype.is_floating_point else torch.float32
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, generator=generator).to(like.device, dtype)

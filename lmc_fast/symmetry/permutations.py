"""A choice of permutation for every group, and the one place that knows how a choice moves a parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._checks import check_int, check_type
from .._models import ModelT
from .._modes import neutral
from .applying import applied
from .groups import Segment, axis_size
from .kinds.permutation import checked_places
from .placing import placed
from .spec import PermutationSpec

__all__ = ["Permutations", "axis_index", "units_within"]

Index = NDArray[np.int64]
Choices = Mapping[str, Index]


def axis_index(spec: PermutationSpec, parameter: str, axis: int, choices: Choices) -> Index:
    """Indices that gather one axis of a parameter: entry i of the result is the entry of the original put at i.

    Args:
        spec: bound.
        parameter, axis: which axis; `axis` counts the spec's axes of the parameter.
        choices: for every group, int64 of the spec's `shape(group)`.

    Returns:
        int64 [entries of the axis].
    """
    segments = spec.axes_of(parameter)[axis].segments
    first = segments[0]
    one = len(segments) == 1 and first.outer == 1 and first.inner == 1
    if one and first.group is not None and spec.groups[first.group].owner is None:
        # As most axes are.
        index: Index = choices[first.group].copy()
    else:
        index = _local_index(spec, segments, (), choices)
    return index


def _local_index(
    spec: PermutationSpec, segments: tuple[Segment, ...], around: tuple[str, ...], choices: Choices
) -> Index:
    """Gather indices within one unit of the groups around these segments, for each of their units.

    Args:
        around: the groups that the segments lie inside, outermost first.

    Returns:
        [units of each group around..., entries].
    """
    places = tuple(spec.sizes[name] for name in around)
    found = np.empty((*places, axis_size(segments, spec.sizes)), dtype=np.int64)
    for place in placed(segments, spec.sizes):
        segment, length = place.segment, place.length
        if segment.group is None:
            part = np.broadcast_to(np.arange(length, dtype=np.int64), (*places, length))
        else:
            within = (*around, segment.group)
            choice = units_within(spec, segment.group, within, choices)
            inside = _local_index(spec, segment.parts, within, choices)
            units, entries = inside.shape[-2:]
            starts = np.arange(segment.outer, dtype=np.int64)[:, None, None] * (units * entries)
            # [around..., outer, units, entries]
            index = starts + choice[..., None, :, None] * entries + inside[..., None, :, :]
            part = index.reshape(*places, length)
        place.run.put(found, -1, place.run.at(part))
    return found


def units_within(spec: PermutationSpec, group: str, within: Sequence[str], choices: Choices) -> Index:
    """A group's choice by the units of several groups.

    Args:
        within: groups, the group's owners and itself among them, owners before what they own.

    Returns:
        int64, one dimension for each group of `within`: their sizes at the group's owners and its own, 1 elsewhere.
    """
    chain = spec.chain(group)
    shape = [spec.sizes[name] if name in chain else 1 for name in within]
    return choices[group].reshape(shape)


class Permutations(Mapping[str, Tensor]):
    """One permutation for every group of a bound spec: a mapping from group names to int64 CPU tensors.

    ``perms[group][i]`` is the unit of the permuted model's original that is put at place i, so that
    ``w.index_select(axis, perms[group])`` permutes a plain axis. The choice of an owned group has one row for
    each unit of its owner (`PermutationSpec.shape`): row i holds the places, within whichever owner unit is put
    at i, of the units that are put there. Tensors are copies; writing to one changes nothing here.

    Args:
        spec: bound (`PermutationSpec.bind`).
        choices: integers by group: tensors, arrays or sequences, copied. Groups left out stay in place.

    Raises:
        TypeError: choices that are no integers.
        ValueError: an unknown group, a wrong shape, rows that are no permutation, or a spec with groups of another
            kind, whose choices are `Transforms`.
    """

    def __init__(self, spec: PermutationSpec, choices: Mapping[str, Any] | None = None) -> None:
        check_type("spec", spec, PermutationSpec, "a PermutationSpec")
        choices = {} if choices is None else choices
        check_type("choices", choices, Mapping, "a mapping from group names to permutations")
        spec.check_only_permutes("Permutations")
        for name in choices:
            if name not in spec.groups:
                raise ValueError(f"choices names group {name!r}, which the spec lacks")
        self.spec = spec
        self._choices: dict[str, Index] = {
            name: checked_places(f"choices[{name!r}]", choices[name], spec.shape(name)).numpy()
            if name in choices
            else _identity_choice(spec.shape(name))
            for name in spec.groups
        }
        self._gathers: dict[tuple[Segment, ...], Tensor | None] = {}

    @classmethod
    def identity(cls, spec: PermutationSpec) -> Permutations:
        """The choice that leaves every unit in its place."""
        return cls(spec)

    @classmethod
    def random(cls, spec: PermutationSpec, seed: int = 0) -> Permutations:
        """Uniformly random permutations of every group, from a generator of their own."""
        rng = np.random.default_rng(check_int("seed", seed, 0))
        shapes = {name: spec.shape(name) for name in spec.groups}
        return cls(spec, {name: rng.permuted(_identity_choice(shape), axis=-1) for name, shape in shapes.items()})

    def __getitem__(self, group: str) -> Tensor:
        return torch.from_numpy(self._choices[group].copy())

    def __iter__(self) -> Iterator[str]:
        return iter(self._choices)

    def __len__(self) -> int:
        return len(self._choices)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Permutations):
            return NotImplemented
        return self.spec == other.spec and all(
            np.array_equal(choice, other._choices[name]) for name, choice in self._choices.items()
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Permutations({len(self)} groups, {self.moved} of {self.total} units moved)"

    @property
    def choices(self) -> dict[str, Index]:
        """The choices as numpy arrays, copied."""
        return {name: choice.copy() for name, choice in self._choices.items()}

    def units(self, group: str) -> Tensor:
        """A group's permutation over all its units, those of every owner unit end to end: int64 [units]."""
        return torch.from_numpy(self._flat(group))

    def _flat(self, group: str) -> Index:
        owner = self.spec.groups[group].owner
        choice = self._choices[group]
        if owner is None:
            root: Index = choice.copy()
            return root
        flat: Index = (self._flat(owner)[:, None] * choice.shape[-1] + choice.reshape(-1, choice.shape[-1])).reshape(-1)
        return flat

    @property
    def total(self) -> int:
        """Units in all groups together."""
        return sum(choice.size for choice in self._choices.values())

    @property
    def moved(self) -> int:
        """Units that are not at their own place, over all groups."""
        return sum(int((flat != np.arange(flat.size)).sum()) for flat in (self._flat(name) for name in self._choices))

    @property
    def summary(self) -> str:
        """How many units move, in words."""
        return f"{self.moved} of {self.total} units moved, in {len(self)} groups"

    def index(self, parameter: str, axis: int) -> Tensor:
        """Indices that gather one axis of a parameter: int64 [entries of the axis], on the CPU.

        Args:
            parameter: name in the spec.
            axis: which of the spec's axes of the parameter; the tensor dimension, unless an axis spans several.

        Raises:
            ValueError: a parameter or an axis that the spec does not have.
        """
        if parameter not in self.spec.axes:
            raise ValueError(f"parameter must be one of the spec's, got {parameter!r}")
        if not check_int("axis", axis, 0) < len(self.spec.axes[parameter]):
            raise ValueError(f"axis must be in 0..{len(self.spec.axes[parameter]) - 1} of {parameter!r}, got {axis}")
        return torch.from_numpy(axis_index(self.spec, parameter, axis, self._choices))

    def gathers(self, parameter: str) -> tuple[Tensor | None, ...]:
        """For every axis of a parameter its `index`, or None where nothing on it moves. Not to be written to."""
        return tuple(self._gather(parameter, i) for i in range(len(self.spec.axes_of(parameter))))

    def _gather(self, parameter: str, axis: int) -> Tensor | None:
        # Axes that are split in the same way move in the same way.
        segments = self.spec.axes_of(parameter)[axis].segments
        if segments not in self._gathers:
            index = axis_index(self.spec, parameter, axis, self._choices)
            moves = bool((index != np.arange(len(index))).any())
            self._gathers[segments] = torch.from_numpy(index) if moves else None
        return self._gathers[segments]

    def apply_to(self, parameter: str, tensor: Tensor) -> Tensor:
        """A new tensor: `tensor` with every axis gathered; same shape, dtype and device."""
        view = self.spec.view(parameter, tensor)
        for axis, index in enumerate(self.gathers(parameter)):
            if index is not None:
                view = view.index_select(axis, index.to(view.device))
        out = view.reshape(tensor.shape)
        return out.clone() if out.data_ptr() == tensor.data_ptr() else out

    @neutral
    def apply(self, model: ModelT) -> ModelT:
        """A new model with permuted units; `model` stays as it was.

        It computes the same function where the spec is right, which is not checked here: `verify_spec` does that.
        Running statistics move with their units, and of a module so do the buffers that `PermutationSpec.unsaved`
        names.

        Args:
            model: a module, or a state dict. Tensors that the spec does not name are copied.

        Raises:
            TypeError: `model` is neither.
            ValueError: the model does not fit the spec, or is not in the pure form that it describes (`fold_norms`).
        """
        return applied(self, model)

    def bound_to(self, spec: PermutationSpec) -> Permutations:
        """The same choices, for a spec of the same groups."""
        return Permutations(spec, self._choices)

    def inverse(self) -> Permutations:
        """The choice that undoes this one: ``p.inverse().apply(p.apply(model))`` is `model`."""
        choices = {}
        for name in self._choices:
            size = self.spec.sizes[name]
            choices[name] = (np.argsort(self._flat(name)) % size).reshape(self.spec.shape(name))
        return Permutations(self.spec, choices)

    def after(self, first: Permutations) -> Permutations:
        """The composition: ``p.after(q).apply(model)`` is ``p.apply(q.apply(model))``.

        Raises:
            ValueError: `first` belongs to another spec.
        """
        check_type("first", first, Permutations, "Permutations")
        if first.spec != self.spec:
            raise ValueError("first must be Permutations of the same spec, got those of another one")
        choices = {}
        for name in self._choices:
            size = self.spec.sizes[name]
            choices[name] = (first._flat(name)[self._flat(name)] % size).reshape(self.spec.shape(name))
        return Permutations(self.spec, choices)


def _identity_choice(shape: tuple[int, ...]) -> Index:
    identity: Index = np.broadcast_to(np.arange(shape[-1], dtype=np.int64), shape).copy()
    return identity

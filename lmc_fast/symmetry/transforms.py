"""A choice of element for every group of any kind, and how it moves a parameter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._checks import check_int, check_type
from .._models import ModelT
from .._modes import neutral
from .applying import applied
from .groups import Segment, axis_size
from .kinds import KINDS, Kind
from .permutations import Permutations
from .placing import laid, placed
from .spec import PermutationSpec

__all__ = ["Choice", "Transforms", "between", "choice_for", "element_within", "moved", "moved_along", "random_choice"]


class Transforms(Mapping[str, Tensor]):
    """One element for every group of a bound spec, each of its group's kind: a mapping from names to CPU tensors.

    What `Permutations` is for specs of permutations, this is where signs, rotations or phases take part. The element of
    an owned group has one row for each unit of its owner (`PermutationSpec.shape`): row i acts on the units of
    whichever owner unit is put at i. Tensors are copies; writing to one changes nothing here.

    Args:
        spec: bound (`PermutationSpec.bind`).
        elements: by group, copied: as the kind has them (`symmetry.kinds`). For [owners..., n] units: of "permutation"
            and "signed" groups int64 [owners..., n], of "orthogonal" ones float64 [owners..., n, n], of "phases" (cos,
            sin), float64 [owners..., n, 2]. Groups left out stay in place.

    Raises:
        TypeError: elements of another dtype.
        ValueError: an unknown group, a wrong shape, or no element of the group's kind.
    """

    def __init__(self, spec: PermutationSpec, elements: Mapping[str, Any] | None = None) -> None:
        check_type("spec", spec, PermutationSpec, "a PermutationSpec")
        elements = {} if elements is None else elements
        check_type("elements", elements, Mapping, "a mapping from group names to elements")
        for name in elements:
            if name not in spec.groups:
                raise ValueError(f"elements names group {name!r}, which the spec lacks")
        self.spec = spec
        self._elements: dict[str, Tensor] = {}
        for name, group in spec.groups.items():
            kind, shape = KINDS[group.kind], spec.shape(name)
            given = name in elements
            self._elements[name] = (
                kind.checked(f"elements[{name!r}]", elements[name], shape) if given else kind.identity(shape)
            )

    @classmethod
    def identity(cls, spec: PermutationSpec) -> Transforms:
        """The choice that leaves every unit as it is."""
        return cls(spec)

    @classmethod
    def random(cls, spec: PermutationSpec, seed: int = 0) -> Transforms:
        """Uniformly random elements of every group, from a generator of their own."""
        rng = np.random.default_rng(check_int("seed", seed, 0))
        return cls(spec, {name: KINDS[group.kind].random(spec.shape(name), rng) for name, group in spec.groups.items()})

    def __getitem__(self, group: str) -> Tensor:
        return self._elements[group].clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._elements)

    def __len__(self) -> int:
        return len(self._elements)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Transforms):
            return NotImplemented
        return self.spec == other.spec and all(
            torch.equal(element, other._elements[name]) for name, element in self._elements.items()
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        kinds = sorted({group.kind for group in self.spec.groups.values()})
        return f"Transforms({len(self)} groups, {', '.join(kinds)})"

    @property
    def elements(self) -> dict[str, Tensor]:
        """The elements by group, copied."""
        return {name: element.clone() for name, element in self._elements.items()}

    @property
    def total(self) -> int:
        """Units in all groups together."""
        return sum(self.spec.units(name) for name in self.spec.groups)

    @property
    def moved(self) -> int:
        """Units whose element is not what leaves all as it is, with those of a map that mixes them, over all groups."""
        count = 0
        for name, group in self.spec.groups.items():
            shape = self.spec.shape(name)
            other = (self._elements[name] != KINDS[group.kind].identity(shape)).reshape(self.spec.units(name), -1)
            count += int(other.any(1).sum())
        return count

    @property
    def summary(self) -> str:
        """How many groups of which kind there are, in words."""
        counts = Counter(group.kind for group in self.spec.groups.values())
        return f"{len(self)} groups: " + ", ".join(f"{count} {kind}" for kind, count in counts.items())

    def apply_to(self, parameter: str, tensor: Tensor) -> Tensor:
        """A new tensor: `tensor` with every axis moved; same shape, dtype and device, contiguous.

        Products are summed in float64 for float64 and in float32 for all else, and rounded once an axis.
        """
        return moved(self.spec, parameter, tensor, self._elements).contiguous()

    @neutral
    def apply(self, model: ModelT) -> ModelT:
        """A new model with its units moved; `model` stays as it was.

        It computes the same function where the spec is right, which is not checked here: `verify_spec` does that.

        Args:
            model: a module, or a state dict. Tensors that the spec does not name are copied.

        Raises:
            TypeError: `model` is neither.
            ValueError: the model does not fit the spec, or is not in the pure form that it describes (`fold_norms`).
        """
        return applied(self, model)

    def bound_to(self, spec: PermutationSpec) -> Transforms:
        """The same elements, for a spec of the same groups."""
        return Transforms(spec, self._elements)

    def inverse(self) -> Transforms:
        """The choice that undoes this one: ``t.inverse().apply(t.apply(model))`` is `model`, up to rounding."""
        found: dict[str, Tensor] = {}
        for name, group in self.spec.groups.items():
            # An element acts on the units of the owner that is put at its row: what undoes it stands at that owner's
            # own place.
            rows = self._rows(name)
            found[name] = _by_rows(KINDS[group.kind].inverse(self._elements[name]), rows.argsort(), self.spec, name)
        return Transforms(self.spec, found)

    def after(self, first: Transforms | Permutations) -> Transforms:
        """The composition: ``t.after(s).apply(model)`` is ``t.apply(s.apply(model))``, up to rounding.

        Raises:
            TypeError: `first` is neither Transforms nor Permutations.
            ValueError: `first` belongs to another spec.
        """
        check_type("first", first, (Transforms, Permutations), "Transforms")
        if first.spec != self.spec:
            raise ValueError("first must be Transforms of the same spec, got those of another one")
        found: dict[str, Tensor] = {}
        for name, group in self.spec.groups.items():
            # The rows of `first` come to stand where this one puts their owners.
            earlier = _by_rows(first[name], self._rows(name), self.spec, name)
            found[name] = KINDS[group.kind].after(self._elements[name], earlier)
        return Transforms(self.spec, found)

    def _rows(self, group: str) -> Tensor:
        """For each unit of a group's owners, over all of theirs, the unit that is put there: int64 [units]."""
        flat = torch.zeros(1, dtype=torch.int64)
        for owner in self.spec.chain(group)[:-1]:
            element, size = self._elements[owner], self.spec.sizes[owner]
            places = torch.where(element < 0, -1 - element, element)
            flat = (flat[:, None] * size + places.reshape(-1, size)).reshape(-1)
        return flat


Choice = Permutations | Transforms


def choice_for(spec: PermutationSpec, elements: Mapping[str, Any] | None = None) -> Choice:
    """`Permutations` for a spec of permutations alone, `Transforms` where other kinds take part."""
    return Permutations(spec, elements) if spec.only_permutes else Transforms(spec, elements)


def random_choice(spec: PermutationSpec, seed: int = 0) -> Choice:
    """As `choice_for`, uniformly random, from a generator of its own."""
    return Permutations.random(spec, seed) if spec.only_permutes else Transforms.random(spec, seed)


def between(onto: Choice, of: Choice) -> Choice:
    """What carries the second model onto the first, from what carries both into one frame: onto^-1 after of."""
    if isinstance(onto, Permutations) and isinstance(of, Permutations):
        return onto.inverse().after(of)
    spec = onto.spec
    return Transforms(spec, onto).inverse().after(Transforms(spec, of))


def moved(
    spec: PermutationSpec,
    parameter: str,
    tensor: Tensor,
    elements: Mapping[str, Tensor],
    axes: Sequence[int] | None = None,
) -> Tensor:
    """A new tensor: a parameter of a bound spec with some of its axes moved, or all.

    Args:
        elements: of the groups on these axes, at least.
        axes: which of the spec's; None: all.
    """
    view = spec.view(parameter, tensor)
    for position, axis in enumerate(spec.axes_of(parameter)):
        if not axis.is_fixed and (axes is None or position in axes):
            view = _moved_axis(spec, axis.segments, view, position, elements)
    out = view.reshape(tensor.shape)
    return out.clone() if out.data_ptr() == tensor.data_ptr() else out


def moved_along(choice: Choice, parameter: str, axis: int, tensor: Tensor, dim: int) -> Tensor:
    """A new tensor: one of any shape, whose dimension `dim` runs along an axis of a parameter, with that moved."""
    # As they are: copies of all would cost more than what moves one axis.
    elements = choice._elements if isinstance(choice, Transforms) else dict(choice.items())
    return _moved_axis(choice.spec, choice.spec.axes_of(parameter)[axis].segments, tensor, dim, elements).contiguous()


def _moved_axis(
    spec: PermutationSpec, segments: tuple[Segment, ...], x: Tensor, axis: int, elements: Mapping[str, Tensor]
) -> Tensor:
    # [entries, everything else]
    front = x.movedim(axis, 0)
    done = _moved_entries(spec, segments, (), front.reshape(front.shape[0], -1), elements)
    return done.reshape(front.shape).movedim(0, axis)


def _moved_entries(
    spec: PermutationSpec,
    segments: tuple[Segment, ...],
    around: tuple[str, ...],
    x: Tensor,
    elements: Mapping[str, Tensor],
) -> Tensor:
    """x [units of each group around..., entries, k] with what lies inside moved, for each of these units."""
    parts, lie = [], placed(segments, spec.sizes)
    places, columns = x.shape[:-2], x.shape[-1]
    for place in lie:
        segment, length = place.segment, place.length
        part = place.of(x, -2)
        if segment.group is not None:
            name, units = segment.group, spec.sizes[segment.group]
            kind, within = KINDS[spec.groups[name].kind], (*around, name)
            inner = axis_size(segment.parts, spec.sizes)
            # [around..., outer, units, inner, k]
            split = part.reshape(*places, segment.outer, units, inner, columns)
            element = element_within(spec, name, around, elements)
            split = _acted(kind, element, split, len(places))
            if any(each.group is not None for each in segment.parts):
                # [around..., units, inner, outer * k]
                inside = split.movedim(-4, -2).reshape(*places, units, inner, segment.outer * columns)
                inside = _moved_entries(spec, segment.parts, within, inside, elements)
                split = inside.reshape(*places, units, inner, segment.outer, columns).movedim(-2, -4)
            part = split.reshape(*places, length, columns)
        parts.append(part)
    return laid(parts, lie, -2)


def _acted(kind: Kind, element: Tensor, split: Tensor, around: int) -> Tensor:
    """[around..., outer, units, inner, k] with units moved; a kind's own entries are the outer or the inner ones."""
    outer, units, inner, columns = split.shape[around:]
    front = split.movedim(-4, -2)  # [around..., units, inner, outer, k]
    flat = front.reshape(*split.shape[:around], units, kind.entries, inner * outer * columns // kind.entries)
    done = kind.act(element, flat)
    return done.reshape(*split.shape[:around], units, inner, outer, columns).movedim(-2, -4)


def element_within(spec: PermutationSpec, group: str, around: Sequence[str], elements: Mapping[str, Tensor]) -> Tensor:
    """A group's element with one leading dimension for each group around: its owners' units there, 1 elsewhere."""
    chain, element = spec.chain(group)[:-1], elements[group]
    shape = [spec.sizes[name] if name in chain else 1 for name in around]
    return element.reshape(*shape, *element.shape[len(chain) :])


def _by_rows(element: Tensor, rows: Tensor, spec: PermutationSpec, group: str) -> Tensor:
    """An element with the rows of its owners' units put in another order."""
    owners = len(spec.shape(group)) - 1
    flat = element.reshape(-1, *element.shape[owners:])
    return flat[rows].reshape(element.shape)

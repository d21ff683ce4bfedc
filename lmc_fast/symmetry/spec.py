"""Which axes of which parameters every group of units shows up on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .._checks import check_type
from .._files import write_text
from .._models import Model, tensors_of, unsaved_buffers, unwrapped
from .._modes import neutral
from .._wrappers import met
from .binding import (
    add_statistics,
    bound_axes,
    bound_unsaved,
    check_names,
    check_tied,
    infer_sizes,
    met_folds,
    sized,
    with_rest,
)
from .editing import edited
from .explain import Explanation, Origin, explain
from .folds import Centre, Fold, checked_folds
from .groups import Axis, AxisLike, Group, axis_size
from .kinds.checks import check_kinds, check_segments
from .patterns import expanded, is_pattern
from .reading import check_folds, check_owners, read_axes, read_groups, read_places, with_owners
from .serialise import is_text, made_from_file, spec_from_json, spec_to_json
from .verification import Verification

__all__ = ["PermutationSpec"]


@dataclass(frozen=True)
class PermutationSpec:
    """Groups of exchangeable units, and for every parameter its axes, one for each tensor dimension.

    A spec may leave sizes open; `bind` fills them in from a model and checks that the two fit. Everything in the
    package that takes a spec and a model binds it by itself.

    Attributes:
        groups: by name. Groups that are used and not listed are added, with open sizes.
        axes: by parameter name, a tuple of `Axis` (short forms are read by `as_axis`).
        unsaved: the same for buffers that no state dict holds (``persistent=False``): they move where a module is
            permuted. `bind` to a module takes those that `axes` names out of it.
        folds: norms whose gains stand in the way of rotations: the spec describes models in pure form, where they are
            in the linear maps that read them, as `fold_norms` makes it. Of specs of permutations empty.
        verified: what `verify_spec` left here, None before that. It is no part of what makes specs equal, goes along
            where the spec is bound, and is not written as JSON, since that may be edited.
        origin: of a derived spec why the rest stays, for `explain`; None of others. Treated as `verified` is.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an owner that is no group, owners in a circle, a group inside itself, or one inside others without
            its owner around it; folds of parameters that are not among `axes`, or of a norm whose gain would move.
    """

    groups: Mapping[str, Group] = field(default_factory=dict)
    axes: Mapping[str, tuple[Axis, ...]] = field(default_factory=dict)
    unsaved: Mapping[str, tuple[Axis, ...]] = field(default_factory=dict)
    folds: tuple[Fold | Centre, ...] = ()
    verified: Verification | None = field(default=None, init=False, compare=False, repr=False)
    origin: Origin | None = field(default=None, init=False, compare=False, repr=False)
    # Of the tensors that it was bound to, where these told all: to bind it to the like changes nothing.
    _like: Mapping[str, object] | None = field(default=None, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        axes, unsaved = read_axes("axes", self.axes), read_axes("unsaved", self.unsaved)
        twice = next((name for name in unsaved if name in axes), None)
        if twice is not None:
            raise ValueError(f"axes and unsaved must name different tensors, got {twice!r} in both")
        groups = read_groups(self.groups, (*axes.values(), *unsaved.values()))
        check_owners(groups)
        check_kinds(groups)
        axes, unsaved = (
            {name: tuple(with_owners(axis, groups, name) for axis in entries) for name, entries in some.items()}
            for some in (axes, unsaved)
        )
        used = {name for entries in axes.values() for axis in entries for name in axis.groups}
        for name in groups:
            if name not in used:
                raise ValueError(f"group {name!r} must be on some axis, and is on none")
        for name, entries in (*axes.items(), *unsaved.items()):
            for axis in entries:
                check_segments(axis.segments, groups, name)
        folds = checked_folds(self.folds)
        check_folds(folds, axes)
        object.__setattr__(self, "folds", folds)
        object.__setattr__(self, "groups", groups)
        object.__setattr__(self, "axes", axes)
        object.__setattr__(self, "unsaved", unsaved)

    def __hash__(self) -> int:
        return hash((tuple(self.groups.items()), tuple(self.axes.items()), tuple(self.unsaved.items()), self.folds))

    @classmethod
    def from_axes(
        cls,
        axes: Mapping[str, Sequence[AxisLike]],
        groups: Iterable[Group] = (),
        *,
        model: Model | None = None,
        rest: str | None = None,
        folds: Iterable[Fold | Centre] = (),
    ) -> PermutationSpec:
        """A spec from the form that research code shares: ``{"fc1.weight": ("P1", None), ...}``.

        With a model, layers that repeat take one pattern. ``{i}`` stands for a number, ``{x:query|key}`` for one of
        these words, ``*`` for anything without a dot; names of groups take them over. A whole BERT, where the residual
        stream stays as it is, since it is what the model gives::

            layer = "encoder.layer.{i}."
            spec = PermutationSpec.from_axes(
                {
                    layer + "attention.self.{x:query|key}.weight": ("query_key{i}", None),
                    layer + "attention.self.{x:query|key}.bias": ("query_key{i}",),
                    layer + "attention.self.value.weight": ("value{i}", None),
                    layer + "attention.self.value.bias": ("value{i}",),
                    layer + "attention.output.dense.weight": (None, "value{i}"),
                    layer + "intermediate.dense.weight": ("unit{i}", None),
                    layer + "intermediate.dense.bias": ("unit{i}",),
                    layer + "output.dense.weight": (None, "unit{i}"),
                },
                [
                    Group("head{i}", 12),
                    Group("query_key{i}", owner="head{i}"),
                    Group("value{i}", owner="head{i}"),
                ],
                model=bert,
                rest="fixed",
            )

        Args:
            axes: for every parameter, what each of its dimensions carries: a group's name, None for a fixed axis,
                or a `Segment`, a sequence of them, or an `Axis` where a name does not say enough. A parameter that is
                named by itself goes before patterns, and of these the first that fits counts.
            groups: groups of which more is known than their name: sizes, owners.
            model: a module or state dict to bind the spec to at once.
            rest: "fixed": parameters of the model that `axes` leaves out stay as they are, but for other names of one
                that it names, and running statistics, which go with their layer's weight. None: each must be named.
            folds: of a spec with rotations, the norms that have to be folded (`fold_norms`).

        Raises:
            TypeError, ValueError: as the class and, with a model, as `bind`; a pattern or `rest` without a model, and a
                pattern that fits nothing.
        """
        if rest not in (None, "fixed"):
            raise ValueError(f"rest must be 'fixed' or None, got {rest!r}")
        listed = list(groups)
        for position, group in enumerate(listed):
            check_type("groups", group, Group, "a sequence of Groups")
            if any(other.name == group.name for other in listed[:position]):
                raise ValueError(f"groups must name each group once, got {group.name!r} twice")
        check_type("axes", axes, Mapping, "a mapping from parameter names to axes")
        pattern = next((name for name in axes if isinstance(name, str) and is_pattern(name)), None)
        if model is None:
            if rest is not None or pattern is not None:
                what = f"rest={rest!r}" if rest is not None else f"the pattern {pattern!r} in axes"
                raise ValueError(f"model must be given with {what}: it tells which parameters there are")
            return cls({group.name: group for group in listed}, axes, folds=folds)  # type: ignore[arg-type]
        known = {group.name: group for group in listed}
        if pattern is not None:
            axes, known = expanded(axes, listed, tensors_of("model", model, shapes_only=True))
        if rest is not None:
            axes = with_rest(axes, tensors_of("model", model, shapes_only=True))
        return cls(known, axes, folds=folds).bind(model)  # type: ignore[arg-type]

    def edit(
        self,
        axes: Mapping[str, Sequence[AxisLike]] | None = None,
        groups: Iterable[Group] = (),
        *,
        pin: Iterable[str] = (),
        rename: Mapping[str, str] | None = None,
    ) -> PermutationSpec:
        """This spec with what you know better: a new one, not verified, to be tried by `verify_spec`.

        Args:
            axes: for some parameters, or patterns, what their dimensions carry now, as of `from_axes`.
            groups: groups that are new, or of which more is known than before.
            pin: names of groups whose units stay where they are, with all that they own.
            rename: names of groups, and what they are called from now on; this comes before `axes`.

        Raises:
            TypeError, ValueError: a group or a parameter that the spec has not; and as `from_axes`. One that was bound
                stays so, and its sizes are checked, unless an axis of it spans several dimensions: bind it then.
        """
        return edited(self, {} if axes is None else axes, groups, pin, {} if rename is None else rename)

    @classmethod
    def from_perm_to_axes(cls, perm_to_axes: Mapping[str, Sequence[tuple[str, int]]], model: Model) -> PermutationSpec:
        """A spec from the other common form: ``{"P1": [("fc1.weight", 0), ("fc2.weight", 1)], ...}``.

        Axes of the model that are not listed are fixed.

        Raises:
            ValueError: a parameter that the model lacks, an axis that it lacks, or an axis named twice; and as
                `bind`.
        """
        tensors = tensors_of("model", model, shapes_only=True)
        return cls.from_axes(read_places(perm_to_axes, tensors), model=tensors)

    @property
    def is_bound(self) -> bool:
        """Whether every size is known."""
        return all(group.size is not None for group in self.groups.values()) and not any(
            segment.group is None and segment.length is None
            for entries in self.axes.values()
            for axis in entries
            for segment in axis.segments
        )

    @neutral
    def bind(self, model: Model) -> PermutationSpec:
        """This spec with every size filled in from `model`, after checking that the two fit.

        Running statistics of a normalisation layer that the spec leaves out take the axis of the layer's `weight`,
        since a unit must not leave its statistics behind. Integer tensors need no entry. Names that differ only by
        what wrappers put into them (``module.``, ``_orig_mod.``) become the model's. What is bound to the like stays.

        Raises:
            TypeError: `model` is neither a module nor a state dict.
            ValueError: a parameter of the spec that the model lacks, or the other way round; an axis that has not
                the size that the spec makes of it; a size that nothing settles; two names of one tied tensor
                with different axes. The message names the parameter.
        """
        if isinstance(model, nn.Module):
            model = unwrapped("model", model)
        tensors = tensors_of("model", model, shapes_only=True)
        buffers = unsaved_buffers(model) if isinstance(model, nn.Module) else {}
        like = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
        if like == self._like and not buffers:
            check_tied(self.axes, tensors)
            return self
        axes = met(self.axes, [*tensors, *buffers])
        add_statistics(axes, tensors)
        unsaved = {**self.unsaved, **{name: axes.pop(name) for name in list(axes) if name in buffers}}
        check_names(axes, tensors)
        sizes = infer_sizes(self.groups, axes, tensors)
        groups = sized(self.groups, sizes)
        bound = {name: bound_axes(name, axes[name], tensors[name], sizes) for name in axes}
        check_tied(bound, tensors)
        # A state dict says nothing of what it does not hold.
        if isinstance(model, nn.Module):
            unsaved = bound_unsaved(unsaved, buffers, sizes)
        found = self
        # What was bound to such a model before is neither checked nor kept a second time.
        if (groups, bound, unsaved) != (self.groups, self.axes, self.unsaved):
            folds = self.folds if axes.keys() == self.axes.keys() else met_folds(self.folds, axes)
            found = self._kept(PermutationSpec(groups, bound, unsaved, folds))
        if not unsaved and not buffers:
            object.__setattr__(found, "_like", like)
        return found

    def _kept(self, other: PermutationSpec) -> PermutationSpec:
        """`other`, which says the same as this spec, with what is known of this one."""
        object.__setattr__(other, "verified", self.verified)
        object.__setattr__(other, "origin", self.origin)
        return other

    @cached_property
    def worked_out(self) -> dict[str, Any]:
        """What was worked out of this spec alone and serves whoever asks again, by what it is."""
        return {}

    def axes_of(self, tensor: str) -> tuple[Axis, ...]:
        """The axes of a parameter, or of a buffer that no state dict holds."""
        return self.axes[tensor] if tensor in self.axes else self.unsaved[tensor]

    @cached_property
    def only_permutes(self) -> bool:
        """Whether all groups are of the kind "permutation"."""
        return all(group.kind == "permutation" for group in self.groups.values())

    def check_only_permutes(self, what: str) -> None:
        """Raise ValueError, which names `what`, where a group is of another kind than "permutation"."""
        for name, group in self.groups.items():
            if group.kind != "permutation":
                raise ValueError(f"{what} takes groups of permutations alone, but {name!r} is of kind {group.kind!r}")

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Units of each group, within one unit of its owner. ValueError unless the spec is bound."""
        sizes = {name: group.size for name, group in self.groups.items() if group.size is not None}
        if not self.is_bound:
            raise ValueError("this spec has open sizes: bind it to a model first (spec.bind(model))")
        return sizes

    def chain(self, group: str) -> tuple[str, ...]:
        """A group's owners, outermost first, then itself."""
        owner = self.groups[group].owner
        return (*(() if owner is None else self.chain(owner)), group)

    def shape(self, group: str) -> tuple[int, ...]:
        """Shape of a group's choice: the sizes of its owners, outermost first, then its own."""
        return tuple(self.sizes[name] for name in self.chain(group))

    def units(self, group: str) -> int:
        """Number of units of a group over all units of its owners."""
        count = 1
        for size in self.shape(group):
            count *= size
        return count

    @cached_property
    def roots(self) -> tuple[str, ...]:
        """Names of the groups that no other group owns."""
        return tuple(name for name, group in self.groups.items() if group.owner is None)

    def owned_by(self, group: str) -> tuple[str, ...]:
        """Names of the groups that `group` owns itself."""
        return tuple(name for name, other in self.groups.items() if other.owner == group)

    def root_of(self, group: str) -> str:
        """The outermost owner of a group; the group itself where nothing owns it."""
        owner = self.groups[group].owner
        return group if owner is None else self.root_of(owner)

    def roots_of(self, parameter: str) -> tuple[tuple[str, ...], ...]:
        """For each axis of a parameter, the root groups that show up on it."""
        return tuple(
            tuple(name for name in axis.groups if self.groups[name].owner is None) for axis in self.axes[parameter]
        )

    def view(self, parameter: str, tensor: Tensor) -> Tensor:
        """`tensor` with one dimension for each axis: itself, unless an axis spans several dimensions."""
        axes = self.axes_of(parameter)
        if all(axis.dims == 1 for axis in axes):
            return tensor
        return tensor.reshape([axis_size(axis.segments, self.sizes) for axis in axes])

    def with_origin(self, origin: Origin | None) -> PermutationSpec:
        """This spec, with where it comes from."""
        other = self._kept(PermutationSpec(self.groups, self.axes, self.unsaved, self.folds))
        object.__setattr__(other, "origin", origin)
        return other

    def explain(self) -> Explanation:
        """What the spec permits, what it leaves alone and why: an object that prints as a tree.

        Raises:
            ValueError: a spec that is not bound.
        """
        if not self.is_bound:
            raise ValueError("the spec must be bound to a model (spec.bind(model)) to be explained")
        return explain(self, self.origin)

    def to_json(self, path: str | Path | None = None) -> str:
        """The spec as JSON text, written to `path` as well where one is given.

        The file is written aside and then renamed: one that is replaced is never lost to a full disk.

        Raises:
            OSError: it cannot be written to.
        """
        text = json.dumps(spec_to_json(self.groups, self.axes, self.unsaved, self.folds), indent=1)
        if path is not None:
            check_type("path", path, (str, PathLike), "a path")
            write_text(Path(path), text + "\n")
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> PermutationSpec:
        """A spec from the file that `to_json` wrote, or from its text.

        A plain ``{"fc1.weight": ["P1", null], ...}``, the common form, is read as well.

        Args:
            source: a path. A string that begins with ``{`` or ``[``, or that has several lines, is the text itself.

        Raises:
            TypeError: neither a string nor a path.
            FileNotFoundError: the path does not exist, or is no file.
            ValueError: not JSON, a key that stands twice, or not a spec; the message says where, and names the file.
        """
        check_type("source", source, (str, PathLike), "a path, or the text of a spec")
        if isinstance(source, str) and is_text(source):
            return cls(*spec_from_json(source))
        return made_from_file(Path(source), cls)

    def __str__(self) -> str:
        lines = [f"PermutationSpec: {len(self.groups)} groups over {len(self.axes)} parameters"]
        uses = Counter(name for entries in self.axes.values() for axis in entries for name in axis.groups)
        for name, group in self.groups.items():
            size = "open size" if group.size is None else f"{group.size} units"
            owner = f" in each unit of {group.owner}" if group.owner else ""
            lines.append(f"  {name}: {size}{owner}, on {uses[name]} axes")
        return "\n".join(lines)

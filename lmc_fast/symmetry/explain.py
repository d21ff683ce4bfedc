"""What a spec permits and what it leaves alone, told to people and to programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .._results import Result
from .folding import FEW, alike, apart, folded, folded_names
from .folds import Centre, Fold
from .groups import Axis, Segment, axis_size
from .kinds import KINDS

if TYPE_CHECKING:
    from .spec import PermutationSpec

__all__ = ["Explanation", "Fixed", "GroupTold", "Origin", "explain"]

# Names of parameters that a line shows before it only counts them.
_SHOWN = 4
# After how many units.
_DOING = {
    "permutation": "",
    "signed": " change signs, too",
    "orthogonal": " turn (orthogonal)",
    "orthogonal_keeping_ones": " turn (orthogonal, keeping ones)",
    "phases": " planes turn (phases)",
}


@dataclass(frozen=True)
class Origin:
    """Where a derived spec comes from.

    Attributes:
        pinned: by parameter, for every dimension the reasons why entries stay where they are; () where they may move.
        notes: what else is to be said: operations without a rule, groups that failed when they were tried.
        stiff: of groups whose units change places and do not turn, why; of specs derived with rotations.
    """

    pinned: Mapping[str, Sequence[Sequence[str]]]
    notes: tuple[str, ...] = ()
    stiff: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class GroupTold:
    """One group.

    Attributes:
        name, size, owner: as in the spec.
        units: in all units of its owners together.
        axes: the (parameter, axis) pairs that carry it.
        log10_permutations: how many orders its units may have, those of all owners' units together. Where units turn
            these are but some of the elements.
        kind: what its units may do, as `Group.kind` has it.
        stiff: of a spec derived with rotations, why its units do not turn; "" where they do, or nothing is known.
    """

    name: str
    size: int
    owner: str | None
    units: int
    axes: tuple[tuple[str, int], ...]
    log10_permutations: float
    kind: str = "permutation"
    stiff: str = ""


@dataclass(frozen=True)
class Fixed:
    """One axis on which entries stay where they are, some of them or all.

    Attributes:
        parameter, axis, size: which.
        is_whole: whether nothing on it may move.
        reasons: the operations that tell its entries apart, with the lines of the model's source.
    """

    parameter: str
    axis: int
    size: int
    is_whole: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Explanation(Result):
    """What a spec permits, what it leaves alone and why.

    Attributes:
        groups: owners before what they own.
        fixed: axes with entries that stay, in the order of the model.
        log10_permutations: how many permutations the spec permits in all.
        notes: what else is to be said.
        folds: what `fold_norms` does to models of this spec, a line each.
    """

    groups: tuple[GroupTold, ...]
    fixed: tuple[Fixed, ...]
    log10_permutations: float
    notes: tuple[str, ...] = ()
    folds: tuple[str, ...] = ()

    def __str__(self) -> str:
        units = sum(group.units for group in self.groups)
        groups = f"{len(self.groups)} group" + "s" * (len(self.groups) != 1)
        turning = sum(group.kind not in ("permutation", "signed") for group in self.groups)
        turn = f"; {turning} of the groups turn{'s' * (turning == 1)}" if turning else ""
        lines = [f"{groups} of {units} units; 10^{self.log10_permutations:.0f} permutations are permitted{turn}"]
        children: dict[str | None, list[GroupTold]] = {}
        for group in self.groups:
            children.setdefault(group.owner, []).append(group)
        lines += _branches(children, (), "")
        stiff: dict[str, list[str]] = {}
        for group in self.groups:
            if group.stiff:
                stiff.setdefault(group.stiff, []).append(group.name)
        if stiff:
            lines.append("what does not turn:")
            lines += [f"   {reason}: {_shortened(folded_names(names))}" for reason, names in stiff.items()]
        if self.folds:
            lines.append("what is folded:")
            lines += [f"   {fold}" for fold in _folded_lines(self.folds)]
        if self.fixed:
            lines.append("what stays:")
            lines += _reasons(self.fixed)
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


def _branches(
    children: Mapping[str | None, Sequence[GroupTold]], owners: Sequence[GroupTold], indent: str
) -> list[str]:
    """Groups as a tree, what is owned below its owner; layers that repeat told once.

    Args:
        owners: groups that are alike, and told as one; of none the roots.
    """
    lines = []
    columns = [children.get(owner.name, ()) for owner in owners] if owners else [children.get(None, ())]
    # What the first owns, each with what stands at its place below the others.
    rows = [list(row) for row in zip(*columns, strict=True)]
    if not owners:
        rows = _alike(children, [group for (group,) in rows])
    for position, row in enumerate(rows):
        last = position == len(rows) - 1
        group = row[0]
        each = f" in each of {group.units // group.size}" if owners else ""
        times = f", {len(row)} times" if len(row) > 1 and not owners else ""
        by_place = zip(*(dict.fromkeys(name for name, _ in each.axes) for each in row), strict=True)
        place, names = apart([folded(place) for place in by_place])
        shown = f"{place}: {_shortened(names)}" if place else _shortened(names)
        name, doing = folded([each.name for each in row]), _DOING[group.kind]
        lines.append(f"{indent}{'└─' if last else '├─'} {name}: {group.size}{doing}{each}{times}, on {shown}")
        lines += _branches(children, row, indent + ("   " if last else "│  "))
    return lines


def _alike(children: Mapping[str | None, Sequence[GroupTold]], groups: Sequence[GroupTold]) -> list[list[GroupTold]]:
    """Groups that differ in the numbers in their names alone, with all that they own, together where they are a few."""

    def kind(group: GroupTold) -> Any:
        names = tuple(dict.fromkeys(name for name, _ in group.axes))
        owned = tuple(kind(each) for each in children.get(group.name, ()))
        return alike(group.name), group.size, group.kind, tuple(map(alike, names)), owned

    found: dict[Any, list[GroupTold]] = {}
    for group in groups:
        found.setdefault(kind(group), []).append(group)
    return [row for of_kind in found.values() for row in ([of_kind] if len(of_kind) >= FEW else [[g] for g in of_kind])]


def _reasons(fixed: Sequence[Fixed]) -> list[str]:
    """Every reason once, with the axes that it holds."""
    found: dict[str, list[str]] = {}
    for axis in fixed:
        for reason in axis.reasons or ("the spec names no group there",):
            found.setdefault(reason, []).append(f"{axis.parameter}[{axis.axis}]")
    lines = []
    for reason, axes in found.items():
        lines.append(f"   {reason}: {_shortened(_folded_axes(axes))}")
    return lines


def _shortened(names: Sequence[str]) -> str:
    """The first few of names, and how many more there are."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _folded_lines(lines: Sequence[str]) -> list[str]:
    """Lines that differ in numbers alone as one, where they are a few."""
    alike_lines: dict[str, list[str]] = {}
    for line in lines:
        alike_lines.setdefault(alike(line), []).append(line)
    return [told for several in alike_lines.values() for told in (folded_names(several))]


def _told_folds(folds: Sequence[Fold | Centre]) -> tuple[str, ...]:
    lines = []
    for fold in folds:
        if isinstance(fold, Fold):
            place, (norm, *readers) = apart([fold.weight, *(reader.parameter for reader in fold.readers)])
            where = f"{place}: " if place else ""
            tied = [reader for reader in fold.readers if reader.tied is not None]
            untied = "".join(f"; {reader.parameter} is untied from {reader.tied}" for reader in tied)
            bias = "" if not fold.keeps_bias else f"; {fold.bias} stays, divided by it"
            lines.append(f"{where}{norm} into {', '.join(readers)}{bias}{untied}")
    centres = [fold.parameter for fold in folds if isinstance(fold, Centre)]
    return (*lines, *(f"the mean of {name} is taken out" for name in centres))


def _folded_axes(axes: Sequence[str]) -> list[str]:
    """ "name[axis]", with the names of one axis told as one where they repeat."""
    by_axis: dict[str, list[str]] = {}
    for text in axes:
        name, _, axis = text.rpartition("[")
        by_axis.setdefault(alike(name) + "[" + axis, []).append(name)
    return [f"{name}[{key.rpartition('[')[2]}" for key, names in by_axis.items() for name in folded_names(names)]


def explain(spec: PermutationSpec, origin: Origin | None) -> Explanation:
    """What a bound spec permits; with the origin of a derived one why the rest stays."""
    told = []
    for name, group in spec.groups.items():
        axes = tuple(
            (parameter, position)
            for parameter, entries in spec.axes.items()
            for position, axis in enumerate(entries)
            if name in axis.groups
        )
        units, size = spec.units(name), spec.sizes[name]
        each = KINDS[group.kind].log10_count(size)
        stiff = "" if origin is None or group.kind != "permutation" else origin.stiff.get(name, "")
        count = units // max(size, 1) * each
        told.append(GroupTold(name, size, group.owner, units, axes, count, group.kind, stiff))
    fixed = []
    for parameter, entries in spec.axes.items():
        reasons = [] if origin is None else origin.pinned.get(parameter, [])
        dimension = 0
        for position, axis in enumerate(entries):
            size = axis_size(axis.segments, spec.sizes)
            said = [reason for each in reasons[dimension : dimension + axis.dims] for reason in each]
            dimension += axis.dims
            if size > 1 and (said or not axis.groups):
                fixed.append(Fixed(parameter, position, size, not axis.groups, tuple(dict.fromkeys(said))))
    return Explanation(
        tuple(told),
        tuple(fixed),
        sum(group.log10_permutations for group in told),
        () if origin is None else tuple(origin.notes),
        _told_folds(spec.folds),
    )


def without(spec: PermutationSpec, dropped: str) -> dict[str, tuple[Axis, ...]]:
    """The axes of a bound spec with fixed entries in the place of a group and all that it owns."""

    def fixed(segment: Segment) -> list[Segment]:
        if segment.group is None:
            return [segment]
        if spec.root_of(segment.group) == dropped:
            return [Segment.fixed(axis_size((segment,), spec.sizes), segment.step, segment.runs)]
        inner = tuple(part for each in segment.parts for part in fixed(each))
        moves = any(part.group is not None for part in inner)
        return [replace(segment, inner=inner if moves else axis_size(inner, spec.sizes))]

    return {
        name: tuple(
            Axis(tuple(part for segment in axis.segments for part in fixed(segment)), axis.dims) for axis in entries
        )
        for name, entries in spec.axes.items()
    }

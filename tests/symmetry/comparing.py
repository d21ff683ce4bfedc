"""Two specs side by side, whatever their groups are called."""

from __future__ import annotations

from typing import Any

from lmc_fast import PermutationSpec, Segment

__all__ = ["up_to_names"]


def up_to_names(spec: PermutationSpec) -> dict[tuple[str, int], Any]:
    """What every axis carries, with groups told by where they stand, and the size and owner of each."""
    names: dict[str, str] = {}

    def told(segment: Segment) -> Any:
        if segment.group is None:
            return segment.length
        name = names.setdefault(segment.group, f"#{len(names)}")
        return name, segment.outer, tuple(told(part) for part in segment.parts)

    axes: dict[tuple[str, int], Any] = {
        (name, place): (axis.dims, tuple(told(segment) for segment in axis.segments))
        for name, entries in sorted(spec.axes.items())
        for place, axis in enumerate(entries)
    }
    sizes = {names[name]: (group.size, group.owner and names[group.owner]) for name, group in spec.groups.items()}
    return {**axes, ("groups", 0): sizes}

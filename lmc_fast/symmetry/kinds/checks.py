"""Which kinds may own, lie inside each other, and share an axis in which way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .registry import KINDS

if TYPE_CHECKING:
    from ..groups import Group, Segment

__all__ = ["check_kinds", "check_segments"]


def check_kinds(groups: Mapping[str, Group]) -> None:
    """Raise ValueError where a group is owned by one whose units do not just change places."""
    for name, group in groups.items():
        owner = None if group.owner is None else groups[group.owner]
        if owner is not None and not KINDS[owner.kind].may_own:
            raise ValueError(
                f"group {name!r} must be owned by units that stay apart and change places alone, but {owner.name!r} "
                f"is {owner.kind}"
            )


def check_segments(segments: tuple[Segment, ...], groups: Mapping[str, Group], parameter: str) -> None:
    """Raise ValueError where a view does not fit its group's kind."""
    for segment in segments:
        if segment.group is None:
            continue
        kind = KINDS[groups[segment.group].kind]
        where = f"parameter {parameter!r}: group {segment.group!r}, of kind {kind.name!r},"
        if kind.entries > 1:
            if any(part.group is not None for part in segment.parts):
                raise ValueError(f"{where} must hold no other group inside its units")
            inner = sum(part.length or 0 for part in segment.parts)
            if segment.outer * inner != kind.entries:
                raise ValueError(
                    f"{where} must have {kind.entries} entries a unit, got outer {segment.outer} and inner {inner}"
                )
        check_segments(segment.parts, groups, parameter)

"""All kinds of groups, by name."""

from __future__ import annotations

from .kind import Kind
from .orthogonal import Orthogonal, OrthogonalKeepingOnes
from .permutation import Permutation
from .phases import Phases
from .signed import Signed

__all__ = ["KINDS"]

KINDS: dict[str, Kind] = {
    kind.name: kind for kind in (Permutation(), Signed(), Orthogonal(), OrthogonalKeepingOnes(), Phases())
}

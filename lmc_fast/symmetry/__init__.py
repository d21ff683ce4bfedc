"""What may be permuted: groups and axes, specs over whole models, and choices of permutations."""

from . import architectures
from .groups import Axis, Group, Segment
from .permutations import Permutations
from .spec import PermutationSpec
from .verify import SymmetryError, verify_spec

__all__ = [
    "Axis",
    "Group",
    "PermutationSpec",
    "Permutations",
    "Segment",
    "SymmetryError",
    "architectures",
    "verify_spec",
]

"""What may be permuted: groups and axes, specs over whole models, and choices of permutations."""

from . import architectures
from .calls import Inputs
from .derive import derive_spec
from .explain import Explanation
from .groups import Axis, Group, Segment
from .permutations import Permutations
from .spec import PermutationSpec
from .transforms import Transforms
from .verify import SymmetryError, verify_spec

__all__ = [
    "Axis",
    "Explanation",
    "Group",
    "Inputs",
    "PermutationSpec",
    "Permutations",
    "Segment",
    "SymmetryError",
    "Transforms",
    "architectures",
    "derive_spec",
    "verify_spec",
]

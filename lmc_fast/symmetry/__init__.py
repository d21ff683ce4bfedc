"""What may be permuted: groups and axes, specs over whole models, and choices of permutations."""

from . import architectures
from .calls import Inputs
from .derive import derive_spec
from .explain import Explanation
from .folds import Centre, Fold, Reader
from .groups import Axis, Group, Segment
from .mixing import SoftPermutations
from .permutations import Permutations
from .pure import PureForm, check_pure, fold_norms
from .spec import PermutationSpec
from .transforms import Transforms
from .verify import SymmetryError, verify_spec

__all__ = [
    "Axis",
    "Centre",
    "Explanation",
    "Fold",
    "Group",
    "Inputs",
    "PermutationSpec",
    "Permutations",
    "PureForm",
    "Reader",
    "Segment",
    "SoftPermutations",
    "SymmetryError",
    "Transforms",
    "architectures",
    "check_pure",
    "derive_spec",
    "fold_norms",
    "verify_spec",
]

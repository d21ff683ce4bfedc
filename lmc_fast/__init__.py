"""Permutations that lay trained networks over each other: matching, merging, and what it shows."""

from ._backend import backends
from ._version import __version__
from .analysis import BarrierCurve, evaluate, loss_barrier, pairwise_barriers
from .assignment import (
    AssignmentSolver,
    assignment_gap,
    linear_sum_assignment,
    linear_sum_assignment_batched,
)
from .matching import (
    ManyMatching,
    Matching,
    activation_matching,
    match_many,
    sinkhorn_matching,
    straight_through_matching,
    weight_matching,
)
from .merging import interpolate, merge
from .repair import reestimate_batchnorm, repair
from .symmetry import (
    Axis,
    Group,
    Permutations,
    PermutationSpec,
    Segment,
    SymmetryError,
    architectures,
    verify_spec,
)

__all__ = [
    "AssignmentSolver",
    "Axis",
    "BarrierCurve",
    "Group",
    "ManyMatching",
    "Matching",
    "PermutationSpec",
    "Permutations",
    "Segment",
    "SymmetryError",
    "__version__",
    "activation_matching",
    "architectures",
    "assignment_gap",
    "backends",
    "evaluate",
    "interpolate",
    "linear_sum_assignment",
    "linear_sum_assignment_batched",
    "loss_barrier",
    "match_many",
    "merge",
    "pairwise_barriers",
    "reestimate_batchnorm",
    "repair",
    "sinkhorn_matching",
    "straight_through_matching",
    "verify_spec",
    "weight_matching",
]

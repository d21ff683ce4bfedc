"""Permutations that lay trained networks over each other: matching, merging, and what it shows."""

# First: the command can be interrupted while the rest is imported.
from . import _signals as _signals  # isort: skip
from ._backend import backends
from ._version import __version__
from .analysis import (
    BarrierCurve,
    DistanceDecomposition,
    InputAlignment,
    LossLandscape,
    SpectralAlignment,
    SpectralFactors,
    TaylorBarrier,
    distance_decomposition,
    evaluate,
    input_alignment,
    loss_barrier,
    loss_landscape,
    pairwise_barriers,
    singular_factors,
    spectral_alignment,
    taylor_barrier,
    vector_cosines,
)
from .assignment import (
    AssignmentSolver,
    assignment_gap,
    linear_sum_assignment,
    linear_sum_assignment_batched,
)
from .large import MergeResult, merge_checkpoints
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
    Explanation,
    Group,
    Permutations,
    PermutationSpec,
    Segment,
    SymmetryError,
    architectures,
    derive_spec,
    verify_spec,
)

__all__ = [
    "AssignmentSolver",
    "Axis",
    "BarrierCurve",
    "DistanceDecomposition",
    "Explanation",
    "Group",
    "InputAlignment",
    "LossLandscape",
    "ManyMatching",
    "Matching",
    "MergeResult",
    "PermutationSpec",
    "Permutations",
    "Segment",
    "SpectralAlignment",
    "SpectralFactors",
    "SymmetryError",
    "TaylorBarrier",
    "__version__",
    "activation_matching",
    "architectures",
    "assignment_gap",
    "backends",
    "derive_spec",
    "distance_decomposition",
    "evaluate",
    "input_alignment",
    "interpolate",
    "linear_sum_assignment",
    "linear_sum_assignment_batched",
    "loss_barrier",
    "loss_landscape",
    "match_many",
    "merge",
    "merge_checkpoints",
    "pairwise_barriers",
    "reestimate_batchnorm",
    "repair",
    "singular_factors",
    "sinkhorn_matching",
    "spectral_alignment",
    "straight_through_matching",
    "taylor_barrier",
    "vector_cosines",
    "verify_spec",
    "weight_matching",
]

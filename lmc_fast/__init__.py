"""Permutations that lay trained networks over each other: matching, merging, and what it shows."""

from ._lazy import handed_on
from ._version import __version__ as __version__

# By the room that has them. They are imported when they are first asked for: this package takes a while, and torch a
# longer one. `__init__.pyi` says the same to type checkers.
NAMES = {
    "_backend": ("backends",),
    "_progress": ("Logger",),
    "analysis": (
        "BarrierCurve",
        "DistanceDecomposition",
        "HessianTrace",
        "InputAlignment",
        "LossLandscape",
        "SpectralAlignment",
        "SpectralFactors",
        "TaylorBarrier",
        "TemperatureFit",
        "Tempered",
        "calibrate_temperature",
        "distance_decomposition",
        "evaluate",
        "hessian_trace",
        "input_alignment",
        "loss_barrier",
        "loss_landscape",
        "pairwise_barriers",
        "singular_factors",
        "spectral_alignment",
        "taylor_barrier",
        "vector_cosines",
    ),
    "assignment": (
        "AssignmentSolver",
        "assignment_gap",
        "linear_sum_assignment",
        "linear_sum_assignment_batched",
    ),
    "checkpoints": ("save_interpolated",),
    "large": (
        "MergeResult",
        "merge_checkpoints",
        "rebase_checkpoints",
    ),
    "matching": (
        "ManyMatching",
        "Matching",
        "activation_matching",
        "learned_matching",
        "match_many",
        "sinkhorn_matching",
        "straight_through_matching",
        "weight_matching",
    ),
    "merging": (
        "ZipResult",
        "Zipped",
        "fisher_weights",
        "interpolate",
        "merge",
        "rebase",
        "zip_models",
    ),
    "repairing": (
        "reestimate_batchnorm",
        "repair",
    ),
    "symmetry": (
        "Axis",
        "Explanation",
        "Group",
        "Inputs",
        "PermutationSpec",
        "Permutations",
        "Segment",
        "SoftPermutations",
        "SymmetryError",
        "Transforms",
        "architectures",
        "derive_spec",
        "fold_norms",
        "verify_spec",
    ),
}

__all__, __getattr__, __dir__ = handed_on(__name__, NAMES, ["__version__"])

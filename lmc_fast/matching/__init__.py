"""Finding the permutations: one file a method."""

from .activation import activation_matching
from .learned import learned_matching
from .many import match_many
from .results.many import ManyMatching
from .results.matching import Matching, Sweep
from .sinkhorn import sinkhorn_matching
from .straight_through import straight_through_matching
from .weight import weight_matching

__all__ = [
    "ManyMatching",
    "Matching",
    "Sweep",
    "activation_matching",
    "learned_matching",
    "match_many",
    "sinkhorn_matching",
    "straight_through_matching",
    "weight_matching",
]

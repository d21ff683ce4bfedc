"""Finding the permutations: one file a method."""

from .result import Matching, Sweep
from .weight import weight_matching

__all__ = ["Matching", "Sweep", "weight_matching"]

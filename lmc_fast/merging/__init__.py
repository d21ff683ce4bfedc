"""Models between models, and fine-tunes that are carried over from one to another."""

from .interpolation import interpolate, merge, weighted_sums
from .rebasing import rebase

__all__ = ["interpolate", "merge", "rebase", "weighted_sums"]

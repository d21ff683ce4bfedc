"""Models between models, and fine-tunes that are carried over from one to another."""

from .fisher import fisher_weights
from .interpolation import interpolate, merge, weighted_sums
from .rebasing import rebase

__all__ = ["fisher_weights", "interpolate", "merge", "rebase", "weighted_sums"]

"""Models between models, and fine-tunes that are carried over from one to another."""

from .fisher import fisher_weights
from .interpolation import interpolate, merge, weighted_sums
from .rebasing import rebase
from .zipped import Zipped
from .zipping import ZipResult, zip_models

__all__ = ["ZipResult", "Zipped", "fisher_weights", "interpolate", "merge", "rebase", "weighted_sums", "zip_models"]

"""How far the singular vectors of two weight matrices, one of them permuted, coincide."""

from .op import spectral_overlap
from .polar import PolarOverlap, polar_overlap
from .rational import is_large

__all__ = ["PolarOverlap", "is_large", "polar_overlap", "spectral_overlap"]

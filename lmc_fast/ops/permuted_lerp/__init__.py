"""Weighted sums of permuted tensors: merging and interpolation."""

from .naive import permuted_lerp

__all__ = ["permuted_lerp"]

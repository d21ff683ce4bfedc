"""<a, b gathered on every dimension>, and both squared norms, in float64."""

from .op import Overlap, overlap, overlaps, permuted_dot, permuted_dots

__all__ = ["Overlap", "overlap", "overlaps", "permuted_dot", "permuted_dots"]

"""<a, b gathered on every dimension>, and both squared norms, in float64."""

from .op import Overlap, overlap, permuted_dot

__all__ = ["Overlap", "overlap", "permuted_dot"]

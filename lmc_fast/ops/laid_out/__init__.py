"""Operands of matrix products: gathered and cast in one pass."""

from .op import laid_out

__all__ = ["laid_out"]

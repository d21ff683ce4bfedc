"""Specs of any module, from the graph of its forward pass."""

from .derive import derive_spec

__all__ = ["derive_spec"]

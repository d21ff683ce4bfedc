"""Kinds of groups: what units may do beside changing places."""

from .kind import Kind
from .registry import KINDS

__all__ = ["KINDS", "Kind"]

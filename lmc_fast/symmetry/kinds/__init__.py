"""Kinds of groups: what units may do beside changing places."""

from .kind import Kind
from .learned import Learned
from .registry import KINDS

__all__ = ["KINDS", "Kind", "Learned"]
